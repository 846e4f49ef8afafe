"""Waiting before another try: exponential backoff with full jitter, until a deadline."""

import random
import time
from collections.abc import Iterator

FIRST_SECONDS = 0.02
LONGEST_SECONDS = 2.0


def tries(seconds: float) -> Iterator[int]:
    """Numbers of tries, from 0; sleeps before every further one and ends when the next would come after `seconds`."""
    ends = time.monotonic() + seconds
    for number in range(1 << 30):
        yield number
        pause = random.uniform(0, min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(number, 10)))
        if time.monotonic() + pause >= ends:
            return
        time.sleep(pause)
