import json
import os
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
    body = {"holder": "someone", "token": "their token", "expires_seconds": lease.EXPIRES_SECONDS}
    body |= {**lease.process_identity(), "renewed_at": time.time(), "since": time.time()}
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


def test_a_runs_next_step_takes_up_its_lease_and_its_closing_ends_it(uri: str) -> None:
    with lease.hold(uri, "validate", token="run 1"):
        pass
    assert lease.held_by(uri, "run 1"), "between two steps nobody may come in"
    with pytest.raises(LeaseHeld, match="validate holds"), lease.hold(uri, "another", token="run 2"):
        pass
    with lease.hold(uri, "group", token="run 1"), lease.hold(uri, "group, another shard", token="run 1"):
        assert json.loads(storage.read_bytes(uri))["holder"] == "group, another shard"
    assert not lease.release(uri, "run 2"), "somebody else's"
    assert lease.release(uri, "run 1")
    assert not lease.release(uri, "run 1")
    with lease.hold(uri, "another", token="run 2"):
        pass


def test_a_retried_step_goes_on_under_its_runs_lease(uri: str) -> None:
    with pytest.raises(ZeroDivisionError), lease.hold(uri, "first attempt", token="run 1"):
        raise ZeroDivisionError
    with lease.hold(uri, "second attempt", token="run 1"):
        assert json.loads(storage.read_bytes(uri))["holder"] == "second attempt"


def test_a_run_that_waited_too_long_finds_its_date_taken(uri: str) -> None:
    """Its pod is gone and its next step waits for a node for longer than the lease counts."""
    with lease.hold(uri, "slow run", token="run 1", between_seconds=120):
        assert json.loads(storage.read_bytes(uri))["expires_seconds"] == lease.EXPIRES_SECONDS, "it renews"
    plant(uri, **json.loads(storage.read_bytes(uri)) | {"host": "pod-1", "renewed_at": time.time() - 121})
    with lease.hold(uri, "quick run", token="run 2", between_seconds=120):
        pass
    with pytest.raises(LeaseHeld, match=r"quick run holds .*expires after 120 s"), lease.hold(uri, "x", token="run 1"):
        pass
    assert not lease.release(uri, "run 1")


def test_how_long_it_counts_is_its_holders_promise_not_the_readers(uri: str) -> None:
    plant(uri, host="elsewhere", renewed_at=time.time() - 1200, expires_seconds=3600.0)
    with pytest.raises(LeaseHeld), lease.hold(uri, "impatient"):
        pass


def test_a_run_takes_up_its_own_lease_after_it_expired(uri: str) -> None:
    plant(uri, token="run 1", host="pod-1", renewed_at=0.0)
    with lease.hold(uri, "late step", token="run 1"):
        assert json.loads(storage.read_bytes(uri))["holder"] == "late step"


def test_a_machine_in_another_time_zone_judges_the_same(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/2026-01-31.json"
    code = (
        "import sys, time\n"
        "from limaml import lease\n"
        "from limaml.errors import LeaseHeld\n"
        "try:\n"
        "    with lease.hold(sys.argv[1], 'from ' + time.tzname[0]): pass\n"
        "except LeaseHeld: sys.exit(6)\n"
    )

    def ask(zone: str) -> int:
        environment = {**os.environ, "TZ": zone}
        return subprocess.run([sys.executable, "-c", code, uri], env=environment, check=False).returncode

    plant(uri, host="elsewhere", renewed_at=time.time() - 600)
    assert [ask("Asia/Tokyo"), ask("America/Los_Angeles")] == [6, 6]
    plant(uri, host="elsewhere", renewed_at=time.time() - lease.EXPIRES_SECONDS - 1)
    assert ask("Asia/Tokyo") == 0


def test_it_lives_with_the_process_that_it_names(uri: str) -> None:
    """A run on this machine: its steps end one after another, the runner is what must be alive."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as runner:
        with lease.hold(uri, "step", token="run 1", pid=runner.pid):
            pass
        with pytest.raises(LeaseHeld), lease.hold(uri, "another", token="run 2"):
            pass
        runner.communicate(b"\n")
    with lease.hold(uri, "another", token="run 2"):
        pass
