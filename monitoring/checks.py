"""What monitoring decides: one check is a value, what is allowed, and what to do when it is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Check:
    """One figure held against its limit; failed ones are the alarms."""

    name: str
    title: str
    value: float | str | None
    rule: str
    threshold: float | str | None
    passed: bool
    what_to_do: str

    @property
    def shown(self) -> str:
        """The value as people read it."""
        return _spell(self.value)

    @property
    def allowed(self) -> str:
        """The rule as people read it."""
        return self.rule if self.threshold is None else f"{self.rule} {_spell(self.threshold)}"

    @property
    def alarm(self) -> dict[str, Any]:
        """The check as an alarm in `monitoring.json`."""
        return {
            "name": self.name,
            "value": self.value,
            "threshold": self.threshold,
            "what_to_do": self.what_to_do,
        }


def at_most(name: str, title: str, value: float, limit: float, what_to_do: str) -> Check:
    """A check that fails above `limit`; a value that is not a number fails."""
    return Check(name, title, _plain(value), "at most", limit, bool(value <= limit), what_to_do)


def at_least(name: str, title: str, value: float, limit: float, what_to_do: str) -> Check:
    """A check that fails below `limit`; a value that is not a number fails."""
    return Check(name, title, _plain(value), "at least", limit, bool(value >= limit), what_to_do)


def equal(name: str, title: str, value: str, expected: str, what_to_do: str) -> Check:
    """A check that two identifiers are the same."""
    return Check(name, title, value, "equal to", expected, value == expected, what_to_do)


def missing(name: str, title: str, what_to_do: str) -> Check:
    """A failed check of something that is not there."""
    return Check(name, title, None, "there", None, False, what_to_do)


def alarms(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The failed checks, in their order."""
    return [check.alarm for check in checks if not check.passed]


def _plain(value: float) -> float | None:
    """A JSON number; None where there is none."""
    return float(value) if np.isfinite(value) else None


def _spell(value: float | str | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:.4g}"
