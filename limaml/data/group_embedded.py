"""The embedded engine of task grouping: Arrow and NumPy in this process, as `limaml.data.grouping` describes."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from limaml.console import progress
from limaml.data.group_job import GroupJob, Shards
from limaml.data.grouping import Buckets, ahead
from limaml.data.interactions import InteractionReader
from limaml.manifest import FileEntry, file_entry

log = logging.getLogger(__name__)

SHARD_THREADS = 2


def write_shards(job: GroupJob, directory: Path) -> Shards:
    """Write a definition's shards into the directory of the task set.

    Raises:
        DataError: a file can't be used, or no row lies in the window.
        IntegrityError: a file differs from what was validated.
    """
    (directory / job.folder).mkdir(exist_ok=True)
    scratch = directory / job.folder / ".buckets"
    scratch.mkdir()
    buckets = Buckets(scratch, job.shards, job.ranges())
    reader = job.reader()
    scattered = buckets.scatter(ahead(_read(job, reader)))
    log.info("task_set: %s of %s rows in %s", f"{scattered:,}", f"{reader.rows_read:,}", job.split.window.name)
    if not scattered:
        raise job.no_rows(reader)

    def write_shard(number: int) -> tuple[Counter[str], FileEntry]:
        path = directory / job.shard_name(number)
        counts = job.write_shard(path, buckets.shard(number))
        return counts, file_entry(path, directory, counts["rows"])

    # Shards are independent of each other, and most of the work releases the interpreter's lock.
    totals, files = Counter[str](), []
    with progress() as bar, ThreadPoolExecutor(SHARD_THREADS) as pool:
        shown = bar.add_task("sorting tasks", total=job.shards, note="")
        for counts, entry in pool.map(write_shard, range(job.shards)):
            totals.update(counts)
            files.append(entry)
            bar.advance(shown)
    shutil.rmtree(scratch)
    log.info("task_set: %s rows dropped by the cap", f"{scattered - totals['rows']:,}")
    return dict(totals), files


def _read(job: GroupJob, reader: InteractionReader) -> Iterator[pa.RecordBatch]:
    with progress() as bar:
        shown = bar.add_task("reading interactions", total=len(job.files), note="")
        for entry in job.files:
            yield from reader.read(job.validated, entry)
            bar.advance(shown)
