"""A small world in files: task sets, a model, embeddings, a published release; every part is the real one."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from limaml.config import Application
from limaml.data.batches import TaskBatch
from limaml.data.shards import ShardWriter
from limaml.data.tasks import TaskSet, feature_widths
from limaml.learning.encoders import fit_statistics
from limaml.learning.network import Network
from limaml.manifest import Manifest, read_manifest
from limaml.model import network_spec, save_model
from limaml.online.embeddings import generate_embeddings
from limaml.online.release import publish
from limaml.schema import task_set_schema
from limaml.stage import Stage, entries
from tests.monitoring.healthy import day

AS_OF = date(2023, 11, 15)


@dataclass
class World:
    """Makes the inputs of monitoring below one directory."""

    root: Path
    application: Application

    @property
    def store_url(self) -> str:
        return f"lmdb://{self.root}/store"

    def tasks(self, name: str, batch: TaskBatch) -> str:
        """A task set of these tasks."""
        uri = str(self.root / "tasks" / name)
        widths = feature_widths(self.application)
        schema = task_set_schema(**widths)
        stage = Stage("task_set", uri, self.application, ("task",), {"name": name})

        def build(directory: Path) -> Manifest:
            columns = [
                pa.array(np.array(batch.task_ids, object)[batch.task_of_row]),
                pa.array(batch.event_time).cast(schema.field("event_time").type),
                pa.array(batch.row_id),
                pa.array(batch.label).cast(pa.int8()),
                pa.array(batch.is_query),
                *(
                    pa.FixedSizeListArray.from_arrays(
                        pa.array(getattr(batch, column).reshape(-1), schema.field(column).type.value_type), width
                    )
                    for column, width in widths.items()
                ),
            ]
            with ShardWriter(directory / "shard=000.parquet", schema) as writer:
                writer.write(pa.Table.from_arrays(columns, schema=schema), batch.lengths)
            counts = {"tasks": batch.tasks, "rows": batch.rows}
            counts |= {"support_rows": int(batch.support.sum()), "query_rows": 0}
            return stage.manifest(entries(directory), counts, {"widths": widths})

        stage.run(build)
        return uri

    def model(self, train: str, version: str = "m1", seed: int = 0) -> str:
        """An untrained network fitted to the features of a task set: it adapts, embeds and scores like any other."""
        uri = str(self.root / "model" / version)
        stage = Stage("model", uri, self.application, (), {"seed": seed, "train": read_manifest(train).digest})

        def build(directory: Path) -> Manifest:
            batches = list(TaskSet.open(train).batches(4096))
            meta = fit_statistics([(b.meta_numeric, b.meta_category) for b in batches], [False, False], [4])
            other = fit_statistics([(b.other_numeric, b.other_category) for b in batches], [False, False], [8])
            torch.manual_seed(seed)
            network = Network(network_spec(self.application), meta, other)
            save_model(directory, version, self.application, {"limaml": network}, meta, other)
            return stage.manifest(entries(directory), {}, {"model_version": version, "train": train})

        stage.run(build)
        return uri

    def embeddings(self, model: str, tasks: str, name: str = "today") -> str:
        """The embeddings of a task set."""
        uri = str(self.root / "embeddings" / name)
        generate_embeddings(model, tasks, uri, self.application, AS_OF)
        return uri

    def release(self, embeddings: str) -> None:
        """Publish embeddings, promoted by a gate."""
        manifest = read_manifest(embeddings)
        uri = embeddings + "-decision"
        stage = Stage("decision", uri, self.application, (), {"embeddings": manifest.digest})
        details = {
            "promoted": True,
            "reasons": [],
            "model_version": manifest.details["model_version"],
            "embeddings_digest": manifest.digest,
        }
        stage.run(lambda _: stage.manifest([], {}, details))
        publish(embeddings, self.store_url, self.application, uri)


@dataclass
class Chain:
    """The URIs of one healthy day, published."""

    world: World
    reference: str
    recent: str
    previous: str
    model: str
    embeddings: str


@pytest.fixture
def world(tmp_path: Path, application: Application) -> World:
    """An empty one."""
    return World(tmp_path, application)


@pytest.fixture
def chain(world: World) -> Chain:
    """The day before and today: the same members, a few new, other samples."""
    yesterday = day(0, 800)
    today = TaskBatch.concatenate([yesterday.take(np.arange(700)), day(2, 100, first=800)])
    reference, recent = world.tasks("train", yesterday), world.tasks("recent", today)
    model = world.model(reference)
    previous = world.embeddings(model, reference, "yesterday")
    embeddings = world.embeddings(model, recent)
    world.release(embeddings)
    return Chain(world, reference, recent, previous, model, embeddings)
