"""Leases of writers: held by the living, taken over from the dead, and nothing is written without one."""

import json
import os
import signal
import time
from typing import cast

import pytest

from limaml.errors import StoreError
from limaml.lease import process_identity
from limaml.online import writer_lease
from limaml.online.backend import PLANS, Backend
from limaml.online.paged_store import PagedStore
from limaml.online.store import open_store
from limaml.online.writer_lease import Lease, hold
from tests.limaml.online import doomed
from tests.limaml.online.test_store_protocol import plan, rows, write


@pytest.fixture(params=["redis", "dynamodb"])
def store(request: pytest.FixtureRequest) -> PagedStore:
    return cast(PagedStore, open_store(request.getfixturevalue(f"{request.param}_url"), "small"))


@pytest.fixture
def backend(store: PagedStore) -> Backend:
    return store._backend


def elsewhere(token: str) -> Lease:
    """A lease as another machine takes it."""
    return Lease("g", json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0, "token": token}).encode())


def test_of_another_machine_it_lasts_until_it_expires(backend: Backend) -> None:
    other = elsewhere("a")
    assert backend.take(other, 1.5, None) is None
    with hold(backend, "g") as mine:
        assert mine is None
    assert backend.renew(other, 1.5) is True
    # Some stores count in whole seconds.
    ends = time.monotonic() + 10
    while backend.take(elsewhere("b"), 0.1, None) is not None:
        assert time.monotonic() < ends
        time.sleep(0.2)
    time.sleep(3)
    with hold(backend, "g") as mine:
        assert mine is not None
        assert backend.renew(other, 1.5) is False
        assert backend.take(other, 1.5, None) == mine.body
    # Given back, it is free at once.
    assert backend.take(other, 1.5, None) is None


def test_asked_for_twice_it_is_still_ours(backend: Backend) -> None:
    assert backend.take(elsewhere("a"), 30, None) is None
    assert backend.take(elsewhere("a"), 30, None) is None
    assert backend.take(elsewhere("b"), 30, None) == elsewhere("a").body
    backend.release(elsewhere("b"))
    assert backend.take(elsewhere("b"), 30, None) == elsewhere("a").body


def test_of_a_process_that_died_here_it_is_taken_over_at_once(backend: Backend) -> None:
    gone = process_identity() | {"started": 1.0, "token": "x"}
    assert backend.take(Lease("g", json.dumps(gone).encode()), 1000, None) is None
    with hold(backend, "g") as mine:
        assert mine is not None


def test_it_is_renewed_while_it_is_held(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_lease, "SECONDS", 1.0)
    monkeypatch.setattr(writer_lease, "RENEW_SECONDS", 0.2)
    with hold(backend, "g") as mine:
        assert mine is not None
        time.sleep(2)
        backend.put(PLANS, "g", b"{}", mine)
    assert backend.record(PLANS, "g") == b"{}"


def test_who_lost_it_writes_nothing_more(store: PagedStore, backend: Backend) -> None:
    keys, values = rows(20)
    with store.begin(plan()) as writer:
        writer.write(0, keys[:10], values[:10])
        backend.release(writer._lease)  # type: ignore[attr-defined]
        for step in (lambda: writer.write(1, keys[10:], values[10:]), writer.seal):
            with pytest.raises(StoreError, match="no longer ours"):
                step()
    assert store.sealed(plan().name) is None
    write(store, plan(), keys, values, chunk=10)
    store.audit(plan().name)


def _begin_and_die(url: str) -> None:
    with open_store(url, "small").begin(plan()) as writer:
        writer.write(0, *rows(10))
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_that_was_killed_is_followed_at_once(store: PagedStore) -> None:
    assert doomed.run(_begin_and_die, store.url) == -9
    started = time.monotonic()
    keys, values = rows(10)
    write(store, plan(), keys, values)
    assert time.monotonic() - started < writer_lease.SECONDS / 2
    store.audit(plan().name)
