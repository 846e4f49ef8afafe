"""Reading embedding shards back: the one way for the gate, publishing and monitoring."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from limaml import schema, storage
from limaml.errors import DataError
from limaml.manifest import FileEntry, Manifest, file_uri, files_of, read_manifest, verify_files


def shard_entries(manifest: Manifest, definition: str | None = None) -> list[FileEntry]:
    """The shards of embeddings: of every task definition, or of one (the first one's name is empty)."""
    entries = manifest.files if definition is None else files_of(manifest, definition)
    return [entry for entry in entries if entry.path != schema.REMOVED]


@dataclass(frozen=True)
class EmbeddingShard:
    """One shard: task ids in the order of the keys as written, without their definition's name, vectors [N, W] float32,
    newest event per task in microseconds, samples.
    """

    task_ids: list[str]
    vectors: npt.NDArray[np.float32]
    newest_event_time: npt.NDArray[np.int64]
    samples: npt.NDArray[np.int32]


class EmbeddingFiles:
    """A complete embeddings directory."""

    def __init__(self, uri: str, verify: bool = True) -> None:
        """Open it.

        Raises:
            DataError: incomplete, or not embeddings.
            IntegrityError: a file does not match the manifest.
        """
        self.uri = uri
        self.manifest: Manifest = read_manifest(uri, kind="embeddings")
        if verify:
            verify_files(uri, self.manifest)

    @property
    def width(self) -> int:
        """W."""
        return int(self.manifest.details["width"])

    @property
    def tasks(self) -> int:
        """How many tasks have an embedding, of all task definitions."""
        return self.manifest.counts["tasks"]

    def shards(self, definition: str = "") -> Iterator[EmbeddingShard]:
        """The shards of a task definition, one in memory at a time; without a name, of the first."""
        for entry in shard_entries(self.manifest, definition):
            fs, path = storage.filesystem(file_uri(self.uri, entry))
            with storage.storage_errors(path, "read"):
                shard = _shard(pq.read_table(path, filesystem=fs), path)
            before = len(schema.stored_id(definition, ""))
            yield replace(shard, task_ids=[key[before:] for key in shard.task_ids]) if before else shard

    def lookup(self, definition: str = "") -> tuple[dict[str, int], npt.NDArray[np.float32]]:
        """A definition's vectors in memory: task id → row of a [N, W] array. For evaluation, not for serving."""
        shards = list(self.shards(definition))
        ids = [task for shard in shards for task in shard.task_ids]
        vectors = [shard.vectors for shard in shards] or [np.zeros((0, self.width), np.float32)]
        return {task: row for row, task in enumerate(ids)}, np.concatenate(vectors)


def _shard(table: pa.Table, path: str) -> EmbeddingShard:
    if table.column_names != schema.embedding_schema(1).names:
        raise DataError(f"{path}: columns {table.column_names} are not those of an embedding shard")
    column = table[schema.EMBEDDING].combine_chunks()
    width = table.schema.field(schema.EMBEDDING).type.list_size
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return EmbeddingShard(
        table[schema.TASK_ID].to_pylist(),
        vectors,
        table[schema.NEWEST_EVENT_TIME].cast(pa.int64()).to_numpy(),
        table[schema.SAMPLES].to_numpy(),
    )
