"""One writer of a generation at a time, in stores that are reached over a network.

A lease expires soon after its process ends, and one whose process is known dead on this machine is taken over at once.
Every record that is put names the lease it is put under, so whoever lost it can't go on by mistake.
"""

import json
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from limaml.errors import StoreError
from limaml.lease import process_identity, runs_here

log = logging.getLogger(__name__)

SECONDS = 30.0
RENEW_SECONDS = 8.0
# Of processes that write one generation together: as long as it may take until the next of them has a node.
TOGETHER_SECONDS = 900.0


@dataclass(frozen=True)
class Lease:
    """The right to write a generation; `body` says who has it."""

    name: str
    body: bytes


class Leases(Protocol):
    """Leases by name, as a store keeps them. Every method may raise StoreError."""

    def take(self, lease: Lease, seconds: float, instead_of: bytes | None) -> bytes | None:
        """Take a lease that is free, expired or held by `instead_of`; else the body of its holder."""
        ...

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Whether it was still ours, and now is for `seconds` more."""
        ...

    def release(self, lease: Lease) -> None:
        """Give it back; nothing happens where it is not ours."""
        ...


@contextmanager
def hold(leases: Leases, name: str, together: bool = False) -> Iterator[Lease | None]:
    """Hold a lease while the block runs; None where a live holder has it.

    Whoever holds it `together` shares it with others that do, and leaves it to the next of them when the block ends.
    """
    identity = {"host": "", "token": "together"} if together else {**process_identity(), "token": uuid.uuid4().hex}
    seconds = TOGETHER_SECONDS if together else SECONDS
    lease = Lease(name, json.dumps(identity).encode())
    holder = leases.take(lease, seconds, None)
    if holder is not None and runs_here(json.loads(holder)) is False:
        holder = leases.take(lease, seconds, holder)
    if holder is not None:
        yield None
        return
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(leases, lease, seconds, stop), daemon=True)
    renewer.start()
    try:
        yield lease
    finally:
        stop.set()
        renewer.join()
        if not together:
            _release(leases, lease)


def _release(leases: Leases, lease: Lease) -> None:
    try:
        leases.release(lease)
    except StoreError as error:
        log.warning("the lease on %s was not given back and expires in %.0f s: %s", lease.name, SECONDS, error)


def _renew(leases: Leases, lease: Lease, seconds: float, stop: threading.Event) -> None:
    while not stop.wait(RENEW_SECONDS):
        try:
            if not leases.renew(lease, seconds):
                log.error("lost the lease on %s: another process may be writing it", lease.name)
                return
        except StoreError as error:
            # The next may be in time; if not, the next record is refused.
            log.warning("can't renew the lease on %s: %s", lease.name, error)
