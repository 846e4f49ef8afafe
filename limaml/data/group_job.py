"""What there is to group, whichever engine does it: one task definition's shards of one split."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from limaml.config import Application, Definition
from limaml.data.grouping import MAXIMUM_BUCKETS, group_bucket, hash_ranges
from limaml.data.interactions import InteractionReader, microseconds
from limaml.data.shards import ShardWriter
from limaml.errors import DataError
from limaml.manifest import FileEntry
from limaml.schema import ALSO, META_CATEGORY, META_NUMERIC, OTHER_CATEGORY, OTHER_NUMERIC, task_set_schema
from limaml.windows import TaskSplit

# What a task set's manifest counts, and the files in the order of the shards.
Shards = tuple[dict[str, int], list[FileEntry]]


def feature_widths(application: Application) -> dict[str, int]:
    """Width of each feature column of the application's task sets."""
    sides = {
        (META_NUMERIC, META_CATEGORY): application.features.meta,
        (OTHER_NUMERIC, OTHER_CATEGORY): application.features.other,
    }
    widths = {
        name: sum(feature.kind == kind for feature in features)
        for names, features in sides.items()
        for name, kind in zip(names, ("numeric", "categorical"), strict=True)
    }
    return widths | ({ALSO: len(application.also)} if application.also else {})


@dataclass(frozen=True)
class GroupJob:
    """One definition's tasks of a split.

    Attributes:
        application: the configuration.
        split: the window, and where query rows begin.
        definition: whose tasks; `folder` is where its shards lie, empty for the first one's.
        validated: URI of the validated window.
        files: of the validated window.
    """

    application: Application
    split: TaskSplit
    definition: Definition
    folder: str
    validated: str
    files: tuple[FileEntry, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """Of a task set's rows."""
        return task_set_schema(**feature_widths(self.application))

    @property
    def shards(self) -> int:
        """How many files the tasks are written to."""
        return self.application.grouping.shards

    def ranges(self, most: int = MAXIMUM_BUCKETS) -> int:
        """Ranges of the hash in each shard; a range of a shard is a bucket, sorted in memory."""
        widths = feature_widths(self.application)
        row_bytes = 48 + 4 * (widths[META_NUMERIC] + widths[OTHER_NUMERIC])
        row_bytes += 8 * (widths[META_CATEGORY] + widths[OTHER_CATEGORY] + widths.get(ALSO, 0))
        rows = sum(entry.rows or 0 for entry in self.files)
        return hash_ranges(rows, row_bytes, self.shards, self.application.grouping.buckets, most)

    def reader(self) -> InteractionReader:
        """Reads encoded rows of the window."""
        return InteractionReader(self.application, self.split.window, self.definition)

    def shard_name(self, number: int) -> str:
        """Path of a shard in the task set."""
        name = f"shard={number:03d}.parquet"
        return f"{self.folder}/{name}" if self.folder else name

    def write_shard(self, path: Path, buckets: Iterator[pa.Table]) -> Counter[str]:
        """Write a shard from its buckets, in the order of the hash; returns what a task set's manifest counts."""
        counts = Counter[str]()
        boundary = None if self.split.boundary_time is None else microseconds(self.split.boundary_time)
        with ShardWriter(path, self.schema) as writer:
            for table in buckets:
                grouped = group_bucket(table, self.definition, boundary, self.schema)
                writer.write(grouped.table, grouped.lengths)
                counts.update(grouped.counts)
        return counts

    def no_rows(self, reader: InteractionReader) -> DataError:
        """The error of a window that no row lies in; `reader` has read every file."""
        window = self.split.window
        if reader.oldest is None or reader.newest is None:
            seen = "the validated data has no rows"
        else:
            offset = timedelta(hours=window.utc_offset_hours)
            times = (datetime.fromtimestamp(time / 1e6, UTC) for time in (reader.oldest, reader.newest))
            oldest, newest = ((time + offset).date() for time in times)
            seen = f"the validated data has the days {oldest} to {newest}"
        return DataError(f"no rows in [{window.start}, {window.end}): {seen}; choose another date")
