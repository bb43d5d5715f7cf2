"""A decoding worker: reads chunks of jobs as JSON lines, decodes into shared memory, answers with a line per chunk.

Run as `python -m manifests.decode_worker`; it ends when its input ends, so a killed trainer leaves no worker behind.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import traceback
from pathlib import Path

import numpy as np

from manifests.decode_jobs import DecodeJob, JobDecoder
from manifests.errors import ReportedError
from manifests.header import read_header
from manifests.ring import Slot, SlotShape
from manifests.shard_files import LocalShards

__all__ = ["main"]


def main() -> None:
    """Serve chunks until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle
    # answers go to the pipe alone: a library that prints must not talk into the protocol
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines = iter(sys.stdin.buffer)
    told = json.loads(next(lines))
    opened = read_header(Path(told["root"]))
    decoder = JobDecoder(LocalShards(Path(told["root"]), opened.header, told["digest"]))
    shape = SlotShape(told["batch_size"], (told["size"][0], told["size"][1]))
    slots: dict[int, Slot] = {}
    for line in lines:
        chunk = json.loads(line)
        answer = {"batch": chunk["batch"]}
        try:
            number = chunk["slot"]
            if number not in slots:
                memory = mmap.mmap(told["descriptor"], shape.bytes, offset=number * shape.bytes)
                slots[number] = Slot(number, np.frombuffer(memory, np.uint8), shape)
            for place, values in enumerate(chunk["jobs"], start=chunk["first"]):
                decoder.decode(DecodeJob(*values), slots[number].images[place], slots[number].masks[place])
        except ReportedError as error:
            answer |= {"code": error.code, "detail": error.detail}
        except Exception:
            answer |= {"bug": traceback.format_exc()}
        try:
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()
