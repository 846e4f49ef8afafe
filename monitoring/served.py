"""What the online store answers for the tasks of a task set, as a request would see it: coverage, canary, scores."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from limaml.data.batches import TaskBatch
from limaml.model import Model
from limaml.online.records import Records
from limaml.online.store import Reader
from monitoring.staleness import CANARY_TASKS, Canary, compare_canary

Floats = npt.NDArray[np.float32]


@dataclass
class Coverage:
    """How many active tasks find an embedding, over a stream; `behind`: it has not seen their newest event."""

    active: int = 0
    found: int = 0
    behind: int = 0
    samples: list[npt.NDArray[np.int32]] = field(default_factory=list)

    def add(self, batch: TaskBatch, records: Records | None) -> None:
        """Count the tasks of a batch and the store's answers for them; None where nothing is published."""
        self.active += batch.tasks
        if records is None:
            return
        newest = batch.event_time[batch.offsets[1:] - 1]
        self.found += int(records.found.sum())
        self.behind += int((records.found & (records.newest_event_time < newest)).sum())
        self.samples.append(records.samples[records.found])

    @property
    def figures(self) -> dict[str, float | int | None]:
        """Counts, the share that is behind, and quartiles of the samples behind an embedding."""
        samples = np.concatenate(self.samples) if self.found else np.empty(0, np.int32)
        quartiles = np.percentile(samples, [25, 50, 75]).tolist() if len(samples) else [None] * 3
        return {
            "active_tasks": self.active,
            "found_tasks": self.found,
            "behind_ratio": self.behind / self.found if self.found else None,
            **dict(zip(("samples_p25", "samples_p50", "samples_p75"), quartiles, strict=True)),
        }


def compare_with_store(model: Model, sample: TaskBatch, reader: Reader, steps: int, pooling: str) -> Canary:
    """Make the embeddings of fixed tasks anew and compare them with what the store returns."""
    batch = sample.take(np.flatnonzero(sample.support > 0)[:CANARY_TASKS]).support_only()
    if not batch.tasks:
        return Canary(0, 0, 0.0)
    records = reader.get(batch.task_ids)
    return compare_canary(
        _embed(model, batch, steps, pooling), records.embedding, records.found, reader.generation.dtype
    )


def scores_as_served(model: Model, batch: TaskBatch, reader: Reader) -> Floats:
    """[R] scores with the stored embeddings; zero-shot where there is none, as a request is answered.

    The store is asked for the first definition's tasks only: of any others, a row keeps the un-adapted embedding.
    """
    records = reader.get(batch.task_ids)
    task = batch.task_of_row
    other = (batch.other_numeric, batch.other_category)
    embedding = model.zero_shot(batch.meta_numeric, batch.meta_category, *other)
    own = embedding[:, : model.embedding_width]
    own[:] = np.where(records.found[task, None], records.embedding[task], own)
    return model.score(embedding, *other)


def scores_at_training(model: Model, batch: TaskBatch, steps: int, pooling: str) -> Floats:
    """[R] scores of the reference's tasks, each adapted on all its rows as a refresh would have."""
    adapted = _embed(model, replace(batch, support=batch.lengths), steps, pooling)
    other = (batch.other_numeric, batch.other_category)
    embedding = model.zero_shot(batch.meta_numeric, batch.meta_category, *other)
    embedding[:, : model.embedding_width] = adapted[batch.task_of_row]
    return model.score(embedding, *other)


def _embed(model: Model, batch: TaskBatch, steps: int, pooling: str) -> Floats:
    """[T, W], a bounded number of tasks at a time: each holds its own parameters in memory."""
    size = model.application.embeddings.tasks_per_batch
    parts = [np.arange(start, min(start + size, batch.tasks)) for start in range(0, batch.tasks, size)]
    return np.concatenate([model.embed(batch.take(part), steps, pooling) for part in parts])
