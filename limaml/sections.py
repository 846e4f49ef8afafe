"""Sections of an application that say what the log is and how it becomes tasks, and what all sections are made of."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Ratio = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Column = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
# What scores an arm's members: the current release, the vanilla model trained beside it, or a release by its number.
Served = Literal["current", "vanilla"] | Annotated[int, Field(ge=1)]


def first_repeated(values: Iterable[Any]) -> Any:
    seen = set()
    return next((value for value in values if value in seen or seen.add(value)), None)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Definition(Section):
    """One way to cut rows into tasks."""

    keys: tuple[Column, ...] = Field(min_length=1, description="columns whose values together name a task")
    max_samples: int = Field(default=64, ge=2, description="only this many most recent samples of a task are kept")


class Task(Definition):
    """What a task is, and how its samples are split (Alg. 2a)."""

    support_fraction: Ratio = Field(default=0.75, description="oldest share of a task's samples used as support set")


class AlsoTask(Definition):
    """One more task definition over the same rows, with a meta block and embeddings of its own."""

    name: Slug = Field(description="names its folder of a task set, and its embeddings' keys in the store")
    meta: tuple[Column, ...] = Field(
        min_length=1, description="features its meta block reads, whichever other blocks read them as well"
    )


class Feature(Section):
    """One input column of the network."""

    name: Column
    kind: Literal["numeric", "categorical"] = "numeric"
    transform: Literal["none", "log"] = Field(
        default="none", description="log: sign(x)·log(1 + |x|), for heavy-tailed counts"
    )
    vocabulary: int = Field(
        default=256, ge=1, description="categorical: this many most frequent values get their own vector"
    )
    width: int | None = Field(
        default=None, ge=1, description="categorical: width of its vectors, where network.category_width does not suit"
    )
    minimum: float | None = Field(default=None, description="numeric: rows below are quarantined")
    maximum: float | None = Field(default=None, description="numeric: rows above are quarantined")
    maximum_null_ratio: Ratio = Field(default=1.0, description="more nulls than this fail validation")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        """A bare name is a numeric feature."""
        return {"name": value} if isinstance(value, str) else value


class Features(Section):
    """Meta features describe the task's entity and feed the meta block; all others feed the global block (§4).

    Further task definitions name those of either side that describe theirs.
    """

    meta: tuple[Feature, ...] = Field(
        description="what of the entity stays as it is between refreshes (an embedding remembers its values of the newest "
        "sample); counts and rates that move belong to `other`; may be empty: adaptation then starts alike for all"
    )
    other: tuple[Feature, ...] = Field(min_length=1)

    @property
    def all(self) -> tuple[Feature, ...]:
        """Meta features, then the others, in the order of the file."""
        return self.meta + self.other

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        both = sorted({f.name for f in self.meta} & {f.name for f in self.other})
        if both:
            raise ValueError(f"named as both meta and other: {', '.join(both)}; a feature feeds one block")
        names = [f.name for f in self.all]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self


class PastAggregate(Section):
    """A feature computed at import from strictly earlier logical days only."""

    name: Column
    keys: tuple[Column, ...] = Field(min_length=1)
    statistic: Literal["rate", "count"] = "rate"
    smoothing: Positive = Field(default=20.0, description="rate: prior weight, in samples, of the overall past rate")


class Source(Section):
    """How a flat log becomes interactions by day (`limaml import`); absent where upstream writes them."""

    aggregates: tuple[PastAggregate, ...] = ()


class Data(Section):
    """Columns of the interactions that are neither features nor the label."""

    member_column: Column = Field(default="member_id", description="the unit of cohorts and of A/B assignment")
    item_column: Column = Field(default="item_id", description="what is scored")
    row_id_column: Column | None = Field(
        default=None, description="int64 identifier of a row, unique; checked for duplicates"
    )
    source: Source = Source()


class Windows(Section):
    """Which days are for what. Train < validation < test; a run's date is the first day not used."""

    train_days: int = Field(default=14, ge=1)
    validation_days: int = Field(
        default=2, ge=2, description="the newer half is scored to choose θ, the older half is the gap before it"
    )
    test_days: int = Field(default=1, ge=1, description="what the gate scores")
    lookback_days: int = Field(default=14, ge=1, description="recent window an embedding is fine-tuned on (X)")
    utc_offset_hours: int = Field(
        default=0, ge=-12, le=14, description="a logical day starts at this offset's midnight"
    )


