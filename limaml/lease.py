"""One run at a time per (application, date), across manual runs, retries and schedules.

Kubeflow's `max_concurrency` does not see manual runs, so the workspace holds the lock: a file created exclusively.
A lease left by a killed process expires; one whose process is known dead on this machine is taken over at once.
"""

import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from limaml import storage
from limaml.errors import LeaseHeld, LimamlError, StorageError

log = logging.getLogger(__name__)

EXPIRES_SECONDS = 15 * 60.0
RENEW_SECONDS = 60.0
BODY_BYTES = 512


@contextmanager
def hold(uri: str, holder: str) -> Iterator[None]:
    """Hold the lease at `uri` while the block runs, renewing it in the background.

    Raises:
        LeaseHeld: another live holder has it.
    """
    token = uuid.uuid4().hex
    _acquire(uri, holder, token)
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(uri, holder, token, stop), daemon=True)
    renewer.start()
    try:
        yield
    finally:
        stop.set()
        renewer.join()
        current = _read(uri)
        if current is not None and current["token"] == token:
            storage.delete(uri)


def process_identity() -> dict[str, Any]:
    """Host, id and start time of this process: what `runs_here` tells from another one that was given its id."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def runs_here(identity: dict[str, Any]) -> bool | None:
    """Whether a process runs on this machine; None where it belongs to another one."""
    if identity["host"] != socket.gethostname():
        return None
    try:
        return psutil.Process(identity["pid"]).create_time() == identity["started"]
    except psutil.NoSuchProcess:
        return False


def _body(holder: str, token: str) -> bytes:
    body = {"holder": holder, "token": token, **process_identity(), "renewed_at": time.time()}
    # A reader on S3 asks for the size first: renewed in between, a longer body would come cut off.
    return json.dumps(body).ljust(BODY_BYTES).encode()


def _acquire(uri: str, holder: str, token: str) -> None:
    if storage.create_exclusive(uri, _body(holder, token)):
        return
    current = _read(uri)
    if current is not None and _alive(current):
        age = time.time() - current["renewed_at"]
        raise LeaseHeld(
            f"{current['holder']} holds {uri} (host {current['host']}, pid {current['pid']}, renewed {age:.0f} s "
            f"ago): wait for it to end; a dead holder's lease expires after {EXPIRES_SECONDS:.0f} s"
        )
    if current is None or not _take_over(uri, current, holder, token):
        raise LeaseHeld(f"another run took {uri} at the same moment: try again")
    log.warning("took over the lease of %s, which ended without releasing it", current["holder"])


def _take_over(uri: str, dead: dict, holder: str, token: str) -> bool:
    """Replace a dead lease. Two runs may judge it dead at once: only the one that holds the takeover file may act."""
    takeover = f"{uri}.takeover"
    pending = _read(takeover)
    if pending is not None and not _alive(pending):
        storage.delete(takeover)
    if not storage.create_exclusive(takeover, _body(holder, token)):
        return False
    try:
        current = _read(uri)
        if current is None or current["token"] != dead["token"]:
            return False
        storage.write_bytes(uri, _body(holder, token))
        return True
    finally:
        storage.delete(takeover)


def _alive(lease: dict) -> bool:
    runs = runs_here(lease)
    return time.time() - lease["renewed_at"] < EXPIRES_SECONDS if runs is None else runs


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


def _renew(uri: str, holder: str, token: str, stop: threading.Event) -> None:
    while not stop.wait(RENEW_SECONDS):
        try:
            current = _read(uri)
            if current is None or current["token"] != token:
                log.error("lost the lease %s: another run may be working on the same date", uri)
                return
            storage.write_bytes(uri, _body(holder, token))
        except LimamlError as error:
            # A disk that is full or a store that is slow for a minute is no reason to stop: the next may be in time.
            log.warning("can't renew the lease: %s", error)
