"""A world that is played day by day: who is asked what, what a policy chooses, who clicks, who comes back.

State is what changes: where tastes have wandered and how excited a member is by recent clicks. Everything else is
redrawn from the seed, so a world is carried from one process to the next by these two arrays and a date
(`World.state`, `World.restore`). Requests, candidates and the luck of every outcome do not depend on any policy: two
policies that choose alike see the same outcome. Visits do depend on clicks, which is how a better policy raises
weekly active members.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from limaml.config import Application
from limaml.data import population
from limaml.data.population import DAY_US, Floats, Integers, Purpose, generator
from limaml.data.simulated_log import HOUR, REQUEST_ID, TRUTH_SCHEMA, log_format
from limaml.schema import MEMBER, SIGNUP_TIME, TIMESTAMP, VISIT_TIME
from limaml.windows import day_start

# Chooses, among the candidates of every request, what is sent: one row index of the table per request, in order.
# The table has every column of the interactions but the label, and `request_id`; a request's candidates are contiguous.
Policy = Callable[[pa.Table], npt.NDArray[np.integer]]

HISTORY_DAYS = 56  # of visits before the first interaction: four weeks to be dormant in, and four to have come before

_EXCITEMENT_MEMORY = 0.85  # a day's clicks are forgotten with a half-life of four days
_EXCITEMENT_LOGIT = 1.5  # what one click a day adds to the logit of a visit
_EXCITEMENT_CLICKS = 3  # more clicks than this in a day excite no further
_HISTORY_CLICK_RATE = 0.3  # of the days before the log, whose requests are not played
_NEVER = np.iinfo(np.int64).max


class SimulationSpec(BaseModel):
    """How large a world is, and which. The default is a pTap that trains in a minute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: int = Field(default=2500, ge=1, description="including those who sign up during the run or after it")
    items: int = Field(default=2000, ge=1)
    days: int = Field(default=17, ge=1, description="of interactions; visits begin eight weeks earlier")
    start: date = Field(default=date(2026, 1, 1), description="first day of interactions")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    candidates: int = Field(default=8, ge=1, description="items a policy chooses from, per request")
    chunk: int = Field(default=16_384, ge=1, le=2**17, description="members played at once; bounds memory")

    @property
    def end(self) -> date:
        """The day after the last."""
        return self.start + timedelta(days=self.days)


@dataclass(frozen=True)
class Played:
    """One chunk of members on one day.

    Attributes:
        interactions: the log's columns, chronological.
        truth: `row_id` and `true_probability` of the same rows.
        visits: `member_id` and `visit_time`, chronological, at most one a member: the first of the day.
    """

    interactions: pa.Table
    truth: pa.Table
    visits: pa.Table


@dataclass(frozen=True)
class _Requests:
    """R requests, chronological: ids, member positions, local hours, times (µs), [R, C] candidates' item positions."""

    id: Integers
    member: Integers
    hour: Integers
    time: Integers
    item: Integers
    random_choice: Integers
    luck: Floats


