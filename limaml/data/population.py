"""Who lives in the simulated world: members and items, what they show of themselves, and what makes a click.

Everything here is fixed by the seed. N members, I items, L latent tastes, K notification types; arrays are float32
unless said otherwise. The numbers below are tuned so that, on two weeks of a few thousand members, the best possible
AUC is near 0.80, a model that sees only features reaches about 0.70, a personal intercept adds little, and most of
what is left is the taste: ten to sixty recent samples of a member teach a good part of it.
"""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Kind = Literal["notifications", "invitations"]

MEMBER_FEATURES = 8
ITEM_FEATURES = 12
TASTES = 4
TYPES = ("comment", "mention", "job_alert", "connection_post", "network_digest", "birthday")
DAY_US = 86_400_000_000

# Tastes: a lasting part, of which features tell a share, and a part that wanders (Ornstein-Uhlenbeck).
WANDERING_SHARE = 0.25
WANDERING_DAYS = 20.0
MEMBER_REVEALED = 0.40  # share of the lasting taste's variance that member features explain: 0.30 of all of it
ITEM_REVEALED = {"notifications": 0.90, "invitations": 0.55}

# Standard deviations of the parts of the logit.
INTERCEPT = -1.2
TASTE = 1.25
POPULARITY = 0.50
MEMBER_PART = 0.45
BASE_RATE = 0.25
TYPE = 0.25
AFFINITY = 0.30
HOUR = 0.20
HIDDEN_ITEM = {"notifications": 0.0, "invitations": 0.45}

# Activity: requests a day, log-normal. Visits follow it, loosely.
REQUESTS_A_DAY = 1.1
ACTIVITY_SPREAD = 1.1
VISIT_LOGIT = -2.2
VISIT_SPREAD = 1.4
# Quiet members get few requests and seldom come: where the dormant cohort and the tasks of one to three samples are.
QUIET_SHARE = 0.2
QUIET_ACTIVITY = 0.12
QUIET_VISIT_LOGIT = -2.5

# Sign-ups: the younger, the more; none later than this many days after the first interaction.
LAST_SIGNUP_DAY = 60
SIGNUP_MEAN_AGE = 240.0


class Purpose(IntEnum):
    """What random numbers are drawn for; each purpose has its own stream."""

    RULES = 0
    MEMBERS = 1
    ITEMS = 2
    DRIFT = 3
    REQUESTS = 4
    VISITS = 5
    WANDERING = 6


def generator(seed: int, purpose: Purpose, day: int = 0, chunk: int = 0) -> np.random.Generator:
    """The stream of (seed, purpose, day, chunk): what is drawn in one never depends on what was drawn in another."""
    return np.random.default_rng([seed, purpose, day, chunk])


@dataclass(frozen=True)
class Rules:
    """What holds for everybody.

    Attributes:
        member_image: [L, MEMBER_FEATURES] how tastes show in member features.
        item_image: [L, ITEM_FEATURES] how item vectors show in item features.
        member_weight: [MEMBER_FEATURES] a member's own part of the logit.
        type_effect: [K].
        hour_effect: [24].
        hour_profile: [24] cumulative share of requests by local hour.
    """

    member_image: Floats
    item_image: Floats
    member_weight: Floats
    type_effect: Floats
    hour_effect: Floats
    hour_profile: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Members:
    """What a member is: lasting taste [N, L], features, base rate, requests a day, visit logit, type affinity [N, K].

    `signup` is int64 microseconds relative to the start of the first interaction day.
    """

    taste: Floats
    features: Floats
    base_rate: Floats
    activity: Floats
    visit_logit: Floats
    affinity: Floats
    signup: Integers


@dataclass(frozen=True)
class Items:
    """What an item is: vector [I, L], features, popularity, hidden attractiveness, type codes, cumulative exposure."""

    vector: Floats
    features: Floats
    popularity: Floats
    hidden: Floats
    type_code: npt.NDArray[np.int8]
    exposure: npt.NDArray[np.float64]


def draw_rules(seed: int) -> Rules:
    """The rules of a seed's world."""
    rng = generator(seed, Purpose.RULES)
    weight = rng.standard_normal(MEMBER_FEATURES)
    hours = np.arange(24)
    crowd = np.exp(1.2 * np.cos((hours - 14) * 2 * np.pi / 24))
    return Rules(
        member_image=_image(rng, MEMBER_FEATURES),
        item_image=_image(rng, ITEM_FEATURES),
        member_weight=(MEMBER_PART * weight / np.linalg.norm(weight)).astype(np.float32),
        type_effect=(TYPE * rng.standard_normal(len(TYPES))).astype(np.float32),
        hour_effect=(HOUR * np.sqrt(2) * np.cos((hours - 20) * 2 * np.pi / 24)).astype(np.float32),
        hour_profile=np.cumsum(crowd / crowd.sum()),
    )


