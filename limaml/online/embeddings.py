"""Daily meta embeddings (Alg. 2b): from θ_meta, k steps on each task's recent samples, then score the newest of them.

One output shard per shard of the task set, each finished file kept when a run is killed. Memory holds two row groups of
samples and the embeddings of one shard.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import nullcontext
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
from limaml.data.shards import open_shard, support_batches
from limaml.data.tasks import TaskSet
from limaml.errors import ConfigError, DataError
from limaml.learning.buffers import keep_freed_memory
from limaml.learning.precision import fast_products
from limaml.manifest import FileEntry, Manifest, file_uri
from limaml.model import Model, load_model
from limaml.schema import (
    AS_OF,
    EMBEDDING,
    MODEL_VERSION,
    NEWEST_EVENT_TIME,
    SAMPLES,
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


def generate_embeddings(model: str, tasks: str, output: str, application: Application, as_of: date) -> Manifest:
    """Generate the embeddings of all tasks that have a support row, of every task definition.

    Args:
        model: URI of a trained model.
        tasks: URI of a task set; only its support rows are used.
        output: URI of the directory to write.
        application: the configuration; `embeddings` decides steps and pooling, not what the model was trained with.
        as_of: the logical date they are made for; every sample must lie before it.

    Raises:
        DataError: an embedding is not finite, a sample lies at or after `as_of`, or no task has a support row.
        IntegrityError: model or task set differ from their manifests.
        ConfigError: the model does not fit the application, or adapts the whole network.
    """
    if application.network.adapted == "network":
        raise ConfigError(
            "network.adapted: network leaves nothing of fixed width to store; it is a baseline to train and evaluate. "
            "Choose embedding or meta_block to generate and publish"
        )
    network = load_model(model, application)
    task_set = TaskSet.open(tasks)
    options = application.embeddings
    stage = Stage(
        "embeddings",
        output,
        application,
        (),
        {
            "model": network.digest,
            "tasks": task_set.manifest.digest,
            "as_of": as_of.isoformat(),
            "finetune_steps": options.finetune_steps,
            "pooling": options.pooling,
        },
    )

    def build(directory: Path) -> Manifest:
        keep_freed_memory()
        with progress() as bar:
            for number, name in enumerate(application.definition_names):
                tasks = task_set.of(name)
                bar.add_task(" ".join(["embeddings, rows", name]), total=tasks.counts["support_rows"], note="")
                (directory / name).mkdir(exist_ok=True)
                for entry in tasks.files:
                    _write_shard(directory, entry, tasks, number, network, application, as_of, bar)
        return _manifest(directory, stage, task_set, network, model, as_of)

    return stage.run(build, resumable=True)


def _manifest(directory: Path, stage: Stage, task_set: TaskSet, network: Model, model: str, as_of: date) -> Manifest:
    tasks, rows, newest = {}, 0, 0
    for path in sorted(directory.rglob("shard=*.parquet")):
        with pq.ParquetFile(path) as file:
            table = file.read(columns=[SAMPLES, NEWEST_EVENT_TIME])
        tasks[str(path.relative_to(directory))] = len(table)
        rows += int(table[SAMPLES].to_numpy().sum())
        newest = max(newest, int(table[NEWEST_EVENT_TIME].cast(pa.int64()).to_numpy().max(initial=0)))
    embedded, all_tasks = sum(tasks.values()), sum(task_set.of(name).tasks for name in ("", *task_set.further))
    if not embedded:
        raise DataError(f"{task_set.uri}: none of its {all_tasks} tasks has a support row before {as_of}")
    options = stage.application.embeddings
    return stage.manifest(
        entries(directory, tasks, "shard=*.parquet"),
        {"tasks": embedded, "rows": rows, "tasks_without_support": all_tasks - embedded},
        {
            "model_version": network.version,
            "model_uri": storage.normalize(model),
            "model_digest": network.digest,
            "as_of": as_of.isoformat(),
            "width": network.embedding_width,
            "pooling": options.pooling,
            "finetune_steps": options.finetune_steps,
            "newest_event_time": (_EPOCH + timedelta(microseconds=newest)).isoformat(),
        },
    )


def _write_shard(
    directory: Path,
    entry: FileEntry,
    task_set: TaskSet,
    definition: int,
    network: Model,
    application: Application,
    as_of: date,
    bar: Progress,
) -> None:
    """One output file, under a dot name until it is whole; nothing where an earlier run finished it."""
    done = directory / entry.path
    if done.exists():
        log.info("embeddings: %s kept from an earlier run", entry.path)
        return
    cutoff = day_start(as_of, application.windows.utc_offset_hours)
    with open_shard(file_uri(task_set.uri, entry)) as file:
        widths, size = task_set.manifest.details["widths"], application.embeddings.tasks_per_batch
        batches = support_batches(file, widths, size, ROWS_PER_BATCH)
        parts = list(_embedded(batches, definition, network, application, cutoff, bar))
    width = network.embedding_width
    columns = (np.concatenate(part) for part in zip(*parts, strict=True)) if parts else _nothing(width)
    ids, vectors, newest, samples = columns
    schema = embedding_schema(width)
    values = {
        TASK_ID: pa.array([stored_id(task_set.definition, task) for task in ids], pa.string()),
        EMBEDDING: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width),
        MODEL_VERSION: pa.repeat(network.version, len(ids)),
        AS_OF: pa.repeat(pa.scalar(cutoff, schema.field(AS_OF).type), len(ids)),
        NEWEST_EVENT_TIME: pa.array(newest).cast(schema.field(NEWEST_EVENT_TIME).type),
        SAMPLES: pa.array(samples, pa.int32()),
    }
    table = pa.Table.from_arrays([values[field.name] for field in schema], schema=schema)
    making = done.with_name(f".{done.name}")
    # By UTF-8 bytes: the order stores keep their keys in.
    pq.write_table(table.sort_by(TASK_ID), making, row_group_size=ROW_GROUP_ROWS, compression="zstd", **_ENCODING)
    with making.open("rb") as stream:
        os.fsync(stream.fileno())
    making.rename(done)


def _embedded(
    batches: Iterator[TaskBatch],
    definition: int,
    network: Model,
    application: Application,
    cutoff: datetime,
    bar: Progress,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Per batch: task ids [T], embeddings [T, W], newest event times [T] in microseconds, samples [T]."""
    options = application.embeddings
    for support in batches:
        bar.advance(bar.task_ids[-1], support.rows)
        newest = support.event_time[support.offsets[1:] - 1]
        _check_before(support, newest, cutoff)
        # Where lengths differ, so do the shapes of batches, and each new shape costs the faster products a new kernel.
        same_length = int(support.lengths.min()) == int(support.lengths.max())
        with fast_products(network.device) if same_length else nullcontext():
            vectors = network.embed(support, options.finetune_steps, options.pooling, definition)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise DataError(
                f"task {support.task_ids[broken[0]]}: its embedding is not finite after {options.finetune_steps} steps "
                f"({len(broken)} of {support.tasks} in its batch); lower training.task_learning_rate and train again"
            )
        yield np.array(support.task_ids, object), vectors, newest, support.lengths


def _check_before(support: TaskBatch, newest: np.ndarray, cutoff: datetime) -> None:
    late = np.flatnonzero(newest >= (cutoff - _EPOCH) // timedelta(microseconds=1))
    if len(late):
        seen = _EPOCH + timedelta(microseconds=int(newest[late[0]]))
        raise DataError(
            f"task {support.task_ids[late[0]]}: has a support row at {seen.isoformat()}, not before the cutoff "
            f"{cutoff.isoformat()}; group a window that ends there"
        )


def _nothing(width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    empty = np.empty(0, np.int64)
    return np.empty(0, object), np.empty((0, width), np.float32), empty, empty
