"""Task batches as a healthy day gives them: few heavy tasks, ties, nulls, categories; with room for planted faults."""

import numpy as np

from limaml.config import Application
from limaml.data.batches import TaskBatch


def day(seed: int, tasks: int = 700, shift: float = 0.0, first: int = 0, width: int = 2) -> TaskBatch:
    """Tasks `first…` with heavy-tailed sample counts; `shift` moves the first numeric feature of the other side."""
    generator = np.random.default_rng(seed)
    lengths = np.minimum(1 + generator.pareto(1.2, tasks) * 6, 64).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = int(offsets[-1])
    member = generator.normal(size=(tasks, width)).astype(np.float32)
    member[generator.random(tasks) < 0.05, 1] = np.nan
    kind = generator.integers(1, 5, (tasks, 1))
    other = generator.normal(size=(rows, width)).astype(np.float32)
    other[:, 0] += shift
    other[:, 1] = np.where(generator.random(rows) < 0.6, 0.0, generator.integers(0, 5, rows))
    return TaskBatch(
        task_ids=[str(first + i) for i in range(tasks)],
        offsets=offsets,
        support=lengths,
        label=(generator.random(rows) < 0.2).astype(np.float32),
        event_time=1_700_000_000_000_000 + np.arange(rows),
        row_id=np.arange(rows),
        meta_numeric=np.repeat(member, lengths, axis=0),
        meta_category=np.repeat(kind, lengths, axis=0),
        other_numeric=other,
        other_category=generator.zipf(1.8, (rows, 1)) % 40,
    )


def names(application: Application) -> list[str]:
    """Feature names in the order of the configuration."""
    return [feature.name for feature in application.features.all]
