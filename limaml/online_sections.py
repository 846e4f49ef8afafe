"""Sections of an application that say where releases are published, how they are served and who takes part in a test."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from limaml.errors import ConfigError
from limaml.sections import Positive, Ratio, Section, Slug
from limaml.store_urls import store_scheme

# What scores an arm's members: the current release, the vanilla model trained beside it, or a release by its number.
Served = Literal["current", "vanilla"] | Annotated[int, Field(ge=1)]


class Store(Section):
    """Where releases are published."""

    url: str = Field(
        default="",
        description="lmdb:///path, redis://host:port/db, rediss://… or dynamodb://region/table; "
        "empty: in the workspace, which must then be local",
    )
    dtype: Literal["float32", "float16"] = "float16"
    keep_generations: int = Field(default=2, ge=2, description="at least so many can be rolled back to")
    keep_days: float = Field(default=7.0, ge=0, description="how long a generation outlives its last release")
    maximum_overlays: int = Field(
        default=6, ge=0, description="daily deltas over a full generation before the next one"
    )
    minimum_coverage: Ratio = Field(
        default=0.99, description="share of the sampled tasks of the task set that the store holds"
    )

    @field_validator("url")
    @classmethod
    def _known(cls, url: str) -> str:
        if url:
            try:
                store_scheme(url)
            except ConfigError as error:
                raise ValueError(str(error).removeprefix("store.url").lstrip(": ")) from None
        return url


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
    ready_without_release: bool = Field(
        default=False,
        description="ready while the store holds no release at all, so that a first installation does not wait for a "
        "first training; requests are answered 503 until then",
    )
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
