"""`limaml doctor`: whether everything an application needs is there, each check with what to do about it.

Checks run side by side, each with a deadline: one that hangs fails, and holds up nothing.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from limaml.config import Application
from limaml.errors import KubeflowError, LimamlError

log = logging.getLogger(__name__)

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What a check found, and what to do about it; nothing to do where it is ok."""

    state: State
    found: str
    do: str = ""


@dataclass(frozen=True)
class Check:
    """One question with a name."""

    name: str
    ask: Callable[[], Outcome]
    do: str = ""
    """What to do where the question itself ends in an error that does not say so."""


def run(checks: list[Check], seconds: float) -> list[dict[str, Any]]:
    """Ask all checks at once: rows of name, state, found, do and seconds, in their order."""
    answers: queue.Queue[tuple[str, Outcome, float]] = queue.Queue()

    def ask(check: Check) -> None:
        start = time.monotonic()
        answers.put((check.name, _answer(check), time.monotonic() - start))

    for check in checks:
        # Daemons, since one that hangs must not keep the command from ending.
        threading.Thread(target=ask, args=(check,), daemon=True).start()
    ends, found = time.monotonic() + seconds, {}
    while len(found) < len(checks) and (left := ends - time.monotonic()) > 0:
        try:
            name, outcome, took = answers.get(timeout=left)
        except queue.Empty:
            break
        found[name] = (outcome, took)
        log.debug("%s: %s", name, outcome)
    late = Outcome("failed", f"no answer within {seconds:.0f} s", "check network policies and VPN; --timeout")
    rows = []
    for check in checks:
        outcome, took = found.get(check.name, (late, seconds))
        rows.append({"check": check.name, **asdict(outcome), "seconds": round(took, 2)})
    return rows


def _answer(check: Check) -> Outcome:
    try:
        return check.ask()
    except KubeflowError as error:
        what, _, do = str(error).rpartition("; ")
        return Outcome("failed", what, do)
    except LimamlError as error:
        return Outcome("failed", " ".join(str(error).split()), check.do or "correct what it names")
    except Exception as error:
        log.debug("check %s", check.name, exc_info=True)
        return Outcome("failed", f"{type(error).__name__}: {error}", "this check itself failed: please report it")


@contextmanager
def as_in_a_pod(application: Application | None) -> Iterator[None]:
    """The variables that the application's steps would have, where this process has none of its own."""
    wanted = application.cluster.environment if application else {}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
