"""Sections of an application that say what the log is and how it becomes tasks, and what all sections are made of."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Ratio = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Column = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


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
    """Task grouping's engine; results do not depend on these, to the bit."""

    engine: Literal["embedded", "spark"] = Field(
        default="embedded",
        description="embedded: in the step's own process; spark: a SparkApplication in a cluster (`cluster.spark`), "
        "Spark's local mode elsewhere",
    )
    buckets: int = Field(
        default=32, ge=1, description="more buckets, less memory: one bucket is sorted in memory at a time"
    )
    shards: int = Field(default=8, ge=1, le=512, description="files a task set is written to; whole tasks by hash")
