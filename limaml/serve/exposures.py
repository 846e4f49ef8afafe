"""The exposure log: what members in a test were answered, written beside the requests, never in their way.

`record` puts an answer into a bounded queue and returns. One thread turns what is queued into rows and appends them to
a journal on the local disk (`limaml.serve.spool`); another one delivers closed journals to the log, as parquet by day.

- A log that can't be reached costs nothing but room in the spool; it gets everything once it is back.
- Where the disk can't follow, or the spool is full, the queue fills and `record` drops: each row is counted, and said.
- A killed process loses what it was given in the last `journal_seconds` and the time of one append, no more.
- A row may be delivered twice, under the same file name; `request_id` and `item_id` together are its identity.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Full, Queue

from limaml import storage
from limaml.config import Application
from limaml.errors import ConfigError
from limaml.serve.exposure_rows import Exposure, ExposureRows, member_number
from limaml.serve.spool import Journal, Spool

log = logging.getLogger(__name__)

_SAY_SECONDS = 60.0


def exposure_log(application: Application, report: Callable[[str, int], None]) -> "ExposureLog | None":
    """The log the application asks for, None where it asks for none.

    Args:
        application: its `experiment.exposures` says where and how.
        report: is told what becomes of rows, for metrics: `recorded`, `dropped`, `refused` (no whole number for a
            member), `delivered`, and of files: `delivery_failed`. It is called from several threads.

    Raises:
        ConfigError: there is no local place for the spool.
        StorageError: the spool can't be written.
    """
    return ExposureLog(application, report) if application.experiment.exposures.url else None


class ExposureLog:
    """Takes answers from any thread. Attributes `recorded` and `dropped` count rows."""

    def __init__(self, application: Application, report: Callable[[str, int], None]) -> None:
        self.recorded = 0
        self.dropped = 0
        self._options = application.experiment.exposures
        self._rows = ExposureRows(application)
        self._report = report
        offset = application.windows.utc_offset_hours
        self._spool = Spool(spool_folder(application), self._options.url, offset, report)
        self._queue: Queue[Exposure] = Queue(self._options.queue_requests)
        self._ending = threading.Event()
        self._said = -_SAY_SECONDS
        self._thread = threading.Thread(target=self._write, name="exposures", daemon=True)
        self._thread.start()

    def record(self, exposure: Exposure) -> bool:
        """Take an answer on; False where it was refused or dropped, which is counted. Never waits."""
        rows = exposure.candidates.rows
        if member_number(exposure.member) is None:
            self._report("refused", rows)
            return False
        try:
            if self._ending.is_set():
                raise Full
            self._queue.put_nowait(exposure)
        except Full:
            self.dropped += rows
            self._report("dropped", rows)
            if time.monotonic() - self._said >= _SAY_SECONDS:
                self._said = time.monotonic()
                log.error("exposures: the queue is full, %d rows dropped so far", self.dropped)
            return False
        self.recorded += rows
        self._report("recorded", rows)
        return True

    def close(self, seconds: float = 10.0) -> None:
        """Write what is queued and deliver what can be, for so long; the rest stays in the spool."""
        self._ending.set()
        until = time.monotonic() + seconds
        self._thread.join(seconds)
        self._spool.close(max(0.0, until - time.monotonic()))

    def _write(self) -> None:
        journal: Journal | None = None
        waiting: list[Exposure] = []
        while True:
            ending = self._ending.is_set()
            if not waiting and (ending or self._spool.bytes < self._options.spool_bytes):
                waiting = self._drained()
            try:
                if waiting:
                    journal = journal or Journal(self._spool.folder, self._rows.schema)
                    journal.append(self._rows.table(waiting))
                    waiting = []
            except OSError as error:
                log.error("exposures: the journal can't be written: %s", error.strerror)
                journal = self._rotated(journal)
                if ending:
                    return
            if journal is not None and (ending or self._due(journal)):
                journal = self._rotated(journal)
            if ending and self._queue.empty():
                return
            self._ending.wait(self._options.journal_seconds)

    def _drained(self) -> list[Exposure]:
        found: list[Exposure] = []
        try:
            while True:
                found.append(self._queue.get_nowait())
        except Empty:
            return found

    def _due(self, journal: Journal) -> bool:
        aged = time.monotonic() - journal.started >= self._options.rotate_seconds
        return journal.rows >= self._options.rotate_rows or aged

    def _rotated(self, journal: Journal | None) -> None:
        if journal is not None:
            journal.close()
            self._spool.put(journal.path)


def spool_folder(application: Application) -> Path:
    """The folder where answers wait for the log, made where it is not there.

    Raises:
        ConfigError: there is no local place for it.
        StorageError: it can't be made.
    """
    options = application.experiment.exposures
    if not options.spool and not storage.is_local(options.url):
        raise ConfigError(
            f"experiment.exposures.spool: required, since the log {options.url} is not a local directory; "
            "name one that outlives the process"
        )
    folder = storage.local_path(options.spool or storage.join(options.url, ".spool"))
    with storage.storage_errors(str(folder), "write"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
