"""`corpus.stream(...)`: decoded samples in an order that is a pure function of (seed, epoch, sample IDs)."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.decode_jobs import DecodeJob
from manifests.decoders import Decoder, InlineDecoder, Pending, ProcessDecoder, ThreadDecoder
from manifests.decoding import box_in_window, window_for
from manifests.errors import IntegrityError, UsageError
from manifests.ids import digest_of
from manifests.order import FIRST_FREE, draw_fractions, mixed_order, sample_keys, shuffled
from manifests.pixels import ImageArray, MaskArray
from manifests.query import matching_rows
from manifests.records import Sample
from manifests.ring import SlotShape
from manifests.samples import Example
from manifests.shard_files import LocalShards

if TYPE_CHECKING:
    from manifests.corpus import Corpus

__all__ = ["Batch", "Stream", "open_stream"]

Mode = Literal["threads", "processes"]
Crop = Literal["centre", "random"]
Verify = Literal["first", "always"]
CROP_DRAWS = (FIRST_FREE, FIRST_FREE + 1)  # across, down
# batches that are begun before they are asked for
AHEAD = 2
PLACES = ["id", "role", "width", "height", "box_xyxy", "image", "mask"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Decoded samples. The arrays stay as they are for as long as they, or views of them, are held.

    `images` uint8 BxHxWx3 RGB, `masks` bool BxHxW with True = the subject, `boxes` int32 Bx4 `x0, y0, x1, y1` of the
    subject in pixels of these images, half-open, clipped.
    """

    ids: tuple[str, ...]
    images: ImageArray
    masks: MaskArray
    boxes: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    _corpus: Corpus

    @property
    def samples(self) -> list[Sample]:
        """The records: prompts, words, provenance. Decoded when they are asked for."""
        return self._corpus.records_at(self.rows.tolist())

    def __len__(self) -> int:
        return len(self.ids)


