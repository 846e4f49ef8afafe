"""Candidate task definitions: which key tuples to look at, what their tasks look like, what they would cost."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from limaml.config import Application
from limaml.data.interactions import mix
from limaml.errors import ConfigError
from limaml.schema import EVENT_TIME, LABEL
from limaml.training.advisor_options import Options
from limaml.training.advisor_sample import Sample

log = logging.getLogger(__name__)

PROPOSED_VALUES = 64  # a categorical feature with more values is no natural second key
PROPOSALS = 8
FEW_VALUES = 256  # of a key column: as many shifts can be told from rows alone
_VALUE_OVERHEAD = 12  # docs/online_store_format.md: newest event and samples, beside the embedding


@dataclass(frozen=True)
class Candidate:
    """A key tuple, and the entity among its columns by which its tasks are sampled."""

    keys: tuple[str, ...]
    entity: str

    @property
    def name(self) -> str:
        """How it is written: `(member_id, type)`."""
        return f"({', '.join(self.keys)})"

    def refines(self, other: "Candidate") -> bool:
        """Whether each of the other's tasks is split into tasks of this one."""
        return set(other.keys) < set(self.keys)

    def tasks(self, sample: Sample) -> npt.NDArray[np.int64]:
        """[R] task of each row, numbered from 0."""
        state = np.zeros(len(sample.day), np.uint64)
        for key in sorted(self.keys):
            state = mix(state ^ sample.keys[key])
        return np.unique(state, return_inverse=True)[1].astype(np.int64)


class Sizes(BaseModel):
    """Tasks of a log and their samples. Quantiles and shares are over tasks."""

    model_config = ConfigDict(frozen=True)

    tasks: int = Field(description="exact, or estimated from the sampled fraction")
    median_samples: float
    p10_samples: float
    p90_samples: float
    share_under_6: float
    share_under_25: float


class Cost(BaseModel):
    """What a definition would cost; rates are assumptions, measured elsewhere (`docs/benchmarks.md`)."""

    model_config = ConfigDict(frozen=True)

    tasks_to_store: int = Field(description="tasks with a sample in the last lookback_days, refreshed daily")
    store_bytes: int = Field(description="values in the store's precision; keys and pages come on top")
    generation_core_seconds: float = Field(description="a day, of one core")
    assumed_tasks_per_second: float
    training_tasks: int = Field(description="tasks with a sample in the last train_days")
    training_rows: int = Field(description="their samples after the cap max_samples: rows of an epoch")
    steps_per_epoch: int
    assumed_step_over_vanilla: float = Field(description="time of an outer step over a vanilla step on the same rows")


def given(
    application: Application, columns: dict[str, pa.DataType], tuples: Sequence[Sequence[str]]
) -> list[Candidate]:
    """The user's own candidates.

    Raises:
        ConfigError: an empty tuple, a column twice or not in the log, the label or the time.
    """
    for keys in tuples:
        spelled = ",".join(keys)
        if not keys or not all(keys) or len(set(keys)) < len(keys):
            raise ConfigError(
                f"--keys {spelled!r}: give distinct column names separated by commas, such as user_id,type"
            )
        for key in keys:
            if key not in columns:
                raise ConfigError(
                    f"--keys {spelled}: no column {key!r} in the log; it has {', '.join(sorted(columns))}"
                )
            if key in (EVENT_TIME, LABEL, application.data.row_id_column) or not can_be_key(columns[key]):
                raise ConfigError(
                    f"--keys {spelled}: {key!r} ({columns[key]}) can't be a task key; one is a string or an integer "
                    "that names a member, an item or a kind, never the time, the label or a row's id"
                )
    return _distinct(application, [tuple(keys) for keys in tuples])


