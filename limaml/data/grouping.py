"""Task grouping in two passes of hash buckets: memory is bounded by one bucket, not by the data.

Pass 1 scatters encoded rows over bucket files; pass 2 sorts one bucket at a time and appends its whole tasks to a
shard. A shard holds the tasks whose hash has its remainder, in the order of the hash, and buckets are consecutive
ranges of it: so neither the number of buckets, nor the order of the input, nor threads can change a byte of the result.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.config import Definition, Task
from limaml.data.interactions import HASH, key_column, mix
from limaml.data.task_ids import task_texts
from limaml.schema import EVENT_TIME, IS_QUERY, LABEL, ROW_ID, TASK_ID

BUCKET_BYTES = 96 << 20
# Every bucket is an open file in pass 1.
MAXIMUM_BUCKETS = 512

Item = TypeVar("Item")
Indices = npt.NDArray[np.int64]


@dataclass
class Buckets:
    """Bucket files: `ranges` of the hash for each of `shards` remainders."""

    directory: Path
    shards: int
    ranges: int
    written: dict[int, Path] = field(default_factory=dict)

    def scatter(self, batches: Iterator[pa.RecordBatch]) -> int:
        """Append every row to its bucket; returns how many there were."""
        rows = 0
        with ExitStack() as stack:
            writers: dict[int, Any] = {}
            for batch in batches:
                rows += batch.num_rows
                for number, part in by_bucket(batch, self.shards, self.ranges):
                    if number not in writers:
                        path = self.directory / f"{number:05d}.arrow"
                        writers[number] = stack.enter_context(pa.ipc.new_stream(str(path), part.schema))
                        self.written[number] = path
                    writers[number].write_batch(part)
        return rows

    def shard(self, number: int) -> Iterator[pa.Table]:
        """The buckets of a shard in the order of the hash, each removed once read."""
        for bucket in range(number * self.ranges, (number + 1) * self.ranges):
            if path := self.written.get(bucket):
                with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                    yield reader.read_all().combine_chunks()
                path.unlink()


def by_bucket(batch: pa.RecordBatch, shards: int, ranges: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """A batch's rows by bucket, in the order of buckets: `ranges` of the hash for each of `shards` remainders."""
    hashes = batch.column(HASH).to_numpy()
    position = ((hashes >> np.uint64(32)) * np.uint64(ranges)) >> np.uint64(32)
    bucket = (hashes % np.uint64(shards) * np.uint64(ranges) + position).astype(np.uint16)
    batch = batch.take(pa.array(np.argsort(bucket, kind="stable")))
    counts = np.bincount(bucket)
    start = 0
    for number in np.flatnonzero(counts):
        yield int(number), batch.slice(start, int(counts[number]))
        start += int(counts[number])