class Stream:
    """The samples of a corpus, epoch after epoch; see `Corpus.stream` for what the arguments mean.

    Iterating gives the rest of the current epoch and then moves on to the next. `state_dict()` says where the stream
    is, `load_state_dict()` goes there: exactly, at any sample, on any number of ranks and workers.
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: npt.NDArray[np.int64],
        *,
        batch_size: int | None,
        size: tuple[int, int] | None,
        seed: int | None,
        rank: int,
        world_size: int,
        workers: int,
        mode: Mode,
        crop: Crop,
        regular_probability: float | None,
        drop_last: bool,
        verify: Verify,
    ) -> None:
        self.epoch = 0
        self.position = 0
        self._corpus = corpus
        self._seed, self._crop, self._verify = seed, crop, verify
        if not isinstance(corpus.shards, LocalShards):
            self._verify = "always"  # every fetch brings bytes that nobody has looked at
        self._batch_size, self._size, self._drop_last = batch_size, size, drop_last
        self._rank, self._world_size = rank, world_size
        self._workers, self._mode = workers, mode
        self._probability = regular_probability
        self._plan = _Plan(corpus, rows)
        self._decoder: Decoder | None = None
        self._owner = os.getpid()  # of the decoder
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._order_of: tuple[int, npt.NDArray[np.int64]] | None = None
        if regular_probability is not None and not len(self._plan.regular):
            raise UsageError("regular_probability is given, and there is no regular picture to choose from.")
        if regular_probability is not None and not len(self._plan.source):
            raise UsageError("regular_probability is given, and there is no photograph to choose from.")

    def _order(self) -> npt.NDArray[np.int64]:
        """Indices into the plan, of the whole current epoch, all ranks."""
        if self._order_of is None or self._order_of[0] != self.epoch:
            self._order_of = (self.epoch, self._make_order())
        return self._order_of[1]

    def _make_order(self) -> npt.NDArray[np.int64]:
        plan = self._plan
        if self._seed is None:
            return np.arange(len(plan.rows))
        if self._probability is None:
            return shuffled(plan.keys, self._seed, self.epoch)
        is_regular, index = mixed_order(
            plan.keys[plan.source], plan.keys[plan.regular], self._seed, self.epoch, self._probability
        )
        order = np.empty(len(index), np.int64)
        order[~is_regular] = plan.source[index[~is_regular]]
        order[is_regular] = plan.regular[index[is_regular]]
        return order

    def ids(self) -> list[str]:
        """The IDs of the whole current epoch in order, of all ranks together."""
        return self._plan.ids(self._order())

    def _mine(self) -> npt.NDArray[np.int64]:
        """What is left of the epoch for this rank: every `world_size`-th place from the stream's position on."""
        order = self._order()[self.position :]
        if self._drop_last and self._batch_size is not None:
            order = order[: len(order) - len(order) % (self._batch_size * self._world_size)]
        return order[self._rank :: self._world_size]

    def __len__(self) -> int:
        """Batches (samples, without a batch size) left in the current epoch on this rank."""
        return -(-len(self._mine()) // (self._batch_size or 1))

    def __iter__(self) -> Iterator[Any]:
        """`Batch`es, or `Example`s where no batch size was given, up to the end of the epoch."""
        mine = self._mine()
        epoch, position, total = self.epoch, self.position, len(self._order())
        step = self._batch_size or 1
        parts: Iterator[Batch | Example] = (
            self._examples(mine)
            if self._batch_size is None
            else self._batches([mine[start : start + step] for start in range(0, len(mine), step)])
        )
        for part in parts:
            position = min(total, position + step * self._world_size)
            # of two loops over one stream, the one that moved last says where the stream is
            self.epoch, self.position = epoch, position
            yield part
            del part
        self.epoch, self.position = epoch + 1, 0

    def _examples(self, mine: npt.NDArray[np.int64]) -> Iterator[Example]:
        for start in range(0, len(mine), 256):
            for sample in self._corpus.records_at(self._plan.rows[mine[start : start + 256]].tolist()):
                yield Example(sample, self._corpus.image(sample), self._corpus.mask(sample))

    def _batches(self, parts: Sequence[npt.NDArray[np.int64]]) -> Iterator[Batch]:
        decoder = self._open_decoder()
        pending: deque[tuple[_Begun, Pending]] = deque()
        waiting = iter(parts)
        epoch = self.epoch
        try:
            while True:
                while len(pending) <= AHEAD and (part := next(waiting, None)) is not None:
                    begun = self._begin(part, epoch)
                    pending.append((begun, decoder.submit(begun.jobs)))
                if not pending:
                    return
                yield self._batch(*pending.popleft())
        except BaseException as error:
            if not isinstance(error, (GeneratorExit, IntegrityError)):
                # a worker was lost, or a wait was broken off whose answer nobody will read: the next iteration gets
                # new workers
                self.close()
                raise
            for _, wait in pending:
                _finish(wait)
            raise

    def _batch(self, begun: _Begun, wait: Pending) -> Batch:
        slot = wait()
        self._plan.verified[begun.part] = True  # not before: a sample that failed is checked again
        count = len(begun.jobs)
        ids = tuple(job.id for job in begun.jobs)
        rows = self._plan.rows[begun.part]
        return Batch(ids, slot.images[:count], slot.masks[:count], begun.boxes, rows, self._corpus)

    def _begin(self, part: npt.NDArray[np.int64], epoch: int) -> _Begun:
        assert self._size is not None
        plan = self._plan
        draws: list[tuple[float, float]] | list[None] = [None] * len(part)
        if self._crop == "random" and self._seed is not None:
            across, down = (draw_fractions(plan.keys[part], self._seed, epoch, which) for which in CROP_DRAWS)
            draws = list(zip(across.tolist(), down.tolist(), strict=True))
        boxes = np.empty((len(part), 4), np.int32)
        jobs = []
        verify = ~plan.verified[part] if self._verify == "first" else np.ones(len(part), np.bool_)
        for place, (row, draw) in enumerate(zip(plan.places(part), draws, strict=True)):
            picture = (row["height"], row["width"])
            window = window_for(picture, self._size, row["box_xyxy"], draw)
            boxes[place] = box_in_window(row["box_xyxy"], window, self._size)
            image, mask = row["image"], row["mask"]
            jobs.append(
                DecodeJob(
                    id=row["id"],
                    shard=image["shard"],
                    image_offset=image["offset"],
                    image_length=image["length"],
                    image_format=image["format"],
                    image_sha256=image["sha256"],
                    mask_offset=mask["offset"],
                    mask_length=mask["length"],
                    mask_sha256=mask["sha256"],
                    height=picture[0],
                    width=picture[1],
                    left=window.left,
                    top=window.top,
                    right=window.right,
                    bottom=window.bottom,
                    verify=bool(verify[place]),
                )
            )
        return _Begun(jobs, boxes, part)

    def _open_decoder(self) -> Decoder:
        if self._decoder is not None and self._owner != os.getpid():
            if self._finalizer is not None:
                self._finalizer.detach()  # after a fork: its threads and pipes are the parent's
            self._decoder = None
        if self._decoder is None:
            assert self._batch_size is not None
            assert self._size is not None
            shape = SlotShape(self._batch_size, self._size)
            shards = self._corpus.shards
            if self._workers == 0:
                self._decoder = InlineDecoder(shards, shape)
            elif self._mode == "threads":
                self._decoder = ThreadDecoder(shards, shape, self._workers)
            elif isinstance(shards, LocalShards):
                self._decoder = ProcessDecoder(self._corpus.root, self._corpus.digest, shape, self._workers)
            else:
                raise UsageError(f"worker processes read local shards: `dataforge pull` {self._corpus.name} first.")
            self._owner = os.getpid()
            self._finalizer = weakref.finalize(self, self._decoder.close)
        return self._decoder

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, as JSON values: samples given out by all ranks together, and what they are drawn from.

        Inside the loop, the batch in hand counts as given out.
        """
        return {"seed": self._seed, "epoch": self.epoch, "position": self.position, "data": self._fingerprint()}

    def _fingerprint(self) -> str:
        return digest_of([self._corpus.digest, self._plan.digest, self._probability])[:16]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where `state_dict()` was taken. Raises `UsageError` E501 where the data or the seed is not the same."""
        for name, ours in (("seed", self._seed), ("data", self._fingerprint())):
            if state.get(name) != ours:
                raise UsageError(
                    f"the stream's state was taken with {name} {state.get(name)!r}, this one has {ours!r}."
                )
        self.seek(state["epoch"], state["position"])

    def seek(self, epoch: int, position: int = 0) -> None:
        """Go to a sample of an epoch, counted over all ranks. Raises `UsageError` E501 for one that there is not."""
        before = self.epoch
        self.epoch = epoch
        if epoch < 0 or not 0 <= position <= len(self._order()):
            self.epoch = before
            raise UsageError(f"there is no place {position} in epoch {epoch}.")
        self.position = position

    def close(self) -> None:
        """End threads or worker processes; the next iteration starts new ones."""
        if self._decoder is not None:
            if self._owner == os.getpid():
                self._decoder.close()
            self._decoder = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Begun:
    """A batch that is being decoded."""

    jobs: list[DecodeJob]
    boxes: npt.NDArray[np.int32]
    part: npt.NDArray[np.int64]


def _finish(wait: Pending) -> None:
    try:
        wait()
    except Exception:  # its error has no reader any more
        return


class _Plan:
    """All that drawing and decoding need of the selected rows, as Arrow columns: some 300 bytes a sample."""

    def __init__(self, corpus: Corpus, rows: npt.NDArray[np.int64]) -> None:
        self.rows = rows
        self._table: pa.Table = corpus.columns(PLACES, rows).combine_chunks()
        self.keys = sample_keys(self.ids(np.arange(len(rows))))
        roles = self._table.column("role")
        self.source = np.flatnonzero(pc.equal(roles, "src").to_numpy())
        self.regular = np.flatnonzero(pc.equal(roles, "reg").to_numpy())
        self.verified = np.zeros(len(rows), np.bool_)
        self.digest = digest_of(self.keys.tolist())

    def ids(self, indices: npt.NDArray[np.int64]) -> list[str]:
        found: list[str] = self._table.column("id").take(pa.array(indices)).to_pylist()
        return found

    def places(self, indices: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """The rows' values."""
        found: list[dict[str, Any]] = self._table.take(pa.array(indices)).to_pylist()
        return found


def open_stream(
    corpus: Corpus,
    *,
    batch_size: int | None,
    size: int | tuple[int, int] | None,
    seed: int | None,
    epoch: int,
    position: int,
    rank: int,
    world_size: int,
    workers: int,
    mode: Mode,
    crop: Crop,
    role: str | None,
    split: str | None,
    where: str,
    regular_probability: float | None,
    drop_last: bool,
    verify: Verify,
) -> Stream:
    """Check the arguments of `Corpus.stream` and choose its rows. Raises `UsageError` E501."""
    for wrong, sentence in (
        ((batch_size is None) != (size is None), "batch_size and size go together: a batch has one size."),
        (batch_size is not None and batch_size < 1, f"batch_size is at least 1, not {batch_size}."),
        (not 0 <= rank < world_size, f"rank is 0 to world_size - 1, not {rank} of {world_size}."),
        (workers < 0, f"workers is 0 (the calling thread) or more, not {workers}."),
        (mode not in ("threads", "processes"), f"mode is threads or processes, not {mode!r}."),
        (crop not in ("centre", "random"), f"crop is centre or random, not {crop!r}."),
        (verify not in ("first", "always"), f"verify is first or always, not {verify!r}."),
        (seed is None and (regular_probability is not None or crop == "random"), "what is drawn needs a seed."),
        (regular_probability is not None and not 0 <= regular_probability < 1, "regular_probability is in [0, 1)."),
    ):
        if wrong:
            raise UsageError(sentence)
    shape = (size, size) if isinstance(size, int) else size
    if shape is not None and min(shape) < 1:
        raise UsageError(f"size is (height, width) in pixels, not {size}.")
    rows = corpus.select_rows(role=role, split=split)
    if where.strip():
        rows = np.intersect1d(rows, matching_rows(corpus, where), assume_unique=True)
    stream = Stream(
        corpus,
        rows,
        batch_size=batch_size,
        size=shape,
        seed=seed,
        rank=rank,
        world_size=world_size,
        workers=workers,
        mode=mode,
        crop=crop,
        regular_probability=regular_probability,
        drop_last=drop_last,
        verify=verify,
    )
    stream.seek(epoch, position)
    return stream
