"""Embedding shards as one stream in key order, in bounded memory: what stores load fastest and sums can be taken of."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limaml import storage
from limaml.errors import DataError
from limaml.schema import TASK_ID

_READ_BYTES = 1 << 16


class _Shard:
    """One shard read from its front; at least `rows` rows ahead until it ends."""

    def __init__(self, uri: str, rows: int) -> None:
        fs, path = storage.filesystem(uri)
        with storage.storage_errors(uri, "read"):
            # Without a buffer, the whole of a row group would be read at once, of every shard.
            self._file = pq.ParquetFile(fs.open_input_file(path), pre_buffer=False, buffer_size=_READ_BYTES)
        self._batches = self._file.iter_batches(batch_size=rows, use_threads=False)
        self._rows = rows
        self._ended = False
        self.buffer = self._file.schema_arrow.empty_table()

    def fill(self) -> None:
        while not self._ended and len(self.buffer) < self._rows:
            batch = next(self._batches, None)
            if batch is None:
                self._ended = True
                self._file.close()
            else:
                self.buffer = pa.concat_tables([self.buffer, pa.Table.from_batches([batch])])

    @property
    def bound(self) -> str | None:
        """The highest key before which nothing can follow any more; None once the whole rest is in the buffer."""
        return None if self._ended else self.buffer[TASK_ID][-1].as_py()

    def take(self, bound: str | None) -> pa.Table:
        """Remove and return the rows up to `bound`; all of them for None."""
        ids = self.buffer[TASK_ID]
        # Python orders text by code point, which is the order of its UTF-8 bytes.
        rows = len(ids) if bound is None else bisect_right(ids, bound, key=lambda each: each.as_py())
        taken, self.buffer = self.buffer.slice(0, rows), self.buffer.slice(rows)
        return taken


def merged(uris: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Rows of shards, each ordered by `task_id`, as tables that continue one another in the order of the keys' bytes.

    Holds about `2 · rows` rows of each shard. The tables depend on the shards and on `rows` alone.

    Raises:
        StorageError: a shard can't be read.
        DataError: a shard is not parquet.
    """
    try:
        shards = [_Shard(uri, rows) for uri in uris]
        while True:
            for shard in shards:
                shard.fill()
            bound = min((shard.bound for shard in shards if shard.bound is not None), default=None)
            table = pa.concat_tables([shard.take(bound) for shard in shards])
            if len(table):
                yield table.sort_by(TASK_ID).combine_chunks()
            if bound is None:
                return
    except pa.ArrowInvalid as error:
        raise DataError(f"embeddings can't be read: {error}; run the stage that writes them again") from error


def ahead(items: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same tables, each made by another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def sample(uris: Sequence[str], rows: int) -> pa.Table:
    """About `rows` rows spread over the shards: one row group each, evenly spaced rows of it."""
    parts: list[pa.Table] = []
    for number, uri in enumerate(uris):
        fs, path = storage.filesystem(uri)
        with storage.storage_errors(uri, "read"), pq.ParquetFile(fs.open_input_file(path)) as file:
            if file.metadata.num_rows == 0:
                continue
            group = file.read_row_group(number % file.metadata.num_row_groups)
        wanted = min(len(group), max(1, rows // len(uris)))
        parts.append(group.take(np.linspace(0, len(group) - 1, wanted).astype(np.int64)))
    return pa.concat_tables(parts)
