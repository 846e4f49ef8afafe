"""One task's embedding as bytes in an online store: fixed size, little-endian, the same in every store.

The byte format is written down in `docs/online_store_format.md`; raise `FORMAT` when it changes.
Shapes: N task ids asked for, W width of an embedding.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.errors import DataError, StoreError
from limaml.schema import EMBEDDING, NEWEST_EVENT_TIME, SAMPLES, TASK_ID, TIMESTAMP

FORMAT = 2
MAXIMUM_KEY_BYTES = 511  # LMDB's limit, and the smallest of the stores'
TOMBSTONE = b""  # the value of a task that was removed

Precision = Literal["float32", "float16"]

_NUMBERS: Mapping[Precision, str] = {"float32": "<f4", "float16": "<f2"}


@cache
def value_dtype(width: int, precision: Precision) -> np.dtype:
    """Layout of one value, packed."""
    return np.dtype([(EMBEDDING, _NUMBERS[precision], (width,)), (NEWEST_EVENT_TIME, "<i8"), (SAMPLES, "<i4")])


def encode_key(task_id: str) -> bytes:
    """The key of a task: its canonical text in UTF-8.

    Raises:
        DataError: it is empty or longer than a store can hold.
    """
    key = task_id.encode()
    if not 0 < len(key) <= MAXIMUM_KEY_BYTES:
        raise DataError(
            f"a task key of {len(key)} bytes: a key needs 1 to {MAXIMUM_KEY_BYTES} bytes of UTF-8; "
            "choose shorter key columns"
        )
    return key


def encode(table: pa.Table, width: int, precision: Precision) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of rows of `schema.embedding_schema(width)`.

    Raises:
        DataError: a key no store can hold, or an embedding that is not finite in this precision.
    """
    # As bytes in one step: a Python string for every row would cost more than everything else here.
    keys = table[TASK_ID].cast(pa.binary()).to_pylist()
    if len(keys) and not 0 < min(map(len, keys)) <= max(map(len, keys)) <= MAXIMUM_KEY_BYTES:
        for key in keys:
            encode_key(key.decode())
    embedding = embedding_matrix(table, width)
    records = np.empty(len(table), dtype=value_dtype(width, precision))
    with np.errstate(over="ignore"):
        records[EMBEDDING] = embedding
    broken = np.flatnonzero(~np.isfinite(records[EMBEDDING]).all(axis=1))
    if len(broken):
        raise DataError(
            f"task {keys[broken[0]].decode()}: its embedding is not finite in {precision} (largest coordinate "
            f"{np.abs(embedding[broken[0]]).max():.3g}), and {len(broken) - 1} more; "
            "check the model, or set store.dtype to float32"
        )
    records[NEWEST_EVENT_TIME] = table[NEWEST_EVENT_TIME].cast(TIMESTAMP).cast(pa.int64()).to_numpy()
    records[SAMPLES] = table[SAMPLES].to_numpy()
    data, size = records.tobytes(), records.dtype.itemsize
    return keys, [data[i : i + size] for i in range(0, len(data), size)]


class Layout:
    """How values of one kind are read; made once for many requests, since what is looked up in each adds up.

    Attributes:
        dtype: of one value, as `value_dtype`.
    """

    def __init__(self, width: int, precision: Precision) -> None:
        self.dtype = value_dtype(width, precision)
        self.size = self.dtype.itemsize
        self._name = f"{width} × {precision}"
        self._width = width
        self._number = np.dtype(_NUMBERS[precision])
        self._strides = self.size, self._number.itemsize
        self._absent = bytes(self.size)

    def check(self, value: bytes) -> None:
        """See that a value is of this format's size.

        Raises:
            StoreError: it is not.
        """
        if len(value) != self.size:
            raise StoreError(
                f"a stored value has {len(value)} bytes where {self.size} are due ({self._name}): "
                "the generation is damaged; roll back, then publish again"
            )

    def together(self, values: Sequence[bytes | None]) -> bytes:
        """N values one after the other, zeros where there is none."""
        return b"".join([value or self._absent for value in values])

    def embeddings(self, values: Sequence[bytes | None]) -> npt.NDArray[np.float32]:
        """[N, W] their embeddings; not to be written to."""
        # They come first in a value. As one view: a field of a structured array takes three times as long.
        shape = len(values), self._width
        return np.ndarray(shape, self._number, self.together(values), 0, self._strides).astype(np.float32, copy=False)


class Records:
    """What a store answered for N task ids, decoded where it is asked for: most of a request's time is not arithmetic.

    Attributes:
        values: N values as they are stored; None where a task is absent, `TOMBSTONE` where it was removed.
        complete: whether the generation holds every one of the tasks.
    """

    __slots__ = ("_layout", "complete", "values")

    def __init__(self, values: Sequence[bytes | None], layout: Layout) -> None:
        """Check sizes.

        Raises:
            StoreError: a value is not of this format's size.
        """
        self.values = values
        self.complete = all(values)
        self._layout = layout
        for value in values:
            if value:
                layout.check(value)

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """[N] whether the generation holds the task."""
        return np.array([bool(value) for value in self.values], bool)

    @property
    def embedding(self) -> npt.NDArray[np.float32]:
        """[N, W] of those found, zeros for the others; not to be written to."""
        return self._layout.embeddings(self.values)

    @property
    def newest_event_time(self) -> npt.NDArray[np.int64]:
        """[N] microseconds since the epoch, UTC."""
        return self._decoded[NEWEST_EVENT_TIME]

    @property
    def samples(self) -> npt.NDArray[np.int32]:
        """[N] how many samples an embedding was fine-tuned on."""
        return self._decoded[SAMPLES]

    @property
    def _decoded(self) -> np.ndarray:
        return np.frombuffer(self._layout.together(self.values), self._layout.dtype)


def chunk_sum(keys: Sequence[bytes], values: Sequence[bytes]) -> str:
    """SHA-256 of a chunk: key lengths as uint16, then all keys, then all values."""
    digest = hashlib.sha256(np.fromiter(map(len, keys), "<u2", len(keys)).tobytes())
    digest.update(b"".join(keys))
    digest.update(b"".join(values))
    return digest.hexdigest()


def embedding_matrix(table: pa.Table, width: int) -> npt.NDArray[np.float32]:
    """The embedding column as [N, width] float32.

    Raises:
        DataError: the column is of another type or width, or holds nulls.
    """
    column = table[EMBEDDING]
    if column.type != pa.list_(pa.float32(), width) or column.null_count:
        raise DataError(
            f"column {EMBEDDING}: {column.type} with {column.null_count} nulls, where float lists of width {width} "
            "without nulls are due"
        )
    # zero rows have no chunk to flatten
    if len(table) == 0:
        return np.empty((0, width), dtype=np.float32)
    return np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]).reshape(-1, width)
