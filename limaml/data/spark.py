"""Task grouping on Spark: the same buckets, the same sort, the same files, on many machines.

Spark distributes the names of the input files; its Python workers read them through Arrow, as the embedded engine does,
so a cluster needs neither Hadoop nor a second set of credentials. What is shuffled are pieces of Arrow batches, a few
large rows (shard, range of the hash, bytes). A shard is written by the one worker that gets its pieces, one range in
memory at a time, by the function the embedded engine calls: so its bytes are the embedded engine's.
"""

import logging
import os
import re
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from limaml import errors, storage
from limaml.data.group_job import GroupJob, Shards
from limaml.data.grouping import by_bucket
from limaml.manifest import FileEntry, file_entry
from limaml.stage import Parts

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

# Of a shard. A bucket is no open file here, so there may be more of them than the embedded engine can have.
MOST_BUCKETS = 1 << 15
MOST_READERS = 4096
_PIECES = pa.schema([("shard", pa.int32()), ("range", pa.int32()), ("piece", pa.binary())])
_COUNTS = ("tasks", "rows", "support_rows", "query_rows")
_WRITTEN = ", ".join(["shard bigint, scattered bigint, uri string, entry string", *(f"{n} bigint" for n in _COUNTS)])
_SETTINGS: dict[str, Any] = {
    # A row is a piece of a batch: without this, thousands of them would be in a worker's memory at once.
    "spark.sql.execution.arrow.maxBytesPerBatch": str(64 << 20),
    "spark.sql.adaptive.enabled": "false",
    "spark.task.maxFailures": "3",
}
_LOCAL = {
    "spark.master": "local[*]",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "2g",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "OFF",
}


def write_shards(job: GroupJob, parts: Parts) -> Shards:
    """Write a definition's shards below `parts.uri`, which Spark's workers and this process all see.

    Raises:
        DataError: a file can't be used, or no row lies in the window.
        IntegrityError: a file differs from what was validated.
        ConfigError: pyspark is not installed.
    """
    ranges = job.ranges(MOST_BUCKETS)
    readers = min(len(job.files), MOST_READERS) or 1
    work = [(number % readers, entry.model_dump_json()) for number, entry in enumerate(job.files)]
    with _errors():
        written = (
            _session()
            .createDataFrame(work, "reader int, entry string")
            .repartitionById(readers, "reader")
            .mapInArrow(_Scatter(job, ranges), "shard int, range int, piece binary")
            .repartitionById(job.shards, "shard")
            .sortWithinPartitions("shard", "range")
            .mapInArrow(_Gather(job, parts.uri), _WRITTEN)
            .collect()
        )
    if not written:
        reader = job.reader()
        for entry in job.files:
            for _ in reader.read(job.validated, entry):
                pass
        raise job.no_rows(reader)
    found = {row["shard"]: row.asDict() for row in written}
    # A shard without tasks is a file as well.
    for number in set(range(job.shards)) - found.keys():
        found[number] = _write(job, parts.uri, number, iter(()))
    totals, files = Counter[str](), []
    for number in range(job.shards):
        entry = FileEntry.model_validate_json(found[number]["entry"])
        parts.sources[entry.path] = found[number]["uri"]
        files.append(entry)
        totals.update({name: found[number][name] for name in _COUNTS})
    scattered = sum(row["scattered"] for row in found.values())
    log.info("task_set: %s rows, %s dropped by the cap", f"{scattered:,}", f"{scattered - totals['rows']:,}")
    return dict(totals), files


@dataclass(frozen=True)
class _Scatter:
    """Reads the files it is given and cuts their rows into pieces of one bucket each."""

    job: GroupJob
    ranges: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        reader = self.job.reader()
        for batch in batches:
            for text in batch.column("entry").to_pylist():
                for rows in reader.read(self.job.validated, FileEntry.model_validate_json(text)):
                    yield self._pieces(rows)

    def _pieces(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        numbers, ends, sink = [], [0], pa.BufferOutputStream()
        for number, part in by_bucket(rows, self.job.shards, self.ranges):
            with pa.ipc.new_stream(sink, part.schema) as stream:
                stream.write_batch(part)
            numbers.append(divmod(number, self.ranges))
            ends.append(sink.tell())
        shard, position = zip(*numbers, strict=True)
        offsets = pa.py_buffer(np.array(ends, np.int32))
        pieces = pa.BinaryArray.from_buffers(pa.binary(), len(numbers), [None, offsets, sink.getvalue()])
        arrays = [pa.array(shard, pa.int32()), pa.array(position, pa.int32()), pieces]
        return pa.RecordBatch.from_arrays(arrays, schema=_PIECES)


@dataclass(frozen=True)
class _Gather:
    """Writes the shards whose pieces it is given, in the order of shard and range."""

    job: GroupJob
    place: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = (row for batch in batches for row in zip(*(batch.column(n) for n in range(3)), strict=True))
        pieces = ((shard.as_py(), position.as_py(), piece) for shard, position, piece in rows)
        for number, of_shard in groupby(pieces, itemgetter(0)):
            tables = (_joined(piece for *_, piece in of_range) for _, of_range in groupby(of_shard, itemgetter(1)))
            written = _write(self.job, self.place, number, tables)
            yield pa.RecordBatch.from_pylist([written])


def _joined(pieces: Iterator[pa.BinaryScalar]) -> pa.Table:
    """A bucket; its rows' order does not matter, since they are sorted down to their content."""
    tables = [pa.ipc.open_stream(piece.as_buffer()).read_all() for piece in pieces]
    return pa.concat_tables(tables).combine_chunks()


def _write(job: GroupJob, place: str, number: int, buckets: Iterator[pa.Table]) -> dict[str, Any]:
    """Write one shard under a name of its own, since Spark may try the same one twice at once."""
    scattered = 0

    def counted() -> Iterator[pa.Table]:
        nonlocal scattered
        for table in buckets:
            scattered += len(table)
            yield table

    with tempfile.TemporaryDirectory(prefix="limaml-shard-") as folder:
        path = Path(folder) / job.shard_name(number)
        path.parent.mkdir(exist_ok=True)
        counts = job.write_shard(path, counted())
        entry = file_entry(path, Path(folder), counts["rows"])
        uri = storage.join(place, f"{uuid.uuid4().hex}.parquet")
        storage.put(path, uri)
    figures = {name: counts[name] for name in _COUNTS}
    return {"shard": number, "scattered": scattered, "uri": uri, "entry": entry.model_dump_json(), **figures}


def _session() -> "SparkSession":
    """The session this process has, the one spark-submit wants it to have, or one in local mode; it ends with it."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise errors.ConfigError("grouping.engine: spark needs pyspark: install limaml[spark]") from error
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = _SETTINGS | ({} if submitted else _LOCAL)
    return SparkSession.builder.appName("limaml group").config(map=settings).getOrCreate()


@contextmanager
def _errors() -> Iterator[None]:
    """An error of ours that a worker met is that error here, too."""
    from pyspark.errors import PySparkException, PySparkRuntimeError

    try:
        yield
    except (PySparkException, PySparkRuntimeError) as error:
        found = re.findall(r"^limaml\.errors\.(\w+): (.+)$", str(error), re.MULTILINE)
        if found:
            raise errors.from_line("ERROR {}: {}".format(*found[-1])) or error from error
        raise