class Validation(Section):
    """When a day of interactions is refused."""

    quarantine_budget: Ratio = Field(default=0.01, description="share of rows that may break a row rule")
    label_rate: tuple[Ratio, Ratio] = Field(default=(0.001, 0.999), description="allowed share of positive labels")
    minimum_rows_per_day: int = Field(default=1, ge=1)
    maximum_duplicate_ratio: Ratio = Field(default=0.001, description="share of rows equal to another in all columns")
    maximum_task_change: Positive = Field(
        default=0.5, description="relative change of a day's tasks against the day before"
    )
    maximum_late_ratio: Ratio = Field(
        default=0.05, description="share of rows filed under a later day than they happened"
    )


class Grouping(Section):
    """Task grouping's engine; results do not depend on these."""

    buckets: int = Field(
        default=32, ge=1, description="more buckets, less memory: one bucket is sorted in memory at a time"
    )
    shards: int = Field(default=8, ge=1, le=512, description="files a task set is written to; whole tasks by hash")


class Trial(Section):
    """One A/B test: who is in it, and what scores them.

    Raising `ramp` lets members in and moves nobody between arms; raising `treatment_fraction` moves some into treatment.
    """

    name: Slug = Field(description="what exposures call it")
    salt: str = Field(min_length=1, description="splits its members into arms; another salt is another split")
    layer: Slug = Field(
        default="scoring",
        description="tests of one layer exclude each other; layers are independent, whichever applications they are in",
    )
    slots: tuple[Ratio, Ratio] = Field(
        default=(0.0, 1.0), description="its part [from, to) of the layer; no two tests of a layer may overlap"
    )
    ramp: Ratio = Field(default=1.0, description="share of its slots that is in the test by now")
    treatment_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    control: Served = "vanilla"
    treatment: Served = "current"

    @model_validator(mode="after")
    def _slots_and_arms(self) -> Self:
        if not self.slots[0] < self.slots[1]:
            raise ValueError(f"slots {list(self.slots)}: the first number must be below the second")
        if self.control == self.treatment:
            raise ValueError(f"control and treatment are both {self.control!r}; such a test compares nothing")
        return self


class Exposures(Section):
    """Where `limaml serve` records what it answered in a test."""

    url: str = Field(
        default="",
        description="folder of the log, file://… or s3://…; empty: no test runs, everybody gets the current release",
    )
    spool: str = Field(
        default="",
        description="local folder of what is not in the log yet; empty: inside the log's folder, which must then be local",
    )
    positions: int = Field(
        default=0, ge=0, description="only so many of a request's best candidates are recorded; 0: all"
    )
    features: bool = Field(
        default=False, description="record what the request said of each candidate too, so that it can be replayed"
    )
    journal_seconds: Positive = Field(
        default=0.2, description="what a killed process can lose: answers are on disk after this long"
    )
    rotate_rows: int = Field(default=100_000, ge=1, description="a file of the log ends at so many rows")
    rotate_seconds: Positive = Field(default=300.0, description="or after so long")
    queue_requests: int = Field(
        default=10_000, ge=1, description="answers waiting for the disk; more are dropped, counted and reported"
    )
    spool_bytes: int = Field(
        default=1 << 30, ge=1, description="with so much in the spool, no more is taken on until the log takes some"
    )


class Serve(Section):
    """The scorer service (`limaml serve`). Limits and rates are of each worker."""

    runtime: Literal["auto", "torch", "onnxruntime", "compiled"] = Field(
        default="auto",
        description="what computes scores; auto: torch or onnxruntime, whichever a probe at load finds faster; "
        "compiled: torch.compile, which takes most of a minute to load",
    )
    poll_seconds: Positive = Field(default=2.0, description="how often the store is asked for a newer release")
    audit: bool = Field(
        default=True, description="compare a generation's rows with their sums before serving it; reads them all once"
    )
    deadline_ms: Positive = Field(
        default=100.0, description="a store that has not answered by then is left out of the answer, which says so"
    )
    breaker_failures: int = Field(
        default=5, ge=1, description="after this many failed reads in a row the store is left alone"
    )
    breaker_seconds: Positive = Field(default=2.0, description="for how long, until one request tries it again")
    maximum_candidates: int = Field(default=1000, ge=1, description="of one request; more are refused with 413")
    maximum_request_bytes: int = Field(default=1 << 20, ge=1, description="a longer body is refused with 413")
    maximum_in_flight: int = Field(default=64, ge=1, description="requests at once; more are refused with 429")
    requests_per_second: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="more are refused with 429; 0: no limit"
    )
    token_variable: str = Field(
        default="", description="environment variable that holds the bearer token; empty: none is asked for"
    )
    drain_seconds: Annotated[float, Field(ge=0)] = Field(
        default=5.0, description="between SIGTERM and the last request accepted, for load balancers to look away"
    )
    access_log: bool = Field(default=False, description="one log line a request; never a member, item or feature")
