"""Task keys as canonical texts, and as numbers where rows of several task definitions lie side by side."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.data.features import hash_texts
from limaml.schema import task_id

Indices = npt.NDArray[np.int64]


def task_texts(keys: list[pa.Array]) -> pa.Array:
    """The canonical text of each task's key."""
    if len(keys) == 1 and pa.types.is_integer(keys[0].type):
        return keys[0].cast(pa.string())
    return pa.array([task_id(*values) for values in zip(*(key.to_pylist() for key in keys), strict=True)], pa.string())


def distinct_tasks(keys: list[pa.Array]) -> tuple[Indices, Indices]:
    """A row of each of U distinct tasks, [U], and the index of each row's task, [R]; `keys` hold no nulls."""
    task_of_row = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        codes = key.dictionary_encode()
        pairs = task_of_row * max(len(codes.dictionary), 1) + codes.indices.to_numpy()
        task_of_row = np.unique(pairs, return_inverse=True)[1]
    return np.unique(task_of_row, return_index=True)[1], task_of_row


def task_codes(keys: list[pa.Array]) -> Indices:
    """[R] a 63-bit hash of the canonical text of each row's task, the same wherever that task is met.

    Two of n tasks share one with a chance of n²/2⁶⁴, 1 in 2000 at 100 million; those two then share an adaptation in
    training and an embedding in evaluation. Stores keep texts, so serving is not concerned.
    """
    first, task_of_row = distinct_tasks(keys)
    return hash_texts(task_texts([key.take(pa.array(first)) for key in keys]))[task_of_row]