def proposed(application: Application, columns: dict[str, pa.DataType]) -> list[Candidate]:
    """The application's keys, its member, its item, and the member with each categorical feature, those apart."""
    data = application.data
    kinds = [
        feature.name
        for feature in (*application.features.other, *application.features.meta)
        if feature.kind == "categorical" and can_be_key(columns[feature.name])
    ]
    tuples = [application.task.keys, (data.member_column,), (data.item_column,)]
    tuples += [(data.member_column, kind) for kind in kinds if kind not in (data.member_column, data.item_column)]
    return _distinct(application, tuples)


def prune(candidates: list[Candidate], application: Application, sample: Sample) -> list[Candidate]:
    """Leave out proposals whose added column has many nulls, one value or very many, or splits no member's rows."""
    member, kept = application.data.member_column, []
    asked = {(member,), (application.data.item_column,), application.task.keys}
    for candidate in candidates:
        if candidate.keys not in asked:
            kind = candidate.keys[1]
            values = len(np.unique(sample.keys[kind]))
            why = None
            if sample.null_share[kind] > application.validation.quarantine_budget:
                why = f"{sample.null_share[kind]:.1%} of {kind} is null, which no key may be"
            elif not 2 <= values <= PROPOSED_VALUES:
                why = f"{kind} has {values} values; 2 to {PROPOSED_VALUES} are proposed"
            elif candidate.tasks(sample).max() + 1 == len(np.unique(sample.keys[member])):
                why = f"every {member} has one {kind}"
            if why:
                log.info("advise: %s not proposed: %s", candidate.name, why)
                continue
        kept.append(candidate)
    for candidate in kept[PROPOSALS:]:
        log.info("advise: %s not proposed: at most %d are; ask for it by --keys", candidate.name, PROPOSALS)
    return kept[:PROPOSALS]


def can_be_key(kind: pa.DataType) -> bool:
    """Whether values of a type can name a task."""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return text or (pa.types.is_integer(kind) and not pa.types.is_uint64(kind))


def sizes(task: npt.NDArray[np.int64], fraction: float) -> Sizes:
    """Sizes of the tasks of [R] rows."""
    counts = np.unique(task, return_counts=True)[1]
    low, middle, high = np.quantile(counts, [0.1, 0.5, 0.9])
    return Sizes(
        tasks=round(len(counts) / fraction),
        median_samples=float(middle),
        p10_samples=float(low),
        p90_samples=float(high),
        share_under_6=float((counts < 6).mean()),
        share_under_25=float((counts < 25).mean()),
    )


def cost(
    task: npt.NDArray[np.int64],
    day: npt.NDArray[np.int64],
    fraction: float,
    application: Application,
    options: Options,
) -> Cost:
    """Cost of a definition whose tasks are those of [R] rows."""
    end = day.max() + 1
    recent = len(np.unique(task[day >= end - application.windows.lookback_days])) / fraction
    counts = np.unique(task[day >= end - application.windows.train_days], return_counts=True)[1]
    network, store = application.network, application.store
    width = (network.embedding_width + int(network.adapted_bias)) * (2 if application.training.base == "frozen" else 1)
    value = width * {"float16": 2, "float32": 4}[store.dtype] + _VALUE_OVERHEAD
    return Cost(
        tasks_to_store=round(recent),
        store_bytes=round(recent) * value,
        generation_core_seconds=recent / options.tasks_per_second,
        assumed_tasks_per_second=options.tasks_per_second,
        training_tasks=round(len(counts) / fraction),
        training_rows=round(np.minimum(counts, application.task.max_samples).sum() / fraction),
        steps_per_epoch=-(-round(len(counts) / fraction) // application.training.tasks_per_batch),
        assumed_step_over_vanilla=options.step_over_vanilla,
    )


def _distinct(application: Application, tuples: Sequence[tuple[str, ...]]) -> list[Candidate]:
    """Each set of columns once, the entity of each: the member, else the item, else its first column."""
    found: dict[frozenset[str], Candidate] = {}
    for keys in tuples:
        known = [name for name in (application.data.member_column, application.data.item_column) if name in keys]
        found.setdefault(frozenset(keys), Candidate(keys, (known or keys)[0]))
    return list(found.values())
