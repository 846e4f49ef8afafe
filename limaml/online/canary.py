"""What a store answers against what the model makes: no sum, count or distribution sees embeddings under wrong keys."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limaml.data.batches import TaskBatch
from limaml.model import Model
from limaml.online.records import Precision
from limaml.online.store import Reader
from limaml.schema import stored_id

Floats = npt.NDArray[np.float32]

CANARY_TASKS = 1000
# Another batch or device rounds differently, and a rare step then falls on the other side of a kink; swapped keys
# differ for nearly every task.
CANARY_MISMATCH = 0.005


@dataclass(frozen=True)
class Canary:
    """Fixed tasks whose embeddings were made anew and compared with what the store returned.

    Attributes:
        tasks: how many the store returned an embedding of.
        mismatches: how many of these differ.
        largest_error: of any coordinate, relative to its size where that is above 1.
        missing: how many tasks had no embedding in the store.
    """

    tasks: int
    mismatches: int
    largest_error: float
    missing: int = 0


def compare_canary(expected: Floats, stored: Floats, found: npt.NDArray[np.bool_], dtype: Precision) -> Canary:
    """Compare embeddings [T, W] made anew with stored ones, where `found` [T].

    A coordinate may differ by 1e-5 of its size (at least 1e-5), plus the rounding of a float16 store.
    """
    made, read = expected[found].astype(np.float64), stored[found].astype(np.float64)
    missing = int((~found).sum())
    if not len(made):
        return Canary(0, 0, 0.0, missing)
    size = np.maximum(np.abs(made), 1.0)
    error = np.abs(made - read)
    allowed = 1e-5 * size
    if dtype == "float16":
        allowed = allowed + 2.0**-11 * np.abs(made) + 2.0**-24
    wrong = ~(error <= allowed).all(axis=1)
    return Canary(len(made), int(wrong.sum()), float((error / size).max()), missing)


def compare_with_store(
    model: Model, sample: TaskBatch, reader: Reader, steps: int, pooling: str, number: int = 0, definition: str = ""
) -> Canary:
    """Make the embeddings of a sample's first tasks anew and compare them with what the store returns.

    `number` and `definition` are the place and the name of the task definition the sample is grouped by.
    """
    batch = sample.support_only(np.flatnonzero(sample.support > 0)[:CANARY_TASKS])
    if not batch.tasks:
        return Canary(0, 0, 0.0)
    records = reader.get([stored_id(definition, task) for task in batch.task_ids])
    expected = embed(model, batch, steps, pooling, number)
    return compare_canary(expected, records.embedding, records.found, reader.generation.dtype)


def scores_as_served(model: Model, batch: TaskBatch, reader: Reader) -> tuple[Floats, Floats]:
    """[R] scores with the stored embeddings, zero-shot where there is none, as a request is answered; and [R] without.

    The store is asked for the first definition's tasks only: of any others, a row keeps the un-adapted embedding.
    """
    records = reader.get(batch.task_ids)
    task = batch.task_of_row
    other = (batch.other_numeric, batch.other_category)
    embedding = model.zero_shot(batch.meta_numeric, batch.meta_category, *other)
    unadapted = model.score(embedding, *other)
    own = embedding[:, : model.embedding_width]
    own[:] = np.where(records.found[task, None], records.embedding[task], own)
    return model.score(embedding, *other), unadapted


def embed(model: Model, batch: TaskBatch, steps: int, pooling: str, number: int = 0) -> Floats:
    """[T, W], a bounded number of tasks at a time: each holds its own parameters in memory."""
    size = model.application.embeddings.tasks_per_batch
    parts = [np.arange(start, min(start + size, batch.tasks)) for start in range(0, batch.tasks, size)]
    return np.concatenate([model.embed(batch.take(part), steps, pooling, number) for part in parts])
