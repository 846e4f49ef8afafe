"""What a daily refresh carries over: embeddings of tasks whose support rows are those of an earlier generation.

Nothing in a network depends on the date it runs on, so equal rows, model and settings mean an equal embedding, down to
rounding. It is carried over bit for bit, with the `as_of` it was computed for.
"""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from limaml import storage
from limaml.data.embedding_files import shard_entries
from limaml.errors import IntegrityError
from limaml.manifest import Manifest, file_uri, find_manifest, read_manifest, verify_file
from limaml.online.store import Release
from limaml.schema import AS_OF, SUPPORT_DIGEST, TASK_ID
from limaml.workspace import Workspace

log = logging.getLogger(__name__)


def embeddings_of(release: Release, workspace: Workspace) -> str:
    """URI of the embeddings a release was published from; empty where the workspace no longer holds them."""
    uri = workspace.embeddings(release.model_version, release.as_of)
    manifest = find_manifest(uri)
    if manifest is not None and manifest.digest == release.embeddings_digest:
        return uri
    log.info("embeddings: %s is not what release %d was published from; all are made anew", uri, release.number)
    return ""


@dataclass(frozen=True)
class Previous:
    """A complete embeddings directory that fits the one to be made, shard by shard."""

    uri: str
    manifest: Manifest

    @classmethod
    def open(
        cls, uri: str, settings: dict[str, Any], shards: Iterable[str], wanted: Collection[str] | None = None
    ) -> Self | None:
        """The embeddings at a URI, or None, with the reason in the log, where none of them can be carried over.

        Args:
            uri: of the directory.
            settings: what details of its manifest must say.
            shards: the files that will be written; a task has to be in the file of the same name.
            wanted: those of them whose sums are checked; None checks all.

        Raises:
            DataError: there are no finished embeddings.
        """
        manifest = read_manifest(uri, "embeddings")
        found = {name: manifest.details.get(name) for name in settings}
        reasons = [
            f"{name} was {found[name]!r}, is {value!r}" for name, value in settings.items() if found[name] != value
        ]
        files = [entry.path for entry in shard_entries(manifest)]
        if sorted(files) != sorted(shards):
            reasons.append(f"it has {len(files)} shards of other names")
        try:
            for entry in manifest.files:
                if wanted is None or entry.path in wanted:
                    verify_file(uri, entry)
        except IntegrityError as error:
            reasons.append(str(error))
        if reasons:
            log.warning("embeddings: nothing is carried over from %s: %s", uri, "; ".join(reasons))
            return None
        return cls(uri, manifest)

    def shard(self, name: str, before: datetime) -> "PreviousShard":
        """One shard in memory; what was computed at `before` or later is not to be carried over.

        So a day that is made again from other data tells its own work from what it was carried.
        """
        table = self._read(name)
        return PreviousShard(table.filter(pc.field(AS_OF) < pa.scalar(before, table.schema.field(AS_OF).type)))

    def removed(self, directory: Path, shards: Collection[str]) -> pa.Table:
        """Ids of its tasks that finished shards in a directory lack, in the order of keys; of these shards alone."""
        gone = [self._read(path, [TASK_ID]) for path in shards]
        for number, path in enumerate(shards):
            now = pq.read_table(directory / path, columns=[TASK_ID])[TASK_ID]
            gone[number] = gone[number].filter(~pc.field(TASK_ID).isin(now.combine_chunks()))
        return pa.concat_tables(gone).sort_by(TASK_ID)

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        (entry,) = (entry for entry in self.manifest.files if entry.path == name)
        fs, path = storage.filesystem(file_uri(self.uri, entry))
        with storage.storage_errors(path, "read"), pq.ParquetFile(fs.open_input_file(path)) as file:
            return file.read(columns)


def write_removed(removed: pa.Table, path: Path) -> None:
    """Write the ids of tasks that are gone; how they were gathered changes no byte."""
    pq.write_table(removed.combine_chunks(), path, compression="zstd")


class PreviousShard:
    """The rows of one shard, and which of them are carried over."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._row = {task: row for row, task in enumerate(table[TASK_ID].to_pylist())}
        self._digest = table[SUPPORT_DIGEST].to_numpy()
        self._carried = [np.empty(0, np.int64)]

    def changed(self, task_ids: Iterable[str], digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """[T] whether each of T tasks is new or has other support rows; all others are carried over."""
        row = np.array([self._row.get(task, -1) for task in task_ids], np.int64)
        same = row >= 0
        same[same] = self._digest[row[same]] == digests[same]
        self._carried.append(row[same])
        return ~same

    def carried(self) -> pa.Table:
        """The rows that are carried over, untouched."""
        return self._table.take(pa.array(np.concatenate(self._carried)))
