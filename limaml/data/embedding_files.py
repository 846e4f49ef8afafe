"""Reading embedding shards back: the one way for the gate, publishing and monitoring."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from limaml import schema, storage
from limaml.errors import DataError
from limaml.manifest import Manifest, file_uri, read_manifest, verify_files


@dataclass(frozen=True)
class EmbeddingShard:
    """One shard: ids ascending as written, vectors [N, W] float32, newest event per task in microseconds, samples."""

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
        """How many tasks have an embedding."""
        return self.manifest.counts["tasks"]

    def shards(self) -> Iterator[EmbeddingShard]:
        """The shards, one in memory at a time."""
        for entry in self.manifest.files:
            fs, path = storage.filesystem(file_uri(self.uri, entry))
            with storage.storage_errors(path, "read"):
                yield _shard(pq.read_table(path, filesystem=fs), path)

    def lookup(self) -> tuple[dict[str, int], npt.NDArray[np.float32]]:
        """Every vector in memory: task id → row of a [N, W] array. For evaluation, not for serving."""
        shards = list(self.shards())
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
