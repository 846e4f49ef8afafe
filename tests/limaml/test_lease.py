import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from limaml import lease, storage
from limaml.errors import LeaseHeld, StorageError


@pytest.fixture(params=["file", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = f"file://{tmp_path}" if request.param == "file" else request.getfixturevalue("s3")
    return storage.join(root, "leases", "2026-01-31.json")


def plant(uri: str, **changes: object) -> None:
    """A lease somebody else left."""
    body = json.loads(lease._body("someone", "their token"))
    storage.write_bytes(uri, json.dumps(body | changes).encode())


def test_a_second_run_is_refused_and_told_who_holds_it(uri: str) -> None:
    with lease.hold(uri, "train 2026-01-31"):
        with pytest.raises(LeaseHeld, match=r"train 2026-01-31 holds .*pid \d+"), lease.hold(uri, "refresh"):
            pass
        assert storage.exists(uri)
    assert not storage.exists(uri)
    with lease.hold(uri, "refresh"):
        pass


def test_it_is_released_when_the_block_fails(uri: str) -> None:
    with pytest.raises(ZeroDivisionError), lease.hold(uri, "train"):
        raise ZeroDivisionError
    assert not storage.exists(uri)


def test_a_killed_process_is_taken_over_at_once(uri: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    plant(uri, pid=process.pid)
    with lease.hold(uri, "retry"):
        assert json.loads(storage.read_bytes(uri))["holder"] == "retry"


def test_another_machines_lease_counts_until_it_expires(uri: str) -> None:
    plant(uri, host="elsewhere", renewed_at=time.time() - lease.EXPIRES_SECONDS + 60)
    with pytest.raises(LeaseHeld, match="host elsewhere"), lease.hold(uri, "mine"):
        pass
    plant(uri, host="elsewhere", renewed_at=time.time() - lease.EXPIRES_SECONDS - 1)
    with lease.hold(uri, "mine"):
        pass


def test_it_is_renewed_while_held(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    with lease.hold(uri, "long run"):
        first = json.loads(storage.read_bytes(uri))["renewed_at"]
        deadline = time.monotonic() + 10
        while json.loads(storage.read_bytes(uri))["renewed_at"] == first:
            assert time.monotonic() < deadline, "never renewed"
            time.sleep(0.01)


def test_a_disk_full_for_a_while_does_not_end_the_renewing(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    write, failures = storage.write_bytes, iter(range(3))

    def full_at_first(uri: str, data: bytes) -> None:
        if next(failures, None) is not None:
            raise StorageError("the disk is full")
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", full_at_first)
    with lease.hold(uri, "run"):
        first = json.loads(storage.read_bytes(uri))["renewed_at"]
        deadline = time.monotonic() + 10
        while json.loads(storage.read_bytes(uri))["renewed_at"] == first:
            assert time.monotonic() < deadline, "never renewed again"
            time.sleep(0.02)


def test_a_lost_lease_is_not_deleted_under_its_new_holder(uri: str) -> None:
    with lease.hold(uri, "slow"):
        plant(uri)
    assert json.loads(storage.read_bytes(uri))["token"] == "their token"


def test_a_lease_released_while_it_is_read_is_no_error(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = storage.read_bytes

    def gone(path: str) -> bytes:
        storage.delete(uri)
        return read(path)

    plant(uri)
    monkeypatch.setattr(storage, "read_bytes", gone)
    with pytest.raises(LeaseHeld, match="at the same moment"), lease.hold(uri, "late"):
        pass


def test_only_one_of_many_takes_over_a_dead_lease(uri: str) -> None:
    """All judge the same lease dead at the same moment: none may delete what another has just taken."""
    plant(uri, host="elsewhere", renewed_at=0.0)
    runs, barrier, won, refused = 8, threading.Barrier(8), [], []

    def contend(name: str) -> None:
        barrier.wait()
        try:
            with lease.hold(uri, name):
                won.append(name)
                release.wait(20)
        except LeaseHeld:
            refused.append(name)

    release = threading.Event()
    threads = [threading.Thread(target=contend, args=(f"run {i}",)) for i in range(runs)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(won) + len(refused) < runs and time.monotonic() < deadline:
        time.sleep(0.01)
    release.set()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, runs - 1)
    assert not storage.exists(uri)
