"""One run at a time per (application, date), across manual runs, retries and schedules.

Kubeflow's `max_concurrency` does not see manual runs, so the workspace holds the lock: a file created exclusively.
A run of several steps, each a process of its own, holds it by a token: every step takes it up again and leaves it to
the next one, and whoever closes the run releases it. Left by a run that was killed it expires; one whose process is
known dead on this machine is taken over at once. Times are seconds since 1970: a machine's time zone plays no part.
"""

import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psutil

from limaml import storage
from limaml.errors import LeaseHeld, LimamlError, StorageError

log = logging.getLogger(__name__)

EXPIRES_SECONDS = 15 * 60.0
RENEW_SECONDS = 60.0
BODY_BYTES = 512


@contextmanager
def hold(
    uri: str, holder: str, token: str = "", between_seconds: float = EXPIRES_SECONDS, pid: int | None = None
) -> Iterator[float]:
    """Hold the lease at `uri` while the block runs, renewing it in the background; gives when its token took it first.

    Args:
        uri: of the lease's file.
        holder: who holds it, for people.
        token: of a run of several steps; then the lease stays when the block ends, and `release` ends it.
        between_seconds: how long a run's lease counts from the end of this step, while the next one waits for a node.
        pid: the process the lease lives with; none: this one.

    Raises:
        LeaseHeld: another live holder has it.
    """
    body = _Body(holder, token or uuid.uuid4().hex, EXPIRES_SECONDS, process_identity(pid), time.time())
    body = _acquire(uri, body)
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(uri, body, stop), daemon=True)
    renewer.start()
    try:
        yield body.since
    finally:
        stop.set()
        renewer.join()
        if token:
            _leave(uri, replace(body, expires_seconds=between_seconds))
        else:
            release(uri, body.token)


def release(uri: str, token: str) -> bool:
    """End the lease that a token holds; False, and nothing happens, where somebody else has it or nobody."""
    ours = held_by(uri, token)
    if ours:
        storage.delete(uri)
    return ours


def held_by(uri: str, token: str) -> bool:
    """Whether the lease at `uri` is there and belongs to a token."""
    current = _read(uri)
    return current is not None and current["token"] == token


def process_identity(pid: int | None = None) -> dict[str, Any]:
    """Host, id and start time of a process, this one by default: what `runs_here` tells from a later one of its id."""
    process = psutil.Process(pid)
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def runs_here(identity: dict[str, Any]) -> bool | None:
    """Whether a process runs on this machine; None where it belongs to another one."""
    if identity["host"] != socket.gethostname():
        return None
    try:
        return psutil.Process(identity["pid"]).create_time() == identity["started"]
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class _Body:
    """What the file says, but for the moment it was renewed at."""

    holder: str
    token: str
    expires_seconds: float
    identity: dict[str, Any]
    since: float

    def now(self) -> bytes:
        said = {"holder": self.holder, "token": self.token, **self.identity}
        said |= {"expires_seconds": self.expires_seconds, "since": self.since}
        # A reader on S3 asks for the size first: renewed in between, a longer body would come cut off.
        return json.dumps(said | {"renewed_at": time.time()}).ljust(BODY_BYTES).encode()


def _acquire(uri: str, body: _Body) -> _Body:
    """Take the lease, or take it up again; the body it is held with."""
    if storage.create_exclusive(uri, body.now()):
        return body
    current = _read(uri)
    ours = current is not None and current["token"] == body.token
    if current is not None and ours:
        body = replace(body, since=current["since"])
    if current is not None and _alive(current):
        if ours:
            storage.write_bytes(uri, body.now())
            return body
        age = time.time() - current["renewed_at"]
        raise LeaseHeld(
            f"{current['holder']} holds {uri} (host {current['host']}, pid {current['pid']}, renewed {age:.0f} s "
            f"ago): wait for it to end; a dead holder's lease expires after {current['expires_seconds']:.0f} s"
        )
    if current is None or not _take_over(uri, current, body):
        raise LeaseHeld(f"another run took {uri} at the same moment: try again")
    if not ours:
        log.warning("took over the lease of %s, which ended without releasing it", current["holder"])
    return body


def _take_over(uri: str, dead: dict, body: _Body) -> bool:
    """Replace a dead lease. Two runs may judge it dead at once: only the one that holds the takeover file may act."""
    takeover = f"{uri}.takeover"
    mine = _Body(body.holder, body.token, EXPIRES_SECONDS, process_identity(), time.time())
    pending = _read(takeover)
    if pending is not None and not _alive(pending):
        storage.delete(takeover)
    if not storage.create_exclusive(takeover, mine.now()):
        return False
    try:
        current = _read(uri)
        if current is None or current["token"] != dead["token"]:
            return False
        storage.write_bytes(uri, body.now())
        return True
    finally:
        storage.delete(takeover)


def _alive(lease: dict) -> bool:
    runs = runs_here(lease)
    return time.time() - lease["renewed_at"] < lease["expires_seconds"] if runs is None else runs


def _read(uri: str) -> dict | None:
    """What the file at `uri` says, or None where there is none; a failed read is an error, not an absence."""
    if not storage.exists(uri):
        return None
    try:
        return json.loads(storage.read_bytes(uri))
    except StorageError:
        if storage.exists(uri):
            raise
        return None  # its holder released it between the two looks


def _leave(uri: str, body: _Body) -> None:
    """Leave a run's lease to its next step."""
    try:
        if held_by(uri, body.token):
            storage.write_bytes(uri, body.now())
    except LimamlError as error:
        # What the step ended with matters more; the lease counts a while as it is.
        log.warning("can't renew the lease: %s", error)


def _renew(uri: str, body: _Body, stop: threading.Event) -> None:
    while not stop.wait(RENEW_SECONDS):
        try:
            if not held_by(uri, body.token):
                log.error("lost the lease %s: another run may be working on the same date", uri)
                return
            storage.write_bytes(uri, body.now())
        except LimamlError as error:
            # A disk that is full or a store that is slow for a minute is no reason to stop: the next may be in time.
            log.warning("can't renew the lease: %s", error)
