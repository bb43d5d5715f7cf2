"""A CPU deadline for one item, which holds even inside a decoder that never comes back to Python."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["allow_deadlines", "item_deadline"]

_may_end_this_process = False


def allow_deadlines() -> None:
    """Say that this process is a worker whose end harms nobody."""
    global _may_end_this_process
    _may_end_this_process = True


@contextlib.contextmanager
def item_deadline(cpu_s: int) -> Iterator[None]:
    """End this worker when one item uses more CPU seconds than this; no effect outside a worker.

    The signal's default action ends the process even inside a decoder's loop, where a Python handler would wait.
    """
    if not _may_end_this_process:
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
