"""A log in which only personal taste decides: nothing but adaptation can predict it."""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limaml.config import Application, parse_application
from limaml.data.tasks import group_tasks
from limaml.manifest import Manifest
from limaml.stage import Stage, entries
from limaml.windows import training_splits
from tests.conftest import SMALL

AS_OF = date(2026, 1, 13)
APPLICATION: Application = parse_application(
    SMALL
    | {
        "windows": {"train_days": 8, "validation_days": 2, "test_days": 2, "lookback_days": 8},
        "training": SMALL["training"] | {"epochs": 6, "tasks_per_batch": 32, "global_learning_rate": 0.04},
        "gate": {"minimum_rows": 100, "maximum_calibration_error": 0.5},
    },
    "planted",
)


@dataclass(frozen=True)
class TaskSets:
    """URIs of the three task sets of a training run."""

    train: str
    validation: str
    test: str


def interactions(members: int = 200, per_day: int = 4, seed: int = 0) -> pa.Table:
    """Twelve days; a member likes the items on one side of a line of their own."""
    rng = np.random.default_rng(seed)
    days = 12
    rows = members * per_day * days
    member = np.tile(np.repeat(np.arange(members), per_day), days)
    second = np.repeat(np.arange(days), members * per_day) * 86_400 + rng.integers(0, 86_400, rows)
    angle = rng.uniform(0, 2 * np.pi, members)[member]
    item = rng.normal(size=(rows, 2))
    likes = item[:, 0] * np.cos(angle) + item[:, 1] * np.sin(angle) > 0
    start = np.datetime64((AS_OF - timedelta(days=days)).isoformat(), "us").astype(np.int64)
    return pa.table(
        {
            "member_id": member,
            "item_id": rng.integers(0, 50, rows),
            "impression_id": np.arange(rows),
            "event_time": pa.array(start + second * 1_000_000).cast(pa.timestamp("us", tz="UTC")),
            "label": likes.astype(np.int8),
            "member_x0": rng.normal(size=rows),
            "member_x1": rng.normal(size=rows),
            "member_kind": pa.array(["one"] * rows),
            "item_x0": item[:, 0],
            "item_x1": item[:, 1],
            "notification_type": pa.array(["type"] * rows),
        }
    )


def group_all(folder: Path, application: Application = APPLICATION, log: pa.Table | None = None) -> TaskSets:
    """Group a log into the task sets of a training run."""
    rows = interactions() if log is None else log
    stage = Stage("validated", str(folder / "validated"), application, (), {"rows": rows.num_rows})

    def build(directory: Path) -> Manifest:
        pq.write_table(rows, directory / "kept.parquet")
        return stage.manifest(entries(directory, {"kept.parquet": len(rows)}), {"rows": len(rows)}, {"passed": True})

    stage.run(build)
    for name, split in training_splits(application.windows, AS_OF).items():
        group_tasks(stage.output, str(folder / name), application, split)
    return TaskSets(*(str(folder / name) for name in ("train", "validation", "test")))
