"""Which test and which arm a member is in: salted hashes of the member's id, so nobody has to remember anything.

Equal ids get equal answers on every machine and every day. A layer's salt gives every member a place in it, and so the
one test of the layer they can be in; another salt, independent of it, splits a test's members into arms. So raising a
test's ramp lets members in and moves nobody between arms, and raising its treatment fraction only ever moves members
from control to treatment.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from limaml.config import Experiment
from limaml.online_sections import Served, Trial

CONTROL = "control"
TREATMENT = "treatment"
ARMS = (CONTROL, TREATMENT)

# Sets a layer's hash apart from that of any salt.
_LAYER = b"layer"


@dataclass(frozen=True)
class Assigned:
    """What scores a member, and in which arm of which test; both names are empty where the member is in none."""

    served: Served
    experiment: str = ""
    variant: str = ""


class Assigner:
    """The assignment of one member at a time, for a service; microseconds a member."""

    def __init__(self, experiment: Experiment) -> None:
        self._outside = Assigned(experiment.otherwise)
        self._tests = [
            (
                _hasher(trial.layer, _LAYER),
                trial.slots[0],
                _end(trial),
                _hasher(trial.salt),
                trial.treatment_fraction,
                Assigned(trial.treatment, trial.name, TREATMENT),
                Assigned(trial.control, trial.name, CONTROL),
            )
            for trial in experiment.trials
        ]

    def arm(self, member: int | str) -> Assigned:
        """The arm of a member; 42 and "42" are the same one."""
        text = str(member).encode()
        for layer, start, end, salt, fraction, treatment, control in self._tests:
            if start <= _draw(layer, text) < end:
                return treatment if _draw(salt, text) < fraction else control
        return self._outside


def uniform(members: Any, salt: str, purpose: bytes = b"") -> np.ndarray:
    """A number in [0, 1) per member, from BLAKE2b of salt and id.

    Args:
        members: [N] ids, integers or strings; 42 and "42" are the same member.
        salt: names the experiment.
        purpose: other purposes give other numbers for the same salt.

    Returns:
        [N] float64, multiples of 2⁻⁵³.
    """
    ids, positions = np.unique(np.asarray(members), return_inverse=True)
    hasher = _hasher(salt, purpose)
    return np.array([_draw(hasher, str(member).encode()) for member in ids.tolist()], np.float64)[positions]


def in_treatment(members: Any, trial: Trial) -> np.ndarray:
    """Whether each member of a test is in its treatment arm: [N] ids → [N] bool."""
    return uniform(members, trial.salt) < trial.treatment_fraction


def takes_part(members: Any, trial: Trial) -> np.ndarray:
    """Whether each member is in a test, as far as its layer decides: [N] ids → [N] bool."""
    place = uniform(members, trial.layer, _LAYER)
    return (trial.slots[0] <= place) & (place < _end(trial))


def _end(trial: Trial) -> float:
    """Where in the layer a test ends by now: those at the front of its slots are let in first."""
    start, end = trial.slots
    return end if trial.ramp == 1 else start + trial.ramp * (end - start)


def _hasher(salt: str, purpose: bytes = b"") -> Any:
    # The length in front keeps (salt "a1", member 2) and (salt "a", member 12) apart.
    return hashlib.blake2b(f"{len(salt)}:{salt}:".encode(), digest_size=8, person=purpose)


def _draw(hasher: Any, member: bytes) -> float:
    digest = hasher.copy()
    digest.update(member)
    return (int.from_bytes(digest.digest(), "big") >> 11) * 2.0**-53
