"""Small logs with a signal planted at one granularity, as the advisor's sample."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from limaml.config import Application, parse_application
from limaml.training.advisor_candidates import Candidate
from limaml.training.advisor_sample import Sample

MEMBERS, TYPES, DAYS, ROWS = 300, 3, 12, 12_000
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
# (generator, member, type, item feature) → what is added to the logit
Planted = Callable[[np.random.Generator, Integers, Integers, Floats], Floats]

MEMBER = Candidate(("member_id",), "member_id")
MEMBER_TYPE = Candidate(("member_id", "type"), "member_id")
ITEM = Candidate(("item_id",), "item_id")


def nothing(rng: np.random.Generator, member: Integers, kind: Integers, item: Floats) -> Floats:
    """Features explain everything."""
    return np.zeros(len(member))


def per_member(rng: np.random.Generator, member: Integers, kind: Integers, item: Floats) -> Floats:
    """A member's own base rate."""
    return rng.normal(0, 1.0, MEMBERS)[member]


def per_member_and_type(rng: np.random.Generator, member: Integers, kind: Integers, item: Floats) -> Floats:
    """What a member thinks of a type; over the types it cancels, so the member alone shows nothing of it."""
    affinity = rng.normal(0, 1.2, (MEMBERS, TYPES))
    return (affinity - affinity.mean(axis=1, keepdims=True))[member, kind]


def taste(rng: np.random.Generator, member: Integers, kind: Integers, item: Floats) -> Floats:
    """A member's own slope over an item feature, without any base rate."""
    return rng.normal(0, 1.0, MEMBERS)[member] * item


def planted_application() -> Application:
    return parse_application(
        {
            "name": "planted",
            "title": "Planted",
            "task": {"keys": ["member_id"]},
            "features": {
                "meta": ["member_x"],
                "other": ["item_x", "item_y", {"name": "type", "kind": "categorical", "vocabulary": 8}],
            },
        },
        "tests",
    )


def planted_columns(seed: int, planted: Planted) -> dict[str, np.ndarray]:
    """Raw columns, oldest first; `day` counts from 0."""
    rng = np.random.default_rng(seed)
    member = rng.integers(0, MEMBERS, ROWS)
    kind = rng.integers(0, TYPES, ROWS)
    item = rng.integers(0, 400, ROWS)
    member_x = rng.normal(size=MEMBERS)[member]
    item_x, item_y = rng.normal(size=(2, 400))[:, item]
    logit = -0.4 + 0.5 * member_x + 0.5 * item_x + rng.normal(0, 0.5, TYPES)[kind] + planted(rng, member, kind, item_x)
    label = (rng.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    day = np.sort(rng.integers(0, DAYS, ROWS))
    columns = {"day": day, "label": label, "member_id": member, "item_id": item, "type": kind}
    return columns | {"member_x": member_x, "item_x": item_x, "item_y": item_y}


def planted_sample(seed: int, planted: Planted) -> Sample:
    columns = planted_columns(seed, planted)
    keys = {name: columns[name].astype(np.uint64) for name in ("member_id", "item_id", "type")}
    everything = np.ones(ROWS, bool)
    return Sample(
        day=columns["day"],
        label=columns["label"].astype(np.float64),
        numeric=np.column_stack([columns[name] for name in ("member_x", "item_x", "item_y")]).astype(np.float32),
        codes=columns["type"][:, None] + 1,
        keys=keys,
        kept={"member_id": everything, "item_id": everything},
        null_share=dict.fromkeys(keys, 0.0),
        fraction=1.0,
        skipped=0,
    )
