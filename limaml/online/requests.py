"""What a scoring request brings, whichever form it came in: candidates as task ids and feature arrays.

`limaml.online.columns` makes the same of plain values.
Shapes: R rows, one (task, item) candidate each; U distinct tasks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.config import Application, Definition, Feature
from limaml.data import task_ids as ids
from limaml.data.features import encode_features
from limaml.data.interactions import task_key
from limaml.errors import DataError
from limaml.schema import stored_id

Encoded = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Tasks:
    """The tasks of R rows in one definition: keys of the U distinct ones in the store, and [R] which is a row's."""

    stored: Sequence[str]
    of_row: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Candidates:
    """R candidates, ready to be scored.

    Attributes:
        rows: R.
        tasks: of every task definition; none where a model asks that adapts to no one.
        other: numeric [R, On] and category codes [R, Oc].
        meta: numeric [R, Mn] and category codes [R, Mc]; None where the request brings none.
    """

    rows: int
    tasks: tuple[Tasks, ...]
    other: Encoded
    meta: Encoded | None

    def of_definitions(self, application: Application) -> tuple[Encoded, npt.NDArray[np.bool_]]:
        """Meta features, nulls where there are none, and [R, K] whether a row's features describe its tasks."""
        meta = _nulls(application, self.rows) if self.meta is None else self.meta
        both = (np.concatenate([meta[0], self.other[0]], axis=1), np.concatenate([meta[1], self.other[1]], axis=1))
        return meta, np.stack([_describes(application, each, *both) for each in application.definitions], axis=1)

    def take(self, rows: npt.NDArray[np.intp]) -> "Candidates":
        """Some of the rows, without their tasks."""
        meta = None if self.meta is None else (self.meta[0][rows], self.meta[1][rows])
        return Candidates(len(rows), (), (self.other[0][rows], self.other[1][rows]), meta)


def candidates_of_table(application: Application, table: pa.Table, keyed: bool = True) -> Candidates:
    """A table's rows as candidates.

    Args:
        application: whose task keys and features they have.
        table: R rows with the key columns of every task definition, the other features and, unless every task is
            known, the meta features: all or none of them.
        keyed: whether tasks are asked for.

    Raises:
        DataError: columns are missing or of a wrong type, a key is null, a feature is infinite.
    """
    meta = None
    if has_meta(application, table.column_names):
        meta = _encode(application.features.meta, table)
    tasks: list[Tasks] = []
    if keyed:
        for name, definition in zip(application.definition_names, application.definitions, strict=True):
            texts, of_row = distinct_tasks(definition.keys, table)
            tasks.append(Tasks([stored_id(name, text) for text in texts], of_row))
    return Candidates(len(table), tuple(tasks), _encode(application.features.other, table), meta)


def distinct_tasks(keys: Sequence[str], table: pa.Table) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Canonical texts of the U distinct tasks, and [R] the index of each row's task.

    Raises:
        DataError: a key column is missing, of a wrong type, or null somewhere.
    """
    require(keys, table.column_names, "task key column")
    columns = [task_key(name, table[name].combine_chunks()) for name in keys]
    first, task_of_row = ids.distinct_tasks(columns)
    return ids.task_texts([column.take(pa.array(first)) for column in columns]).to_pylist(), task_of_row


def require(names: Sequence[str], there: Collection[str], what: str) -> None:
    """See that all columns are there.

    Raises:
        DataError: some are not.
    """
    if missing := [name for name in names if name not in there]:
        raise DataError(
            f"{what}{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing; the columns are {', '.join(there)}"
        )


def has_meta(application: Application, columns: Sequence[str]) -> bool:
    """Whether a request of these columns brings the first definition's meta features: all or none of them.

    Raises:
        DataError: some are there and some are not.
    """
    names = informative(application, application.task)
    missing = [name for name in names if name not in columns]
    if missing and len(missing) < len(names):
        raise DataError(
            f"meta feature column{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing, "
            f"while {', '.join(name for name in names if name not in missing)} are there; give all of them or none"
        )
    return not missing


def infinite(name: str, row: int) -> DataError:
    """What is said of a number that float32 can't hold."""
    return DataError(f"column {name}, row {row}: the value is infinite in float32; send null for an unknown value")


def _encode(features: Sequence[Feature], table: pa.Table) -> Encoded:
    numeric, category = encode_features(features, table)
    if np.isinf(numeric).any():
        row, position = np.argwhere(np.isinf(numeric))[0]
        raise infinite([feature.name for feature in features if feature.kind == "numeric"][position], row)
    return numeric, category


def informative(application: Application, definition: Definition) -> list[str]:
    """Meta features beyond the definition's own key, which every request has; where there are none, all of them."""
    names = [feature.name for feature in application.meta_features(definition)]
    return [name for name in names if name not in definition.keys] or names


def _describes(
    application: Application, definition: Definition, numeric: npt.NDArray[np.float32], category: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """[R] whether a row's encoded features say anything to a definition's meta block: one known value is enough.

    `numeric` and `category` hold all features, those of the meta side first.
    """
    names = informative(application, definition)

    def used(kind: str) -> list[bool]:
        return [feature.name in names for feature in application.features.all if feature.kind == kind]

    known = ~np.isnan(numeric[:, used("numeric")]).all(axis=1)
    return known | (category[:, used("categorical")] != 0).any(axis=1)


def _nulls(application: Application, rows: int) -> Encoded:
    """Meta features of `rows` rows of which none is known."""
    numeric = sum(feature.kind == "numeric" for feature in application.features.meta)
    categorical = len(application.features.meta) - numeric
    return np.full((rows, numeric), np.nan, np.float32), np.zeros((rows, categorical), np.int64)
