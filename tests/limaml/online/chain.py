"""A small real chain, interactions → tasks → model, that the tests of embeddings and scoring stand on."""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from limaml.config import Application
from limaml.data.features import encode_features
from limaml.data.tasks import group_tasks
from limaml.learning.encoders import FeatureStatistics, fit_statistics
from limaml.learning.network import Network
from limaml.manifest import Manifest
from limaml.model import network_spec, save_model
from limaml.stage import Stage, entries
from limaml.windows import TaskSplit, Window

START = date(2026, 1, 1)
AS_OF = date(2026, 1, 8)
MEMBERS = 60


@dataclass(frozen=True)
class Chain:
    """URIs of a task set and a model, and the interactions they came from. Members from 50 on act on the last day only,
    so they have no support row.
    """

    application: Application
    rows: pa.Table
    tasks: str
    model: str


def interactions(seed: int = 0) -> pa.Table:
    """A log of eight days; `MEMBERS` members, the last ten of them new on the last day."""
    rng = np.random.default_rng(seed)
    member = np.concatenate([rng.integers(0, 50, 600), np.repeat(np.arange(50, MEMBERS), 2)])
    second = np.concatenate([rng.integers(0, 8 * 86_400, 600), rng.integers(7 * 86_400, 8 * 86_400, 20)])
    start = np.datetime64(START.isoformat(), "us").astype(np.int64)
    rows = len(member)
    kind = rng.integers(0, 4, MEMBERS)[member]
    return pa.table(
        {
            "member_id": member,
            "item_id": rng.integers(0, 100, rows),
            "impression_id": np.arange(rows),
            "event_time": pa.array(start + second * 1_000_000).cast(pa.timestamp("us", tz="UTC")),
            "label": rng.integers(0, 2, rows).astype(np.int8),
            "member_x0": rng.normal(size=MEMBERS)[member],
            "member_x1": rng.normal(size=MEMBERS)[member],
            "member_kind": pa.array([f"kind-{k}" for k in kind]),
            "item_x0": rng.normal(size=rows),
            "item_x1": rng.normal(size=rows),
            "notification_type": pa.array([f"type-{k}" for k in rng.integers(0, 5, rows)]),
        }
    )


def write_model(folder: Path, version: str, application: Application, rows: pa.Table, scale: float = 1.0) -> str:
    """URI of a model with random weights, its numbers multiplied by `scale`."""
    generator = np.random.default_rng(list(version.encode()))
    statistics: list[FeatureStatistics] = []
    for features in (application.features.meta, application.features.other):
        log = [f.transform == "log" for f in features if f.kind == "numeric"]
        sizes = [f.vocabulary for f in features if f.kind == "categorical"]
        statistics.append(fit_statistics([encode_features(features, rows)], log, sizes))
    networks = {}
    for algorithm in ("limaml", "vanilla"):
        torch.manual_seed(int(generator.integers(1 << 31)))
        networks[algorithm] = Network(network_spec(application, algorithm), *statistics).eval()
        with torch.no_grad():
            for parameter in networks[algorithm].meta_block.parameters():
                parameter.mul_(scale)
    if networks["limaml"].spec.base == "frozen":
        networks["limaml"].stand_on(networks["vanilla"])
    stage = Stage("model", str(folder / version), application, ("network",), {"version": version, "scale": scale})

    def build(directory: Path) -> Manifest:
        save_model(directory, version, application, networks, *statistics)
        return stage.manifest(entries(directory), {}, {"model_version": version})

    stage.run(build)
    return stage.output


def group(folder: Path, application: Application, rows: pa.Table, as_of: date = AS_OF) -> str:
    """URI of the task set of the week before `as_of` and its day, support before it and query from it on."""
    stage = Stage("validated", str(folder / "validated"), application, (), {"rows": rows.num_rows})

    def build(directory: Path) -> Manifest:
        pq.write_table(rows, directory / "kept.parquet")
        return stage.manifest(entries(directory, {"kept.parquet": len(rows)}), {"rows": len(rows)}, {"passed": True})

    stage.run(build)
    window = Window(start=START, end=as_of + timedelta(days=1))
    output = str(folder / f"tasks-{as_of}")
    group_tasks(stage.output, output, application, TaskSplit(name="recent", window=window, boundary=as_of))
    return output


def build_chain(folder: Path, application: Application) -> Chain:
    """The chain below a folder."""
    rows = interactions()
    model = write_model(folder / "model", "m1", application, rows)
    return Chain(application, rows, group(folder, application, rows), model)


def with_embeddings(application: Application, **changes: object) -> Application:
    """The application with another `embeddings` section."""
    return application.model_copy(update={"embeddings": application.embeddings.model_copy(update=changes)})
