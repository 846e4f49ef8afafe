"""Which arm a member is in: a salted hash of the member's id, so nobody has to remember anything.

Equal ids get equal arms on every machine and every day; another salt is another, independent split; and raising the
treatment fraction only ever moves members from control to treatment.
"""

import hashlib
from typing import Any

import numpy as np

from limaml.config import Experiment

CONTROL = "control"
TREATMENT = "treatment"
ARMS = (CONTROL, TREATMENT)


def uniform(members: Any, salt: str) -> np.ndarray:
    """A number in [0, 1) per member, from BLAKE2b of salt and id.

    Args:
        members: [N] ids, integers or strings; 42 and "42" are the same member.
        salt: names the experiment.

    Returns:
        [N] float64, multiples of 2⁻⁵³.
    """
    ids, positions = np.unique(np.asarray(members), return_inverse=True)
    # The length in front keeps (salt "a1", member 2) and (salt "a", member 12) apart.
    prefix = hashlib.blake2b(f"{len(salt)}:{salt}:".encode(), digest_size=8)
    digests = bytearray()
    for member in ids.tolist():
        digest = prefix.copy()
        digest.update(str(member).encode())
        digests += digest.digest()
    draws = (np.frombuffer(bytes(digests), dtype=">u8") >> np.uint64(11)) * 2.0**-53
    return draws[positions]


def in_treatment(members: Any, experiment: Experiment) -> np.ndarray:
    """Whether each member is in the treatment arm: [N] ids → [N] bool."""
    return uniform(members, experiment.salt) < experiment.treatment_fraction
