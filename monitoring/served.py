"""What the online store answers for the tasks of a task set, and how the reference was scored."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from limaml.data.batches import TaskBatch
from limaml.model import Model
from limaml.online.canary import embed
from limaml.online.records import Records

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


def scores_at_training(model: Model, batch: TaskBatch, steps: int, pooling: str) -> Floats:
    """[R] scores of the reference's tasks, each adapted on all its rows as a refresh would have."""
    adapted = embed(model, replace(batch, support=batch.lengths), steps, pooling)
    other = (batch.other_numeric, batch.other_category)
    embedding = model.zero_shot(batch.meta_numeric, batch.meta_category, *other)
    embedding[:, : model.embedding_width] = adapted[batch.task_of_row]
    return model.score(embedding, *other)
