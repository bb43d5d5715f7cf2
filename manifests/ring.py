"""Memory for decoded batches that is used again and again, and never under the hands of someone who still holds it."""

from __future__ import annotations

import mmap
import os
import sys

import numpy as np
import numpy.typing as npt

from manifests.pixels import ImageArray, MaskArray

__all__ = ["Ring", "Slot", "SlotShape"]


class SlotShape:
    """How a slot is laid out: pixels of `batch_size` pictures of (height, width), then their masks; whole pages."""

    def __init__(self, batch_size: int, size: tuple[int, int]) -> None:
        self.batch_size, self.size = batch_size, size
        self.mask_start = batch_size * size[0] * size[1] * 3
        self.bytes = -(-self.mask_start * 4 // 3 // mmap.PAGESIZE) * mmap.PAGESIZE

    def images(self, memory: npt.NDArray[np.uint8]) -> ImageArray:
        """uint8 BxHxWx3 view of a slot's memory."""
        return memory[: self.mask_start].reshape(self.batch_size, *self.size, 3)

    def masks(self, memory: npt.NDArray[np.uint8]) -> MaskArray:
        """bool BxHxW view of a slot's memory."""
        end = self.mask_start + self.mask_start // 3
        return memory[self.mask_start : end].view(np.bool_).reshape(self.batch_size, *self.size)


class Slot:
    """Room for one batch. Whoever holds one of its arrays, or a view of one, holds a reference to `memory`."""

    def __init__(self, number: int, memory: npt.NDArray[np.uint8], shape: SlotShape) -> None:
        self.number = number
        self.memory = memory
        self.images, self.masks = shape.images(memory), shape.masks(memory)

    @property
    def references(self) -> int:
        """How many references to the memory there are; every view that numpy makes of it holds one."""
        return sys.getrefcount(self.memory)


class Ring:
    """Slots that grow in number only while batches are kept. `shared`: other processes can map them by `descriptor`.

    Shared memory is a file without a name (memfd), so that nothing is left behind however the processes end.
    """

    def __init__(self, shape: SlotShape, *, shared: bool = False) -> None:
        self._shape = shape
        self._slots: list[Slot] = []
        self._busy: set[int] = set()
        self._unheld = 0
        self.descriptor = os.memfd_create("batches", os.MFD_CLOEXEC) if shared else None

    def take(self) -> Slot:
        """A slot that nobody holds; it is the taker's until it is given back."""
        free = (slot for slot in self._slots if slot.number not in self._busy and slot.references == self._unheld)
        slot = next(free, None)
        if slot is None:
            number = len(self._slots)
            slot = Slot(number, self._allocate(number), self._shape)
            self._slots.append(slot)
            self._unheld = slot.references  # the same for each, as nobody else has seen it yet
        self._busy.add(slot.number)
        return slot

    def give_back(self, slot: Slot) -> None:
        """From now on the slot is free as soon as no array of it is held."""
        self._busy.discard(slot.number)

    def _allocate(self, number: int) -> npt.NDArray[np.uint8]:
        if self.descriptor is None:
            return np.empty(self._shape.bytes, np.uint8)
        os.ftruncate(self.descriptor, (number + 1) * self._shape.bytes)
        mapped = mmap.mmap(self.descriptor, self._shape.bytes, offset=number * self._shape.bytes)
        return np.frombuffer(mapped, np.uint8)

    def __len__(self) -> int:
        return len(self._slots)

    def close(self) -> None:
        """Close the shared memory; arrays that are still held stay whole."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
