"""A request to end this process, as an exception in it: what it launched must not outlive it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ToldToEnd(BaseException):
    """This process was sent SIGTERM or SIGINT."""


@contextmanager
def until_told_to_end() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT raise `ToldToEnd` in it; only the main thread can be told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        raise ToldToEnd

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