def hash_ranges(rows: int, row_bytes: int, shards: int, buckets: int, most: int = MAXIMUM_BUCKETS) -> int:
    """Ranges per shard: at least `buckets` in all, more where a bucket would outgrow `BUCKET_BYTES`, at most `most`."""
    wanted = max(buckets, -(-rows * row_bytes // BUCKET_BYTES))
    return max(1, min(-(-wanted // shards), most // shards))


@dataclass(frozen=True)
class GroupedTasks:
    """Whole tasks of one bucket: rows by the schema of a task set, and each task's rows and support rows."""

    table: pa.Table
    lengths: Indices
    support: Indices

    @property
    def counts(self) -> dict[str, int]:
        """What a task set's manifest counts."""
        rows, support = int(self.lengths.sum()), int(self.support.sum())
        return {
            "tasks": len(self.lengths),
            "rows": rows,
            "support_rows": support,
            "query_rows": rows - support,
        }


def group_bucket(table: pa.Table, task: Definition, boundary: int | None, schema: pa.Schema) -> GroupedTasks:
    """Sort a bucket's rows by (task, time), cap each task, and mark its query rows.

    Args:
        table: encoded rows of whole tasks, in any order, each column one chunk.
        task: the cap and, in the first definition, the support fraction.
        boundary: where query rows begin, microseconds since the epoch; None splits by the support fraction.
        schema: of the task set.
    """
    columns = {name: column.chunk(0) for name, column in zip(table.column_names, table.columns, strict=True)}
    keys = [columns[key_column(position)] for position in range(len(task.keys))]
    order, starts = sort_rows(columns, keys)
    counts = np.diff(starts, append=len(order))
    if boundary is None:
        capped = counts
    else:
        before = columns[EVENT_TIME].to_numpy()[order] < boundary
        capped = np.add.reduceat(before, starts, dtype=np.int64)
    dropped = np.maximum(capped - task.max_samples, 0)
    position = np.arange(len(order)) - np.repeat(starts, counts)
    kept = order[position >= np.repeat(dropped, counts)]
    lengths = counts - dropped
    if boundary is None:
        assert isinstance(task, Task), "the rows of other definitions' tasks are split by time"
        support = support_rows(lengths, task.support_fraction)
    else:
        support = capped - dropped
    offsets = np.cumsum(lengths) - lengths
    query = np.arange(len(kept)) - np.repeat(offsets, lengths) >= np.repeat(support, lengths)
    task_ids = task_texts([key.take(pa.array(order[starts])) for key in keys])
    made = {TASK_ID: task_ids.take(pa.array(np.repeat(np.arange(len(starts)), lengths))), IS_QUERY: pa.array(query)}
    arrays = [
        made[name] if name in made else columns[name].take(pa.array(kept)).cast(schema.field(name).type)
        for name in schema.names
    ]
    return GroupedTasks(pa.Table.from_arrays(arrays, schema=schema), lengths, support)


def support_rows(lengths: Indices, support_fraction: float) -> Indices:
    """How many of a task's oldest rows are its support set: the fraction rounded down, one row always left to query."""
    # The tolerance keeps 0.29 · 100 at 29.
    return np.minimum(np.floor(lengths * support_fraction + 1e-9).astype(np.int64), lengths - 1)


def sort_rows(columns: dict[str, pa.Array], keys: list[pa.Array]) -> tuple[Indices, Indices]:
    """Row indices in the order (task hash, task key, time, row id, content), and where in it each task starts.

    Rows that tie in everything but content are ordered by a hash of it: rows with equal hashes are equal.
    """
    hashes, time = columns[HASH].to_numpy(), columns[EVENT_TIME].to_numpy()
    order = _by_hash_and_time(hashes, time)
    same_task = np.diff(hashes[order]) == 0
    if len(keys) > 1 or not pa.types.is_integer(keys[0].type):
        # Only the hash of one integer is a bijection. Where two tasks share a hash, their keys decide.
        values = [_comparable(key) for key in keys]
        same_key = np.all([np.diff(value[order]) == 0 for value in values], axis=0)
        if (same_task & ~same_key).any():
            order = np.lexsort((time, *values[::-1], hashes))
            same_task = np.diff(hashes[order]) == 0
            same_key = np.all([np.diff(value[order]) == 0 for value in values], axis=0)
        same_task &= same_key
    tied = same_task & (np.diff(time[order]) == 0)
    if tied.any():
        order = _break_ties(columns, order, tied)
    return order, np.flatnonzero(np.concatenate([[True], ~same_task]))


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, the next one made in a thread while the consumer works: Arrow and NumPy release the GIL."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def _by_hash_and_time(hashes: npt.NDArray[np.uint64], time: Indices) -> Indices:
    """What `np.lexsort((time, hashes))` gives, but six times as fast where (rank of the hash, time) fits an integer."""
    encoded = pa.array(hashes).dictionary_encode()
    distinct = encoded.dictionary.to_numpy()
    span = int(time.max() - time.min()).bit_length()
    if len(distinct).bit_length() + span > 63:
        return np.lexsort((time, hashes))
    rank = np.empty(len(distinct), np.int64)
    rank[np.argsort(distinct)] = np.arange(len(distinct))
    return np.argsort((rank[encoded.indices.to_numpy()] << span) | (time - time.min()))


def _comparable(key: pa.Array) -> Indices:
    if pa.types.is_integer(key.type):
        return key.to_numpy()
    encoded = key.dictionary_encode()
    rank = np.argsort(np.argsort(np.array(encoded.dictionary.to_pylist(), object)))
    return rank[encoded.indices.to_numpy()]


def _break_ties(columns: dict[str, pa.Array], order: Indices, tied: npt.NDArray[np.bool_]) -> Indices:
    """`order` with each run of tied rows sorted by row id, then content; `tied` says a row ties with the one before."""
    member = np.concatenate([tied, [False]]) | np.concatenate([[False], tied])
    run = np.cumsum(np.concatenate([[True], ~tied]))[member]
    rows = order[member]
    content = np.zeros(len(rows), np.uint64)
    for name, column in columns.items():
        if name == LABEL or pa.types.is_fixed_size_list(column.type):
            values = column.take(pa.array(rows))
            flat = (values if name == LABEL else values.flatten()).to_numpy()
            for word in flat.view(f"u{flat.itemsize}").reshape(len(rows), -1).T:
                content = mix(content ^ word.astype(np.uint64))
    sorted_order = order.copy()
    sorted_order[member] = rows[np.lexsort((content, columns[ROW_ID].to_numpy()[rows], run))]
    return sorted_order
