"""Daily meta embeddings (Alg. 2b): from θ_meta, k steps on each task's recent samples, then score the newest of them.

One output shard per shard of the task set, each finished file kept when a run is killed. Memory holds two row groups of
samples and the embeddings of one shard, twice where some are carried over from the day before.
"""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from limaml import storage
from limaml.config import Application
from limaml.console import progress
from limaml.data.batches import TaskBatch
from limaml.data.digests import support_digests
from limaml.data.shards import open_shard, row_groups, support_parts
from limaml.data.tasks import TaskSet
from limaml.errors import ConfigError, DataError
from limaml.learning.buffers import keep_freed_memory
from limaml.manifest import FileEntry, Manifest, file_uri, read_manifest
from limaml.model import Model, load_model
from limaml.online.previous import Previous, PreviousShard, write_removed
from limaml.schema import (
    AS_OF,
    EMBEDDING,
    MODEL_VERSION,
    NEWEST_EVENT_TIME,
    REMOVED,
    SAMPLES,
    SUPPORT_DIGEST,
    TASK_ID,
    embedding_schema,
    stored_id,
)
from limaml.stage import Stage, entries
from limaml.windows import day_start

log = logging.getLogger(__name__)

# What batches of more rows would save in calls, they lose to the processor's cache.
ROWS_PER_BATCH = 1 << 13
ROW_GROUP_ROWS = 1 << 16
# Only these columns repeat; the bytes of floats compress when split by position.
_ENCODING: dict[str, Any] = {
    "use_dictionary": [MODEL_VERSION, AS_OF],
    "column_encoding": {f"{EMBEDDING}.list.element": "BYTE_STREAM_SPLIT"},
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Raise it when the same model and rows give another embedding, or another digest, than before.
_VERSION = 4

# Of T tasks: stored ids, embeddings [T, W], newest event times in microseconds, samples, support digests.
_Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """What is to be generated, from what, and where.

    Attributes:
        model: URI of the model; `network` is what lies there.
        settings: what embeddings carried over from an earlier day must have been made with, too.
        cutoff: the instant `as_of` begins, UTC: every sample lies before it.
        previous: URI of an earlier day's embeddings; empty: everything is computed.
    """

    model: str
    network: Model
    task_set: TaskSet
    application: Application
    as_of: date
    cutoff: datetime
    settings: dict[str, Any]
    previous: str
    stage: Stage

    @property
    def shards(self) -> list[FileEntry]:
        """Shards of the task set, and so of the embeddings, of every task definition."""
        return [entry for name in self.application.definition_names for entry in self.task_set.of(name).files]

    @property
    def previous_digest(self) -> str:
        """What is carried over from, by its content."""
        return read_manifest(self.previous, "embeddings").digest if self.previous else ""

    def earlier(self, wanted: Collection[str] | None = None) -> Previous | None:
        """The earlier day's embeddings where they fit; of them only the `wanted` shards are checked."""
        if not self.previous:
            return None
        return Previous.open(self.previous, self.settings, [entry.path for entry in self.shards], wanted)


def plan_embeddings(
    model: str,
    tasks: str,
    output: str,
    application: Application,
    as_of: date,
    previous: str = "",
    verify: bool = True,
) -> Plan:
    """What `generate_embeddings` will do; without `verify` the task set's files are not looked at.

    Raises:
        IntegrityError: model or task set differ from their manifests.
        ConfigError: the model does not fit the application, or adapts the whole network.
    """
    if application.network.adapted == "network":
        raise ConfigError(
            "network.adapted: network leaves nothing of fixed width to store; it is a baseline to train and evaluate. "
            "Choose embedding or meta_block to generate and publish"
        )
    network = load_model(model, application)
    task_set = TaskSet.open(tasks, verify)
    options = application.embeddings
    settings = {"finetune_steps": options.finetune_steps, "pooling": options.pooling}
    inputs = {"model": network.digest, "tasks": task_set.manifest.digest, "as_of": as_of.isoformat(), **settings}
    stage = Stage("embeddings", output, application, (), inputs, _VERSION)
    cutoff = day_start(as_of, application.windows.utc_offset_hours)
    settings |= {"model_digest": network.digest, "stage_version": _VERSION}
    return Plan(model, network, task_set, application, as_of, cutoff, settings, previous, stage)


def generate_embeddings(
    model: str, tasks: str, output: str, application: Application, as_of: date, previous: str = ""
) -> Manifest:
    """Generate the embeddings of all tasks that have a support row, of every task definition.

    Args:
        model: URI of a trained model.
        tasks: URI of a task set; only its support rows are used.
        output: URI of the directory to write.
        application: the configuration; `embeddings` decides steps and pooling, not what the model was trained with.
        as_of: the logical date they are made for; every sample must lie before it.
        previous: URI of an earlier day's embeddings: tasks whose support rows are still the same are not computed
            again. Where model, settings or shards differ, all are. An output that is finished already stays as it is,
            whatever it was carried over from: it says the same.

    Raises:
        DataError: an embedding is not finite, a sample lies at or after `as_of`, no task has a support row, or
            `previous` holds no finished embeddings.
        IntegrityError: model or task set differ from their manifests.
        ConfigError: the model does not fit the application, or adapts the whole network.
    """
    plan = plan_embeddings(model, tasks, output, application, as_of, previous)

    def build(directory: Path) -> Manifest:
        earlier = plan.earlier()
        paths = write_shards(plan, directory, earlier)
        figures = {path: shard_figures(directory / path, plan.cutoff) for path in paths}
        removed = None
        if earlier is not None:
            removed = earlier.removed(directory, paths)
            write_removed(removed, directory / REMOVED)
        rows = {path: each["tasks"] for path, each in figures.items()}
        files = entries(directory, rows | {REMOVED: 0 if removed is None else len(removed)}, "*.parquet")
        return embeddings_manifest(plan, files, list(figures.values()), earlier)

    return plan.stage.run(build, resumable=True, start=plan.previous_digest)


def write_shards(
    plan: Plan, directory: Path, earlier: Previous | None, wanted: Collection[str] | None = None
) -> list[str]:
    """Write the embeddings' shards, or the `wanted` ones of them, and return their paths."""
    keep_freed_memory()
    paths = []
    with progress() as bar:
        for number, name in enumerate(plan.application.definition_names):
            tasks = plan.task_set.of(name)
            bar.add_task(" ".join(["embeddings, rows", name]), total=tasks.counts["support_rows"], note="")
            (directory / name).mkdir(exist_ok=True)
            job = _Job(tasks, number, plan.network, plan.application, plan.cutoff, earlier, bar)
            for entry in tasks.files:
                if wanted is None or entry.path in wanted:
                    job.write_shard(directory, entry)
                    paths.append(entry.path)
    return paths


def shard_figures(path: Path, cutoff: datetime) -> dict[str, int]:
    """What the manifest sums up of a shard: tasks, support rows, newest event in microseconds, tasks computed anew."""
    with pq.ParquetFile(path) as file:
        table = file.read(columns=[SAMPLES, NEWEST_EVENT_TIME, AS_OF])
    return {
        "tasks": len(table),
        "rows": int(table[SAMPLES].to_numpy().sum()),
        "newest": int(table[NEWEST_EVENT_TIME].cast(pa.int64()).to_numpy().max(initial=0)),
        "computed": int((table[AS_OF].cast(pa.int64()).to_numpy() == _microseconds(cutoff)).sum()),
    }


def embeddings_manifest(
    plan: Plan, files: list[FileEntry], figures: Sequence[dict[str, int]], earlier: Previous | None
) -> Manifest:
    """The manifest of finished embeddings, from the figures of their shards.

    Raises:
        DataError: no task has a support row.
    """
    task_set = plan.task_set
    embedded, rows, computed = (sum(each[name] for each in figures) for name in ("tasks", "rows", "computed"))
    newest = max((each["newest"] for each in figures), default=0)
    all_tasks = sum(task_set.of(name).tasks for name in ("", *task_set.further))
    if not embedded:
        raise DataError(f"{task_set.uri}: none of its {all_tasks} tasks has a support row before {plan.as_of}")
    removed = sum(entry.rows or 0 for entry in files if entry.path == REMOVED)
    log.info("embeddings: %s of %s computed, %s removed", f"{computed:,}", f"{embedded:,}", f"{removed:,}")
    return plan.stage.manifest(
        files,
        {"tasks": embedded, "rows": rows, "tasks_without_support": all_tasks - embedded},
        {
            "model_version": plan.network.version,
            "model_uri": storage.normalize(plan.model),
            **plan.settings,
            "as_of": plan.as_of.isoformat(),
            "width": plan.network.embedding_width,
            "tasks_uri": task_set.uri,
            "newest_event_time": (_EPOCH + timedelta(microseconds=newest)).isoformat(),
            "previous_digest": earlier.manifest.digest if earlier else "",
            "changed": computed,
            "removed": removed,
        },
    )


@dataclass(frozen=True)
class _Job:
    """What the shards of one task definition are made with."""

    task_set: TaskSet
    definition: int
    network: Model
    application: Application
    cutoff: datetime
    earlier: Previous | None
    bar: Progress

    def write_shard(self, directory: Path, entry: FileEntry) -> None:
        """One output file, under a dot name until it is whole; nothing where an earlier run finished it."""
        done = directory / entry.path
        if done.exists():
            log.info("embeddings: %s kept from an earlier run", entry.path)
            return
        width = self.network.embedding_width
        schema = embedding_schema(width)
        earlier = self.earlier.shard(entry.path, self.cutoff) if self.earlier else None
        with open_shard(file_uri(self.task_set.uri, entry)) as file:
            parts = list(self._embedded(file, earlier))
        columns = (np.concatenate(part) for part in zip(*parts, strict=True)) if parts else _nothing(width)
        ids, vectors, newest, samples, digests = columns
        values = {
            TASK_ID: pa.array(ids, pa.string()),
            EMBEDDING: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width),
            MODEL_VERSION: pa.repeat(self.network.version, len(ids)),
            AS_OF: pa.repeat(pa.scalar(self.cutoff, schema.field(AS_OF).type), len(ids)),
            NEWEST_EVENT_TIME: pa.array(newest).cast(schema.field(NEWEST_EVENT_TIME).type),
            SAMPLES: pa.array(samples, pa.int32()),
            SUPPORT_DIGEST: pa.array(digests),
        }
        table = pa.Table.from_arrays([values[field.name] for field in schema], schema=schema)
        if earlier is not None:
            table = pa.concat_tables([table, earlier.carried()])
        making = done.with_name(f".{done.name}")
        # By UTF-8 bytes: the order stores keep their keys in.
        pq.write_table(table.sort_by(TASK_ID), making, row_group_size=ROW_GROUP_ROWS, compression="zstd", **_ENCODING)
        with making.open("rb") as stream:
            os.fsync(stream.fileno())
        making.rename(done)

    def _embedded(self, file: pq.ParquetFile, earlier: PreviousShard | None) -> Iterator[_Part]:
        options = self.application.embeddings
        for group in row_groups(file, self.task_set.manifest.details["widths"]):
            ids = np.array([stored_id(self.task_set.definition, task) for task in group.task_ids], object)
            tasks = np.flatnonzero(group.support)
            if earlier is not None:
                tasks = tasks[earlier.changed(ids[tasks], support_digests(group)[tasks])]
            self.bar.advance(self.bar.task_ids[-1], int(group.support.sum() - group.support[tasks].sum()))
            for part in support_parts(group, tasks, options.tasks_per_batch, ROWS_PER_BATCH):
                support = group.support_only(part)
                newest = support.event_time[support.offsets[1:] - 1]
                _check_before(support, newest, self.cutoff)
                # Of the few rows that are read next: those of a whole group would be out of the cache again.
                digests = support_digests(support)
                yield ids[part], self._vectors(support), newest, support.lengths, digests
                self.bar.advance(self.bar.task_ids[-1], support.rows)

    def _vectors(self, support: TaskBatch) -> np.ndarray:
        """[T, W] embeddings of a batch's tasks."""
        options = self.application.embeddings
        vectors = self.network.embed(support, options.finetune_steps, options.pooling, self.definition)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise DataError(
                f"task {support.task_ids[broken[0]]}: its embedding is not finite after {options.finetune_steps} steps "
                f"({len(broken)} of {support.tasks} in its batch); lower training.task_learning_rate and train again"
            )
        return vectors


def _check_before(support: TaskBatch, newest: np.ndarray, cutoff: datetime) -> None:
    late = np.flatnonzero(newest >= _microseconds(cutoff))
    if len(late):
        seen = _EPOCH + timedelta(microseconds=int(newest[late[0]]))
        raise DataError(
            f"task {support.task_ids[late[0]]}: has a support row at {seen.isoformat()}, not before the cutoff "
            f"{cutoff.isoformat()}; group a window that ends there"
        )


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _nothing(width: int) -> _Part:
    empty = np.empty(0, np.int64)
    return np.empty(0, object), np.empty((0, width), np.float32), empty, empty, np.empty(0, np.uint64)
