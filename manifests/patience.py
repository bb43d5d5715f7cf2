"""Asking a server again while it is busy, and what its errors mean in our words.

The clients wait inside their calls too, for as long as a server tells them to. So each call is made in a thread that
nobody has to wait for: a signal ends the wait at once, wherever the client is.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from manifests.errors import (
    EnvironmentFault,
    NotFoundError,
    OutputLocked,
    ReportedError,
    UsageError,
    printable,
    redact,
)
from manifests.fsops import DISK_ERRNOS

__all__ = ["fault_of", "give_up_on", "patiently"]

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")
# for how many seconds it is tried again: a server that asks for patience (429), one that fails (5xx), and one that
# cannot be reached, which is more often the name or the network; none for what is refused
ASKED_FOR_PATIENCE, SERVER_FAILS, UNREACHABLE, REFUSED = 1800.0, 300.0, 60.0, 0.0
LONGEST_WAIT_S = 60.0
# how soon a thread sees that it is given up on
SLICE_S = 0.1
MISSING = ("RepoNotFound", "RevisionNotFound", "EntryNotFound")
_this_thread = threading.local()


def give_up_on(event: threading.Event) -> None:
    """Let every wait of this thread end with `EnvironmentFault` E511 as soon as the event is set.

    The initializer of a pool: when whoever started it leaves, its threads need not be waited for.
    """
    _this_thread.given_up = event


def patiently(call: Callable[[], ResultT], what: str) -> ResultT:
    """The call's result, asked for again while a server is busy, fails or cannot be reached.

    For 30 minutes, 5 minutes and 1 minute, or as long as `DATAFORGE_PATIENCE_S` says; what is refused (401, 403, 404,
    412, 413, 422) ends it at once, and so does a signal. Raises the `ReportedError` that says what happened.
    """
    started = time.monotonic()
    limit = _limit()
    pause = 1.0
    while True:
        try:
            return _result_of(call, what)
        except Exception as error:
            found = fault_of(error, what)
            if found is None:
                raise
            fault, patience = found
            if patience and limit is not None:
                patience = limit
            asked = _header(error, "retry-after")
            # a server that says when is believed; else each wait is twice the last, and no two clients wait alike
            seconds = float(asked) if asked.isdecimal() else min(LONGEST_WAIT_S, pause)
            seconds += random.random() * min(1.0, 0.1 + seconds)
            if fault is error:
                raise
            if not patience or time.monotonic() - started + seconds > patience:
                raise fault from error
        logger.warning("%s Asked again in %.0f s.", printable(redact(fault.detail)), seconds)
        _pause(seconds, what)
        pause *= 2


def _limit() -> float | None:
    text = os.environ.get("DATAFORGE_PATIENCE_S")
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise UsageError(f"DATAFORGE_PATIENCE_S is {text!r}; it is a number of seconds.") from error


def _result_of(call: Callable[[], ResultT], what: str) -> ResultT:
    future: Future[ResultT] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="ask").start()
    while not wait([future], SLICE_S).done:
        _pause(0, what)
    return future.result()


def _pause(seconds: float, what: str) -> None:
    given_up: threading.Event | None = getattr(_this_thread, "given_up", None)
    if given_up is None:
        time.sleep(seconds)
    elif given_up.wait(seconds):
        raise EnvironmentFault(f"{what}: not waited for any longer.", code="E511")


def fault_of(error: BaseException, what: str) -> tuple[ReportedError, float] | None:
    """What an error of a client means, in our words, and for how many seconds to try again; None for a bug.

    Known by status code and by kind, never by the text, which a server may have written. Clients wrap errors in errors:
    the first of the chain that says something is taken.
    """
    each: BaseException | None = error
    while each is not None:
        found = _known(each, what)
        if found is not None:
            return found
        each = each.__cause__
    return None


def _known(error: BaseException, what: str) -> tuple[ReportedError, float] | None:
    if isinstance(error, ReportedError):
        return error, REFUSED
    status = _status(error)
    # the Hub answers 401 for what is not there as for what one may not see, and says which by a code
    if isinstance(error, FileNotFoundError) or status == 404 or _header(error, "x-error-code") in MISSING:
        return NotFoundError(f"{what} is not there, or not for this token.", code="E503"), REFUSED
    if status == 412:
        return OutputLocked(f"{what}.", code="E521"), REFUSED
    if isinstance(error, PermissionError) or status in (401, 403):
        return UsageError(f"{what}: no access{f' (HTTP {status})' if status else ''}.", code="E507"), REFUSED
    if status == 429 or (status is not None and status >= 500):
        patience = ASKED_FOR_PATIENCE if status == 429 else SERVER_FAILS
        return EnvironmentFault(f"{what}: the server answers HTTP {status}.", code="E513"), patience
    said = str(error).strip().splitlines()[:1]
    text = f"{what}: {said[0][:200] if said else type(error).__name__}"
    if status is not None and 400 <= status < 500:
        return UsageError(f"{text.rstrip('.')}.", code="E507"), REFUSED
    if type(error).__name__ in ("UnsupportedProtocol", "InvalidURL"):  # the address is wrong, and will stay so
        return UsageError(f"{text.rstrip('.')} (is HF_ENDPOINT right?).", code="E507"), REFUSED
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS and error.filename is not None:
        return None
    module = type(error).__module__.partition(".")[0]
    if isinstance(error, (OSError, TimeoutError)) or module in ("httpx", "httpx2", "aiohttp", "botocore"):
        return EnvironmentFault(f"{text.rstrip('.')}.", code="E513"), UNREACHABLE
    return None


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if response is None and error.__cause__ is not None:  # s3fs says it in words, botocore below it in numbers
        response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        value = getattr(response, "status_code", None)
    return value if isinstance(value, int) else None


def _header(error: BaseException, name: str) -> str:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return str(headers.get(name, ""))
