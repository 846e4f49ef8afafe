"""What a scoring request brings: candidates as a table, checked and turned into task ids and feature arrays.

Shapes: R rows, one (task, item) candidate each; U distinct tasks.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.config import Application, Definition, Feature
from limaml.data import task_ids as ids
from limaml.data.features import encode_features
from limaml.data.interactions import task_key
from limaml.errors import DataError


def distinct_tasks(keys: Sequence[str], table: pa.Table) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Canonical texts of the U distinct tasks, and [R] the index of each row's task.

    Raises:
        DataError: a key column is missing, of a wrong type, or null somewhere.
    """
    if missing := [name for name in keys if name not in table.column_names]:
        raise DataError(
            f"task key column{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing; "
            f"the columns are {', '.join(table.column_names)}"
        )
    columns = [task_key(name, table[name].combine_chunks()) for name in keys]
    first, task_of_row = ids.distinct_tasks(columns)
    return ids.task_texts([column.take(pa.array(first)) for column in columns]).to_pylist(), task_of_row


def _informative(application: Application, definition: Definition) -> list[str]:
    """Meta features beyond the definition's own key, which every request has; where there are none, all of them."""
    names = [feature.name for feature in application.meta_features(definition)]
    return [name for name in names if name not in definition.keys] or names


def has_meta(application: Application, table: pa.Table) -> bool:
    """Whether the request brings the first definition's meta features: all or none of them.

    Raises:
        DataError: some are there and some are not.
    """
    names = _informative(application, application.task)
    missing = [name for name in names if name not in table.column_names]
    if missing and len(missing) < len(names):
        raise DataError(
            f"meta feature column{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing, "
            f"while {', '.join(name for name in names if name not in missing)} are there; give all of them or none"
        )
    return not missing


def describes(
    application: Application, definition: Definition, numeric: npt.NDArray[np.float32], category: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """[R] whether a row's encoded features say anything to a definition's meta block: one known value is enough.

    `numeric` and `category` hold all features, those of the meta side first.
    """
    names = _informative(application, definition)
    kinds = ("numeric", "categorical")
    used = {kind: [f.name in names for f in application.features.all if f.kind == kind] for kind in kinds}
    known = ~np.isnan(numeric[:, used["numeric"]]).all(axis=1)
    return known | (category[:, used["categorical"]] != 0).any(axis=1)


def encode(features: Sequence[Feature], table: pa.Table) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """A request's features as arrays; R rows.

    Raises:
        DataError: a column is missing or of a wrong type, or a value is infinite.
    """
    numeric, category = encode_features(features, table)
    if np.isinf(numeric).any():
        row, position = np.argwhere(np.isinf(numeric))[0]
        name = [feature.name for feature in features if feature.kind == "numeric"][position]
        raise DataError(f"column {name}, row {row}: the value is infinite in float32; send null for an unknown value")
    return numeric, category


def nulls(application: Application, rows: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Meta features of `rows` rows of which none is known."""
    numeric = sum(feature.kind == "numeric" for feature in application.features.meta)
    categorical = len(application.features.meta) - numeric
    return np.full((rows, numeric), np.nan, np.float32), np.zeros((rows, categorical), np.int64)
