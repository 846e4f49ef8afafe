"""The rows an advice rests on: encoded, oldest first, sampled by whole tasks where a log is larger than memory.

An entity (member, item, …) is in the sample by the hash of its value, all its rows or none. So every task of a key that
contains the entity is whole, and counts of tasks divide by the sampled fraction.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.config import Application
from limaml.console import progress
from limaml.data.features import category_codes, encode_features
from limaml.data.interactions import hash_keys, mix, task_key
from limaml.data.layout import days_of
from limaml.data.partitions import Footer, SourceFile, check_schemas, conform, list_window, read_batches, read_footer
from limaml.errors import ConfigError, DataError
from limaml.schema import EVENT_TIME, LABEL
from limaml.training.advisor_options import Options
from limaml.windows import Window

_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Log:
    """What a data root holds, from its listing and footers alone."""

    files: dict[SourceFile, Footer]
    schemas: dict[date, pa.Schema]

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(footer.rows for footer in self.files.values())

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Name and type of every column of the newest day."""
        newest = self.schemas[max(self.schemas)]
        return {field.name: field.type for field in newest}


@dataclass(frozen=True)
class Sample:
    """R rows, oldest first.

    Attributes:
        day: [R] logical day, in days since the epoch.
        label: [R] 0 or 1.
        numeric: [R, n] float32, NaN for null, in the order of the application's numeric features.
        codes: [R, c] int64 category codes, 0 for null, in the order of its categorical features.
        keys: column → [R] hashes of its values.
        kept: entity column → [R] whether the row's entity is in the sample.
        null_share: key column → share of its rows that are null.
        fraction: share of every entity's values that is in the sample.
        skipped: rows left out, since time, label or a required key was missing or no label.
    """

    day: npt.NDArray[np.int64]
    label: npt.NDArray[np.float64]
    numeric: npt.NDArray[np.float32]
    codes: npt.NDArray[np.int64]
    keys: dict[str, npt.NDArray[np.uint64]]
    kept: dict[str, npt.NDArray[np.bool_]]
    null_share: dict[str, float]
    fraction: float
    skipped: int


def open_log(data: str, application: Application) -> Log:
    """List a data root and check its columns.

    Raises:
        DataError: no interactions, or columns that are missing or of the wrong type.
    """
    days = [date.fromisoformat(day) for day in days_of(data)]
    first, last = (min(days), max(days)) if days else (date(1970, 1, 1), date(1970, 1, 1))
    window = Window(start=first, end=last + timedelta(days=1), utc_offset_hours=application.windows.utc_offset_hours)
    files = {file: read_footer(file) for listed in list_window(data, window).values() for file in listed}
    schemas = check_schemas(files, application)
    if not files or not sum(footer.rows for footer in files.values()):
        raise DataError(f"{data}: its interactions hold no rows; there is nothing to advise on")
    return Log(files, schemas)


def read_sample(
    log: Log,
    application: Application,
    required: Sequence[str],
    optional: Sequence[str],
    entities: Sequence[str],
    options: Options,
) -> Sample:
    """Read the rows of the entities that are in the sample.

    Args:
        log: what is there.
        application: its features are read.
        required: key columns whose value every row needs; a row without is skipped.
        optional: low-cardinality columns that may become keys; nulls are a value of their own here.
        entities: the columns, among both, to sample by.
        options: rows to keep per entity column, and the seed that decides which values these are of.

    Raises:
        DataError: more rows had to be skipped than the application's quarantine budget allows.
    """
    fraction = min(1.0, options.rows / log.rows)
    reader = _Reader(application, tuple(required), tuple(optional), tuple(entities), fraction, options.seed)
    with progress() as bar:
        task = bar.add_task("read", total=log.rows, note="")
        for file in log.files:
            names = [name for name in log.schemas[file.day].names if name in reader.columns]
            missing = reader.columns - set(names)
            if missing:
                raise ConfigError(f"{file.uri}: no column {', '.join(sorted(missing))}, which a candidate key names")
            schema = pa.schema([log.schemas[file.day].field(name) for name in names])
            for batch in read_batches(file, names):
                reader.add(conform(batch, schema))
                bar.update(task, advance=len(batch), note=file.name)
    sample = reader.sample()
    if sample.skipped > application.validation.quarantine_budget * log.rows:
        raise DataError(
            f"{sample.skipped:,} of {log.rows:,} rows have no time, no label of 0 or 1, or no value of a key: more "
            f"than validation.quarantine_budget allows ({application.validation.quarantine_budget:.2%}); "
            "see `limaml validate` for which"
        )
    return sample


class _Reader:
    def __init__(
        self,
        application: Application,
        required: tuple[str, ...],
        optional: tuple[str, ...],
        entities: tuple[str, ...],
        fraction: float,
        seed: int,
    ) -> None:
        self.features = application.features.all
        self.required, self.optional, self.entities = required, optional, entities
        self.columns = {EVENT_TIME, LABEL, *required, *optional, *(feature.name for feature in self.features)}
        self._offset_us = application.windows.utc_offset_hours * 3_600_000_000
        self._fraction, self._seed = fraction, mix(np.array([seed], np.uint64))
        self._skipped, self._usable, self._nulls = 0, 0, Counter[str]()
        self._parts: list[dict[str, np.ndarray]] = []

    def add(self, rows: pa.Table) -> None:
        usable = np.isin(rows[LABEL].fill_null(-1).to_numpy(), (0, 1))
        for name in (EVENT_TIME, *self.required):
            usable &= rows[name].is_valid().to_numpy()
        whole, rows = len(rows), rows.filter(pa.array(usable))
        self._skipped += whole - len(rows)
        self._usable += len(rows)
        keys = {name: hash_keys([task_key(name, rows[name].combine_chunks())]) for name in self.required}
        for name in self.optional:
            column = rows[name].combine_chunks()
            self._nulls[name] += column.null_count
            keys[name] = mix(category_codes(column, name).view(np.uint64))
        kept = {name: self._in_sample(keys[name]) for name in self.entities}
        any_kept = np.logical_or.reduce(list(kept.values()))
        rows = rows.filter(pa.array(any_kept))
        if not len(rows):
            return
        numeric, codes = encode_features(self.features, rows)
        part = {
            "time": rows[EVENT_TIME].combine_chunks().cast(pa.int64()).to_numpy(),
            "label": rows[LABEL].to_numpy().astype(np.float64),
            "numeric": numeric,
            "codes": codes,
        }
        part |= {f"key {name}": values[any_kept] for name, values in keys.items()}
        part |= {f"kept {name}": values[any_kept] for name, values in kept.items()}
        self._parts.append(part)

    def sample(self) -> Sample:
        if not self._parts:
            raise DataError(f"none of {self._skipped:,} rows has a time, a label of 0 or 1 and its keys")
        arrays = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        self._parts.clear()
        order = np.argsort(arrays["time"], kind="stable")
        arrays = {name: values[order] for name, values in arrays.items()}
        return Sample(
            day=(arrays["time"] + self._offset_us) // _DAY_US,
            label=arrays["label"],
            numeric=arrays["numeric"],
            codes=arrays["codes"],
            keys={name: arrays[f"key {name}"] for name in (*self.required, *self.optional)},
            kept={name: arrays[f"kept {name}"] for name in self.entities},
            null_share={name: self._nulls[name] / self._usable for name in (*self.required, *self.optional)},
            fraction=self._fraction,
            skipped=self._skipped,
        )

    def _in_sample(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        if self._fraction >= 1:
            return np.ones(len(hashes), bool)
        return mix(hashes ^ self._seed) < np.uint64(self._fraction * 2.0**64)
