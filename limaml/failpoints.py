"""Places where a test may end the process, as a power cut would: nothing after them happens, nothing is cleaned up.

A failpoint does nothing unless the environment variable LIMAML_FAILPOINT names it: `name` kills at its first passing,
`name:3` at its third. Where the variable holds any other name, passings are only counted.
"""

import os
import signal
from collections import Counter

VARIABLE = "LIMAML_FAILPOINT"

passed: Counter[str] = Counter()  # passings of each failpoint in this process, while the variable is set


def failpoint(name: str) -> None:
    """A named place between two steps that must survive being torn apart."""
    armed = os.environ.get(VARIABLE)
    if armed is None:
        return
    passed[name] += 1
    wanted, _, passing = armed.partition(":")
    if wanted == name and passed[name] == int(passing or 1):
        os.kill(os.getpid(), signal.SIGKILL)
