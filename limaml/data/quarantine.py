"""Rows that broke a rule leave; everything else stays where it is, or is rewritten beside.

A file without bad rows is referred to, not copied. One with bad rows is rewritten without them under `kept/`; the rows
taken out go to `quarantine/date=D.parquet` with their reason and the file they came from. Nothing is lost:
kept + quarantined == input, checked as it is written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limaml import storage
from limaml.data.partitions import Footer, SourceFile, conform, read_batches
from limaml.data.profile import BadRows
from limaml.data.row_rules import RowRule
from limaml.errors import DataError
from limaml.manifest import FileEntry, file_entry

REASON = "reason"
SOURCE_FILE = "source_file"
_EXAMPLES = 3


@dataclass(frozen=True)
class Example:
    """One quarantined row as a person may see it: where it was and the one value that broke the rule."""

    file: str
    row: int
    column: str
    value: str


@dataclass
class Quarantine:
    """The quarantined rows of one day in the making, with a few examples by rule."""

    writer: pq.ParquetWriter
    schema: pa.Schema
    rules: list[RowRule]
    rows: int = 0
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def add(self, file: SourceFile, rows: pa.RecordBatch, positions: np.ndarray, codes: np.ndarray) -> None:
        """Take rows of a file out: their positions in it and the codes of the rules they broke."""
        names = pa.array([rule.name for rule in self.rules])
        table = conform(rows, self.schema)
        reason = names.take(pa.array(codes - 1))
        source = pa.repeat(pa.scalar(file.name), len(rows))
        self.writer.write_table(pa.Table.from_arrays([reason, source, *table.columns], schema=self.writer.schema))
        self.rows += len(rows)
        for code in np.unique(codes):
            rule = self.rules[int(code) - 1]
            shown = self.examples.setdefault(rule.name, [])
            for index in np.flatnonzero(codes == code)[: _EXAMPLES - len(shown)]:
                value = table.column(rule.column)[int(index)].as_py() if rule.column else "the whole row"
                text = "null" if value is None else str(value)
                shown.append(Example(file=file.name, row=int(positions[index]), column=rule.column, value=text))


@contextmanager
def open_quarantine(path: Path, schema: pa.Schema, rules: list[RowRule]) -> Iterator[Quarantine]:
    """A day's quarantine file; `schema` is the common schema of the day's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    originals = [f.with_name(f"original_{f.name}") if f.name in (REASON, SOURCE_FILE) else f for f in schema]
    full = pa.schema([(REASON, pa.string()), (SOURCE_FILE, pa.string()), *originals])
    with pq.ParquetWriter(path, full, compression="zstd") as writer:
        yield Quarantine(writer=writer, schema=schema, rules=rules)


def reference(file: SourceFile, footer: Footer) -> FileEntry:
    """The entry of a file that is used as it is."""
    return FileEntry(path=file.uri, rows=footer.rows, bytes=file.bytes, sha256=storage.sha256(file.uri))


def split_file(
    file: SourceFile, footer: Footer, bad: BadRows, quarantine: Quarantine, path: Path, directory: Path
) -> FileEntry | None:
    """Move a file's bad rows to quarantine and write the others to `path`; None where no row is left."""
    kept = footer.rows - len(bad.positions)
    if kept:
        path.parent.mkdir(parents=True, exist_ok=True)
    writer = pq.ParquetWriter(path, footer.schema, compression="zstd") if kept else None
    before, offset, written = quarantine.rows, 0, 0
    try:
        for batch in read_batches(file):
            start, stop = np.searchsorted(bad.positions, [offset, offset + len(batch)])
            positions = bad.positions[start:stop]
            clean = np.ones(len(batch), dtype=bool)
            clean[positions - offset] = False
            if stop > start:
                quarantine.add(file, batch.take(pa.array(positions - offset)), positions, bad.codes[start:stop])
            if writer is not None and clean.any():
                writer.write_batch(batch.filter(pa.array(clean)))
                written += int(clean.sum())
            offset += len(batch)
    finally:
        if writer is not None:
            writer.close()
    if (written, quarantine.rows - before) != (kept, len(bad.positions)):
        raise DataError(f"{file.uri}: changed while it was validated; run again")
    return file_entry(path, directory, kept) if kept else None
