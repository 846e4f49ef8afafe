"""Small experiments with a known truth, as tables and as folders."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limaml.config import Experiment
from limaml.experiment.assignment import CONTROL, TREATMENT, in_treatment
from limaml.experiment.exposures import SIGNUPS, VISITS, exposure_schema
from limaml.windows import Window

START = date(2026, 3, 2)
EXPERIMENT = Experiment()


@dataclass(frozen=True)
class Logs:
    exposures: pa.Table
    visits: pa.Table
    signups: pa.Table
    window: Window


def make_logs(members: int = 3000, days: int = 14, lift: float = 0.0, visit_lift: float = 0.0, seed: int = 0) -> Logs:
    """Members of different activity and taste; treatment multiplies click and daily visit probabilities."""
    rng = np.random.default_rng(seed)
    window = Window(start=START, end=START + timedelta(days=days))
    ids = np.arange(members) * 13 + 5
    treated = in_treatment(ids, EXPERIMENT)
    taste = rng.beta(2, 14, members) * np.where(treated, 1 + lift, 1)
    shown = 1 + rng.poisson(rng.gamma(1.0, 6.0, members))
    member = np.repeat(np.arange(members), shown)
    rows = len(member)
    exposures = pa.table(
        {
            "experiment": [EXPERIMENT.name] * rows,
            "request_id": np.arange(rows),
            "member_id": ids[member],
            "item_id": rng.integers(1, 50, rows),
            "position": np.ones(rows, np.int32),
            "variant": np.where(treated[member], TREATMENT, CONTROL),
            "score": taste[member].astype(np.float32),
            "model_version": ["m"] * rows,
            "generation": ["g"] * rows,
            "reason": rng.choice(["fresh", "zero_shot"], rows, p=[0.8, 0.2]),
            "embedding_age_seconds": np.full(rows, 3600, np.float32),
            "cohort": pa.nulls(rows, pa.string()),
            "event_time": _times(rng.random(rows) * days),
            "label": (rng.random(rows) < taste[member]).astype(np.int8),
        },
        schema=exposure_schema(),
    )
    # Half a year of visits: a habit each, some members only long ago or never.
    habit = rng.beta(0.5, 6, members) * (rng.random(members) > 0.2)
    day, who = np.meshgrid(np.arange(-60, days), np.arange(members), indexing="ij")
    gone = (rng.random(members) < 0.2)[who] & (day > -35) & (day < 0)
    chance = habit[who] * np.where(treated[who] & (day >= 0), 1 + visit_lift, 1)
    comes = (rng.random(day.shape) < chance) & ~gone
    visits = pa.table(
        {"member_id": ids[who[comes]], "visit_time": _times(day[comes] + rng.random(int(comes.sum())))}, schema=VISITS
    )
    signups = pa.table({"member_id": ids, "signup_time": _times(-300 * rng.random(members))}, schema=SIGNUPS)
    return Logs(exposures, visits, signups, window)


def _times(days: np.ndarray) -> pa.Array:
    start = int(datetime(START.year, START.month, START.day, tzinfo=UTC).timestamp() * 1e6)
    micro = start + np.floor(days * 86_400e6).astype(np.int64)
    return pa.array(micro, pa.timestamp("us", tz="UTC"))


def write_logs(logs: Logs, root: Path, files_per_day: int = 1) -> dict[str, str]:
    """The folders of an experiment, in as many files as wanted."""
    for name, table, column in (
        ("exposures", logs.exposures, "event_time"),
        ("visits", logs.visits, "visit_time"),
        ("signups", logs.signups, None),
    ):
        days = [None] * len(table) if column is None else [t.date() for t in table[column].to_pylist()]
        for day in sorted(set(days), key=str):
            mine = table.filter(pa.array([d == day for d in days]))
            folder = root / name / (f"date={day}" if day else "")
            folder.mkdir(parents=True, exist_ok=True)
            for part in range(files_per_day):
                pq.write_table(mine.take(np.arange(part, len(mine), files_per_day)), folder / f"part-{part}.parquet")
    return {name: str(root / name) for name in ("exposures", "visits", "signups")}
