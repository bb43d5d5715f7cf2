"""Who decodes the batches of a stream: the calling thread, threads beside it, or worker processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

from manifests.decode_jobs import DecodeJob, JobDecoder
from manifests.errors import EnvironmentFault, IntegrityError
from manifests.patience import give_up_on
from manifests.ring import Ring, Slot, SlotShape
from manifests.shards import ShardBytes

__all__ = ["Decoder", "InlineDecoder", "ProcessDecoder", "ThreadDecoder"]

# waits for the batch and gives the slot it lies in; raises what decoding raised
Pending = Callable[[], Slot]


class Decoder(Protocol):
    """Decodes batches in the order they are submitted."""

    ring: Ring

    def submit(self, jobs: Sequence[DecodeJob]) -> Pending:
        """Begin a batch of at most the ring's batch size. Every pending batch has to be waited for, in any order."""
        ...

    def close(self) -> None:
        """End threads or processes; batches not waited for are lost."""
        ...


def _decode(decoder: JobDecoder, jobs: Sequence[DecodeJob], slot: Slot, first: int) -> None:
    for place, job in enumerate(jobs, start=first):
        decoder.decode(job, slot.images[place], slot.masks[place])


def _chunks(jobs: Sequence[DecodeJob], parts: int) -> list[tuple[int, Sequence[DecodeJob]]]:
    """Nearly equal runs of the jobs, with the place of the first; none is empty."""
    bounds = [len(jobs) * part // parts for part in range(parts + 1)]
    return [(start, jobs[start:stop]) for start, stop in pairwise(bounds) if stop > start]


class InlineDecoder:
    """Decodes in the thread that waits for the batch."""

    def __init__(self, shards: ShardBytes, shape: SlotShape) -> None:
        self.ring = Ring(shape)
        self._decoder = JobDecoder(shards)

    def submit(self, jobs: Sequence[DecodeJob]) -> Pending:
        """The work is done when it is waited for."""

        def wait() -> Slot:
            slot = self.ring.take()
            try:
                _decode(self._decoder, jobs, slot, 0)
            finally:
                self.ring.give_back(slot)
            return slot

        return wait

    def close(self) -> None:
        """Give the memory back."""
        self.ring.close()


class ThreadDecoder:
    """Decodes in threads: the decoders release the GIL and write straight into the batch, so nothing is moved."""

    # small enough that threads end a batch together, large enough that handing out costs nothing
    CHUNK = 4

    def __init__(self, shards: ShardBytes, shape: SlotShape, workers: int) -> None:
        self.ring = Ring(shape)
        self._decoder = JobDecoder(shards)
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(
            workers, thread_name_prefix="decode", initializer=give_up_on, initargs=(self._closed,)
        )

    def submit(self, jobs: Sequence[DecodeJob]) -> Pending:
        """Hand out the batch in chunks."""
        slot = self.ring.take()
        futures: list[Future[None]] = [
            self._pool.submit(_decode, self._decoder, chunk, slot, first)
            for first, chunk in _chunks(jobs, -(-len(jobs) // self.CHUNK))
        ]

        def wait() -> Slot:
            # all of them, whatever one raises: nobody may write to a slot that is given back
            errors = [error for future in futures if (error := future.exception()) is not None]
            self.ring.give_back(slot)
            if errors:
                raise errors[0]
            return slot

        return wait

    def close(self) -> None:
        """End the threads, those too that wait for a server."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.ring.close()


class ProcessDecoder:
    """Decodes in worker processes that write into memory shared with this one: no pixel goes through a pipe.

    For training loops that keep the interpreter busy. The workers are plain subprocesses, so the caller needs no
    `if __name__ == "__main__"` and may hold threads, locks and devices; they end with this process, however it ends.
    """

    def __init__(self, root: Path, digest: str, shape: SlotShape, workers: int) -> None:
        self.ring = Ring(shape, shared=True)
        told = {
            "root": str(root.absolute()),
            "digest": digest,
            "batch_size": shape.batch_size,
            "size": list(shape.size),
            "descriptor": self.ring.descriptor,
        }
        self._batches = itertools.count()
        self._workers = [self._start(told) for _ in range(workers)]
        # by process and batch: answers that came before those that were waited for
        self._early: dict[tuple[int, int], dict[str, Any]] = {}

    def _start(self, told: dict[str, object]) -> subprocess.Popen[bytes]:
        assert self.ring.descriptor is not None
        worker = subprocess.Popen(
            [sys.executable, "-m", "manifests.decode_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self.ring.descriptor],
        )
        self._tell(worker, told, [])
        return worker

    @property
    def process_ids(self) -> list[int]:
        """The workers' process IDs."""
        return [worker.pid for worker in self._workers]

    def submit(self, jobs: Sequence[DecodeJob]) -> Pending:
        """Send each worker its chunk. Answers carry the batch's number: two loops may wait for theirs in turn."""
        slot = self.ring.take()
        batch = next(self._batches)
        sent = []
        for worker, (first, chunk) in zip(self._workers, _chunks(jobs, len(self._workers)), strict=False):
            self._tell(worker, {"batch": batch, "slot": slot.number, "first": first, "jobs": chunk}, chunk)
            sent.append((worker, chunk))

        def wait() -> Slot:
            answers = [self._answer(worker, batch, chunk) for worker, chunk in sent]
            self.ring.give_back(slot)
            for answer in answers:
                if "bug" in answer:
                    raise RuntimeError(f"in a decoding worker:\n{answer['bug']}")
                if "code" in answer:
                    raise IntegrityError(answer["detail"], code=answer["code"])
            return slot

        return wait

    def _tell(self, worker: subprocess.Popen[bytes], value: object, chunk: Sequence[DecodeJob]) -> None:
        pipe: IO[bytes] | None = worker.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(value).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            self._lost(worker, chunk)

    def _answer(self, worker: subprocess.Popen[bytes], batch: int, chunk: Sequence[DecodeJob]) -> dict[str, Any]:
        pipe: IO[bytes] | None = worker.stdout
        assert pipe is not None
        while (worker.pid, batch) not in self._early:
            line = b"" if pipe.closed else pipe.readline()
            if not line.endswith(b"\n"):
                self._lost(worker, chunk)
            answer: dict[str, Any] = json.loads(line)
            self._early[worker.pid, answer["batch"]] = answer
        return self._early.pop((worker.pid, batch))

    def _lost(self, worker: subprocess.Popen[bytes], chunk: Sequence[DecodeJob]) -> NoReturn:
        """A dead worker ends the stream with an error, at once; it never hangs."""
        status = worker.wait()
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        which = f" with {chunk[0].id} to {chunk[-1].id} in hand" if chunk else ""
        raise EnvironmentFault(f"a decoding worker ended with {how}{which}.", code="E511")

    def close(self) -> None:
        """End the workers: their input ends, and one that is stuck is killed."""
        for worker in self._workers:
            for pipe in (worker.stdin, worker.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        for worker in self._workers:
            try:
                worker.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.ring.close()
