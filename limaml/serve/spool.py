"""From answers in memory to files of the log, so that neither a slow store nor a killed process loses what is on disk.

Rows are first appended to a local journal, then a whole journal becomes one file of each day it holds rows of, named
after it, so that delivering it twice writes the same files. A journal is locked while a process writes it; whoever
starts next delivers those that nobody holds.
"""

import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from limaml import storage
from limaml.data.layout import day_folder
from limaml.errors import StorageError
from limaml.schema import EVENT_TIME

log = logging.getLogger(__name__)

_SUFFIX = ".journal"
_LONGEST_PAUSE = 60.0

Report = Callable[[str, int], None]


class Journal:
    """Rows appended to a local file; what `append` has returned from outlives the process."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        name = f"{time.time_ns()}-{uuid.uuid4().hex[:12]}{_SUFFIX}"
        self.path = folder / name
        self.rows = 0
        self.started = time.monotonic()
        hidden = folder / f".{name}"
        self._file = hidden.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._writer = pa.ipc.new_stream(self._file, schema)
        self._flush()
        # Visible only once it is locked, or a process that starts could take it for one that nobody holds.
        hidden.rename(self.path)

    def append(self, table: pa.Table) -> None:
        """Add rows.

        Raises:
            OSError: they could not be written; what was appended before is whole, and the journal takes no more.
        """
        try:
            self._writer.write_table(table)
            self._flush()
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self.bytes)
            raise
        self.rows += len(table)

    def close(self) -> None:
        """Let go of the file; what its reader needs is there already."""
        with suppress(OSError):
            self._file.close()

    def _flush(self) -> None:
        self._file.flush()
        self.bytes = self._file.tell()


def read_journal(path: Path) -> pa.Table | None:
    """The whole batches of a journal, whose last one a killed process may have left unfinished; None for no rows."""
    batches = []
    with path.open("rb") as file, suppress(pa.ArrowInvalid, OSError, StopIteration):
        reader = pa.ipc.open_stream(file)
        while True:
            batches.append(reader.read_next_batch())
    return pa.Table.from_batches(batches) if batches else None


class Spool:
    """Closed journals on their way to the log, delivered by a thread of their own.

    Attributes:
        bytes: of the journals that wait.
    """

    def __init__(self, folder: Path, url: str, utc_offset_hours: int, report: Report) -> None:
        self.folder = folder
        self.bytes = 0
        self._url, self._offset, self._report = url, timedelta(hours=utc_offset_hours), report
        self._waiting: SimpleQueue[Path | None] = SimpleQueue()
        self._ending = threading.Event()
        for path in _left_behind(folder):
            self.put(path)
        self._thread = threading.Thread(target=self._deliver, name="exposures-delivery", daemon=True)
        self._thread.start()

    def put(self, path: Path) -> None:
        """Hand a closed journal over."""
        self.bytes += path.stat().st_size
        self._waiting.put(path)

    def close(self, seconds: float) -> None:
        """Try to deliver what waits; what can't be by then stays for the next process."""
        self._ending.set()
        self._waiting.put(None)
        self._thread.join(seconds)

    def _deliver(self) -> None:
        while (path := self._waiting.get()) is not None:
            failures = 0
            while not self._delivered(path):
                failures += 1
                if self._ending.wait(min(_LONGEST_PAUSE, 0.5 * 2**failures)):
                    break

    def _delivered(self, path: Path) -> bool:
        try:
            size = path.stat().st_size
            table = read_journal(path)
            for name, rows in [] if table is None else self._by_day(table):
                storage.write_bytes(storage.join(self._url, name, f"part-{path.stem}.parquet"), _parquet(rows))
                self._report("delivered", len(rows))
            path.unlink()
        except FileNotFoundError:
            return True  # another process found it when it started
        except (StorageError, OSError) as error:
            self._report("delivery_failed", 1)
            log.error("exposures: %s waits in the spool: %s", path.name, type(error).__name__)
            return False
        self.bytes -= size
        return True

    def _by_day(self, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        local = pc.cast(table[EVENT_TIME], pa.int64()).to_numpy() + self._offset // timedelta(microseconds=1)
        days = pa.array(local // 86_400_000_000, pa.int32()).cast(pa.date32())
        for day in days.unique().to_pylist():
            yield day_folder(day), table.filter(pa.array([each == day for each in days.to_pylist()]))


def _left_behind(folder: Path) -> list[Path]:
    """Journals that no process holds, oldest first."""
    found = []
    for path in sorted(folder.glob(f"[!.]*{_SUFFIX}")):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append(path)
    return found


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
