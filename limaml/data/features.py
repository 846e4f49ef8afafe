"""Raw columns become arrays: the one place, offline and online.

Numeric features stay raw (the network's encoder standardizes and takes logarithms); categorical values become codes by
hashing their text, so that no vocabulary has to travel and the same value gives the same code on every machine.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.config import Feature
from limaml.errors import DataError

NULL_CODE = 0

# What is kept of one-value codes: values that come again are short, and long ones would fill the memory.
_KEPT_CODES = 1 << 16
_KEPT_CHARACTERS = 64


def encode_features(
    features: Sequence[Feature], table: pa.Table | pa.RecordBatch
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Numeric values and category codes of R rows, each in the order of `features`.

    Args:
        features: n numeric and c categorical features, in any mixture.
        table: R rows with at least their columns; others are ignored.

    Returns:
        numeric [R, n] float32 with NaN for null, and codes [R, c] int64 with 0 for null.

    Raises:
        DataError: a column is missing or its type can't be read as its kind.
    """
    missing = [feature.name for feature in features if feature.name not in table.schema.names]
    if missing:
        raise DataError(
            f"feature column{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing; "
            f"the columns are {', '.join(table.schema.names)}"
        )
    numeric = [feature.name for feature in features if feature.kind == "numeric"]
    categorical = [feature.name for feature in features if feature.kind == "categorical"]
    values = [_numbers(name, _contiguous(table.column(name))) for name in numeric]
    codes = [category_codes(_contiguous(table.column(name)), name) for name in categorical]
    return _interleave(values, table.num_rows, np.float32), _interleave(codes, table.num_rows, np.int64)


def category_codes(values: pa.Array, name: str = "value") -> npt.NDArray[np.int64]:
    """Codes of categorical values: [R] int64, a 63-bit BLAKE2b hash of each value's text, 0 for null.

    The text is canonical, so the integer 3, the float 3.0 and the string "3" are one value; booleans are "true" and
    "false"; a float NaN is null.

    Raises:
        DataError: the type has no canonical text (a list, a struct, a time); `name` is named.
    """
    if pa.types.is_null(values.type):
        return np.full(len(values), NULL_CODE, np.int64)
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(
            f"column {name}: a categorical feature must be a string, an integer, a float or a boolean, not {kind}; "
            "convert it upstream"
        )
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    texts = _canonical_text(encoded.dictionary)
    # The code of null stands behind the codes of the dictionary, where the indices of nulls are sent.
    table = np.append(hash_texts(texts), np.int64(NULL_CODE))
    indices = encoded.indices
    if indices.null_count:
        indices = indices.cast(pa.int64()).fill_null(len(table) - 1)
    return table[indices.to_numpy(zero_copy_only=False)]


def category_code(value: str | float | bool | None) -> int:
    """The code of one plain value: what `category_codes` gives it, without a column around it."""
    if type(value) is str and len(value) > _KEPT_CHARACTERS:
        return _hash(value.encode())
    return _kept_code(value)


def category_text(value: str | float | bool | None) -> str | None:
    """The canonical text of one plain value, None for null."""
    if value is None:
        return None
    if isinstance(value, float):
        return _canonical_text(pa.array([value])).to_pylist()[0]
    return str(value).lower() if isinstance(value, bool) else str(value)


def plain_codes(values: list[Any]) -> list[int]:
    """The codes of a column of plain values."""
    if len(values) > 1 and set(map(type, values)) == {str}:
        codes = {value: category_code(value) for value in set(values)}
        return [codes[value] for value in values]
    # 1, 1.0 and True would be one key, but are not one value.
    return [category_code(value) for value in values]


@lru_cache(_KEPT_CODES, typed=True)
def _kept_code(value: str | float | bool | None) -> int:
    text = category_text(value)
    return NULL_CODE if text is None else _hash(text.encode())


def _hash(text: bytes) -> int:
    return max(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1, 1)


def hash_texts(texts: pa.Array) -> npt.NDArray[np.int64]:
    """[N] int64 in [1, 2^63) of N strings by their UTF-8 bytes; 0 for null. Equal on every platform and version."""
    digests = [
        bytes(8) if text is None else hashlib.blake2b(text, digest_size=8).digest()
        for text in texts.cast(pa.binary()).to_pylist()
    ]
    codes = (np.frombuffer(b"".join(digests), "<u8") >> np.uint64(1)).astype(np.int64)
    if not texts.null_count:
        return np.maximum(codes, 1)
    return np.where(texts.is_null().to_numpy(zero_copy_only=False), NULL_CODE, np.maximum(codes, 1))


def _contiguous(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _numbers(name: str, column: pa.Array) -> npt.NDArray[np.float32]:
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan, np.float32)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(
            f"column {name}: a numeric feature must be an integer, a float or a boolean, not {kind}; "
            "convert it upstream or declare it `kind: categorical`"
        )
    numbers = column.cast(pa.float32(), safe=False)
    if numbers.null_count:
        numbers = numbers.fill_null(np.nan)
    return numbers.to_numpy(zero_copy_only=False)


def _canonical_text(values: pa.Array) -> pa.Array:
    texts = values.cast(pa.string())
    if not pa.types.is_floating(values.type):
        return texts
    pairs = zip(values.cast(pa.float64()).to_pylist(), texts.to_pylist(), strict=True)
    return pa.array([_float_text(number, text) for number, text in pairs], pa.string())


def _float_text(number: float | None, text: str) -> str | None:
    if number is None or number != number:
        return None
    return str(int(number)) if number.is_integer() else text


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _interleave(columns: list[np.ndarray], rows: int, dtype: npt.DTypeLike) -> np.ndarray:
    matrix = np.empty((rows, len(columns)), dtype)
    # By blocks that stay in the cache: four times as fast as one column after the other.
    for start in range(0, rows, 8192):
        for position, column in enumerate(columns):
            matrix[start : start + 8192, position] = column[start : start + 8192]
    return matrix
