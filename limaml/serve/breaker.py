"""A circuit breaker around the online store: a store that fails is left alone for a while, then tried once."""

import time
from collections.abc import Callable


class Breaker:
    """Opens after `failures` failed reads in a row; then one read every `seconds` may try, and a good one closes it."""

    def __init__(self, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    @property
    def open(self) -> bool:
        """Whether the store is left alone."""
        return self._failures >= self._limit

    def allows(self) -> bool:
        """Whether this request may read the store; the one that tries an open breaker holds back those after it."""
        if not self.open:
            return True
        if self._clock() < self._next_try:
            return False
        self._next_try = self._clock() + self._seconds
        return True

    def succeeded(self) -> None:
        """A read went well."""
        self._failures = 0

    def failed(self) -> None:
        """A read failed."""
        self._failures += 1
        self._next_try = self._clock() + self._seconds