class World:
    """A simulated world, at the start of the day it will play next.

    Args:
        spec: its size and seed.
        application: decides the log's kind and columns, and when a logical day starts.

    Raises:
        ConfigError: the application needs a column that no simulated log has.
    """

    def __init__(self, spec: SimulationSpec, application: Application) -> None:
        self.spec = spec
        self.format = log_format(application)
        self.utc_offset_hours = application.windows.utc_offset_hours
        self.first_day = spec.start - timedelta(days=HISTORY_DAYS)
        self.next_day = self.first_day
        self._rules = population.draw_rules(spec.seed)
        self._members = population.draw_members(spec.seed, spec.members, spec.chunk, self._rules)
        self._items = population.draw_items(spec.seed, spec.items, self.format.kind, self._rules)
        self._signup = self._members.signup + self._midnight(spec.start)
        self._wandering = population.draw_wandering(spec.seed, spec.members, spec.chunk)
        self._excitement = np.minimum(self._members.activity * _HISTORY_CLICK_RATE, _EXCITEMENT_CLICKS)
        self._playing = False

    def day(self, day: date, policy: Policy | None = None) -> Iterator[Played]:
        """Play one day, chunk by chunk; read all chunks before playing the next day.

        Days before `spec.start` have visits only. Without a policy, a request gets one of its candidates at random.

        Raises:
            ValueError: the day is not `next_day`, or the day before was not read to its end; or, while playing, the
                policy chose a row that does not belong to the request.
        """
        if self._playing or day != self.next_day:
            raise ValueError(f"days are played in order and to their end: next is {self.next_day}, asked for {day}")
        self._playing = True
        return self._play(day, policy)

    def signups(self, until: date) -> pa.Table:
        """`member_id` and `signup_time` of everyone who signed up before a logical day, by member."""
        known = np.flatnonzero(self._signup < self._midnight(until))
        return pa.table({MEMBER: known + 1, SIGNUP_TIME: pa.array(self._signup[known], TIMESTAMP)})

    def true_probability(self, candidates: pa.Table) -> Floats:
        """[R] today's true click probabilities of a policy's candidates: what no real policy can know."""
        member = candidates[self.format.member_id].to_numpy() - 1
        item = candidates[self.format.item_id].to_numpy() - self.format.first_item(self.spec.members)
        return self._probability(member, item, candidates[HOUR].to_numpy())

    @property
    def state(self) -> dict[str, Floats]:
        """What changes from day to day, besides `next_day`: `wandering` [N, L] and `excitement` [N]."""
        return {"wandering": self._wandering, "excitement": self._excitement}

    def restore(self, state: dict[str, Floats], next_day: date) -> None:
        """Continue where a world of the same spec and application stood before it played `next_day`."""
        for name, array in self.state.items():
            array[:] = state[name]
        self.next_day = next_day

    def _play(self, day: date, policy: Policy | None) -> Iterator[Played]:
        number = (day - self.first_day).days
        for index, at in enumerate(range(0, self.spec.members, self.spec.chunk)):
            chunk = slice(at, at + self.spec.chunk)
            population.wander(self._wandering[chunk], generator(self.spec.seed, Purpose.DRIFT, number, index))
            requests = self._requests(number, index, chunk, self._midnight(day))
            interactions, truth, clicked = self._answer(requests, policy)
            rng = generator(self.spec.seed, Purpose.VISITS, number, index)
            visits = self._visits(rng, chunk, day, requests.member[clicked], requests.time[clicked])
            yield Played(interactions, truth, visits)
        self.next_day = day + timedelta(days=1)
        self._playing = False

    def _requests(self, number: int, index: int, chunk: slice, midnight: int) -> _Requests:
        rng = generator(self.spec.seed, Purpose.REQUESTS, number, index)
        count = rng.poisson(self._members.activity[chunk])
        count[self._signup[chunk] >= midnight] = 0
        if number < HISTORY_DAYS:
            count[:] = 0
        rows = int(count.sum())
        hour = np.searchsorted(self._rules.hour_profile[:-1], rng.random(rows), side="right")
        time = midnight + hour * (DAY_US // 24) + rng.integers(0, DAY_US // 24, rows)
        order = np.argsort(time, kind="stable")
        item = np.searchsorted(self._items.exposure[:-1], rng.random((rows, self.spec.candidates)), side="right")
        return _Requests(
            # Day, chunk and row in 63 bits; below 2**53 for 512 days, so that it survives a trip through a float.
            id=((number + 1) << 44 | index << 24) + np.arange(rows),
            member=np.repeat(np.arange(len(count)) + chunk.start, count)[order],
            hour=hour[order],
            time=time[order],
            item=item,
            random_choice=rng.integers(0, self.spec.candidates, rows),
            luck=rng.random(rows, dtype=np.float32),
        )

    def _answer(self, requests: _Requests, policy: Policy | None) -> tuple[pa.Table, pa.Table, npt.NDArray[np.bool_]]:
        rows = len(requests.id)
        choice = requests.random_choice
        if policy is not None and rows:
            candidates = self._table(
                *(np.repeat(one, self.spec.candidates) for one in (requests.id, requests.time, requests.member)),
                requests.item.ravel(),
                np.repeat(requests.hour, self.spec.candidates),
            )
            choice = self._checked(np.asarray(policy(candidates)), rows)
        item = requests.item[np.arange(rows), choice]
        probability = self._probability(requests.member, item, requests.hour)
        clicked = requests.luck < probability
        sent = self._table(requests.id, requests.time, requests.member, item, requests.hour)
        truth = pa.Table.from_arrays([pa.array(requests.id), pa.array(probability)], schema=TRUTH_SCHEMA)
        return self.format.interactions(sent, clicked), truth, clicked

    def _checked(self, chosen: npt.NDArray[np.integer], rows: int) -> Integers:
        """[R] positions among each request's candidates, from a policy's row indices."""
        if chosen.shape != (rows,) or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(
                f"a policy returns one int row index per request, shape ({rows},), not {chosen.dtype} {chosen.shape}"
            )
        position = chosen - np.arange(rows) * self.spec.candidates
        wrong = np.flatnonzero((position < 0) | (position >= self.spec.candidates))
        if len(wrong):
            first = wrong[0] * self.spec.candidates
            raise ValueError(
                f"for request number {wrong[0]} the policy chose row {chosen[wrong[0]]} of the candidates, but its own "
                f"are {first} to {first + self.spec.candidates - 1}"
            )
        return position

    def _visits(self, rng: np.random.Generator, chunk: slice, day: date, member: Integers, time: Integers) -> pa.Table:
        """First visits of the day of a chunk: a click, a sign-up, or of one's own accord."""
        midnight = self._midnight(day)
        signup = self._signup[chunk]
        clicks = np.bincount(member - chunk.start, minlength=len(signup))
        first = np.full(len(signup), _NEVER)
        np.minimum.at(first, member - chunk.start, time)
        if day < self.spec.start:
            clicks = rng.poisson(_HISTORY_CLICK_RATE * self._members.activity[chunk])
            first[clicks > 0] = (midnight + rng.integers(0, DAY_US, len(signup)))[clicks > 0]
        logit = self._members.visit_logit[chunk] + _EXCITEMENT_LOGIT * self._excitement[chunk]
        own_time = midnight + rng.integers(0, DAY_US, len(signup))
        comes = rng.random(len(signup), dtype=np.float32) < 1 / (1 + np.exp(-logit))
        first[comes] = np.minimum(first, own_time)[comes]
        first[signup >= midnight] = _NEVER
        joins = (signup >= midnight) & (signup < midnight + DAY_US)
        first[joins] = signup[joins]

        excitement = self._excitement[chunk]
        excitement *= _EXCITEMENT_MEMORY
        excitement += (1 - _EXCITEMENT_MEMORY) * np.minimum(clicks, _EXCITEMENT_CLICKS)
        order = np.argsort(first, kind="stable")[: np.count_nonzero(first != _NEVER)]
        return pa.table({MEMBER: order + chunk.start + 1, VISIT_TIME: pa.array(first[order], TIMESTAMP)})

    def _table(self, *columns: Integers) -> pa.Table:
        return self.format.candidates(self._members, self._items, *columns)

    def _probability(self, member: Integers, item: Integers, hour: Integers) -> Floats:
        taste = population.taste_today(self._members, self._wandering, member)
        return population.click_probability(
            self.format.kind, self._rules, self._members, self._items, taste, member, item, hour
        )

    def _midnight(self, day: date) -> int:
        """Microseconds since the epoch at which a logical day starts."""
        return (day_start(day, self.utc_offset_hours) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def pick_highest(candidates: pa.Table, score: npt.NDArray[np.floating]) -> Integers:
    """The row index of every request's highest score, the first of equals: what a policy returns.

    Args:
        candidates: the table a policy was given, R rows.
        score: [R], without NaN.
    """
    request = candidates[REQUEST_ID].to_numpy()
    starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
    best = np.maximum.reduceat(score, starts)
    of_row = np.repeat(best, np.diff(np.r_[starts, len(request)]))
    highest = np.flatnonzero(score == of_row)
    return highest[np.searchsorted(highest, starts)]