def draw_members(seed: int, members: int, chunk: int, rules: Rules) -> Members:
    """All members, drawn chunk by chunk."""
    chunks = [_draw_chunk(seed, index, size, rules) for index, size in enumerate(chunk_sizes(members, chunk))]
    return Members(**{f.name: np.concatenate([getattr(c, f.name) for c in chunks]) for f in fields(Members)})


def _draw_chunk(seed: int, chunk: int, members: int, rules: Rules) -> Members:
    rng = generator(seed, Purpose.MEMBERS, 0, chunk)
    taste = _normal(rng, members, TASTES)
    activity = _normal(rng, members)
    habit = 0.6 * activity + 0.8 * _normal(rng, members)
    age = rng.exponential(SIGNUP_MEAN_AGE, members)
    quiet = rng.random(members) < QUIET_SHARE
    requests = REQUESTS_A_DAY * np.exp(ACTIVITY_SPREAD * activity) * np.where(quiet, QUIET_ACTIVITY, 1)
    visit_logit = VISIT_LOGIT + VISIT_SPREAD * habit + np.where(quiet, QUIET_VISIT_LOGIT, 0)
    return Members(
        taste=taste,
        features=_shown(rng, taste, rules.member_image, MEMBER_REVEALED),
        base_rate=BASE_RATE * _normal(rng, members),
        activity=requests.astype(np.float32),
        visit_logit=visit_logit.astype(np.float32),
        affinity=AFFINITY * _normal(rng, members, len(TYPES)),
        signup=((LAST_SIGNUP_DAY - age) * DAY_US).astype(np.int64),
    )


def draw_items(seed: int, items: int, kind: Kind, rules: Rules) -> Items:
    """All items."""
    rng = generator(seed, Purpose.ITEMS)
    vector = _normal(rng, items, TASTES)
    popularity = _normal(rng, items)
    share = np.exp(0.5 * popularity.astype(np.float64))
    return Items(
        vector=vector,
        features=_shown(rng, vector, rules.item_image, ITEM_REVEALED[kind]),
        popularity=popularity,
        hidden=HIDDEN_ITEM[kind] * _normal(rng, items),
        type_code=rng.integers(0, len(TYPES), items).astype(np.int8),
        exposure=np.cumsum(share / share.sum()),
    )


def draw_wandering(seed: int, members: int, chunk: int) -> Floats:
    """[N, L] where tastes have wandered before the first day: the stationary law of `wander`."""
    sizes = enumerate(chunk_sizes(members, chunk))
    return np.concatenate([_normal(generator(seed, Purpose.WANDERING, 0, i), size, TASTES) for i, size in sizes])


def wander(wandering: Floats, rng: np.random.Generator) -> None:
    """One day of the Ornstein-Uhlenbeck walk, in place; its stationary law is standard normal."""
    kept = np.float32(np.exp(-1 / WANDERING_DAYS))
    wandering *= kept
    wandering += np.sqrt(1 - kept**2) * _normal(rng, *wandering.shape)


def taste_today(members: Members, wandering: Floats, member: Integers) -> Floats:
    """[R, L] standard normal tastes of the members at positions [R], lasting and wandering part together."""
    lasting, wandering_now = members.taste[member], wandering[member]
    return (1 - WANDERING_SHARE) ** 0.5 * lasting + WANDERING_SHARE**0.5 * wandering_now


def chunk_sizes(members: int, chunk: int) -> list[int]:
    """How many members each chunk has."""
    return [min(chunk, members - at) for at in range(0, members, chunk)]


def click_probability(
    kind: Kind,
    rules: Rules,
    members: Members,
    items: Items,
    taste: Floats,
    member: Integers,
    item: Integers,
    hour: Integers,
) -> Floats:
    """[R] the true probability of a click.

    Args:
        taste: [R, L] today's taste of each row's member.
        member, item, hour: [R] positions in `members` and `items`, local hour.
    """
    own = members.features[member] @ rules.member_weight + members.base_rate[member]
    item_part = POPULARITY * items.popularity + items.hidden
    match = np.einsum("rl,rl->r", taste, items.vector[item])
    logit = INTERCEPT + own + item_part[item] + rules.hour_effect[hour] + (TASTE / TASTES**0.5) * match
    if kind == "notifications":
        code = items.type_code[item]
        logit += rules.type_effect[code] + members.affinity[member, code]
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def _normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape, dtype=np.float32)


def _image(rng: np.random.Generator, features: int) -> Floats:
    """[L, features] a map whose rows are orthonormal, so that every taste shows equally much."""
    rotation, _ = np.linalg.qr(rng.standard_normal((features, TASTES)))
    return np.ascontiguousarray(rotation.T, dtype=np.float32)


def _shown(rng: np.random.Generator, latent: Floats, image: Floats, revealed: float) -> Floats:
    """Standardized features that explain the share `revealed` of the latent vectors' variance."""
    noise = ((1 - revealed) / revealed) ** 0.5
    spread = np.sqrt((image**2).sum(axis=0) + noise**2)
    return ((latent @ image + noise * _normal(rng, len(latent), image.shape[1])) / spread).astype(np.float32)
