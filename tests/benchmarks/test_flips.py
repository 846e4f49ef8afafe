"""The benchmark of moving releases sees what it is there to see."""

import threading
from pathlib import Path

from benchmarks.online import flips
from limaml.online.store import open_store


def test_readers_see_whole_releases(tmp_path: Path) -> None:
    found = flips.flips(f"lmdb://{tmp_path}/store", tasks=300, reads=2_000, moves=20)
    assert found["reads"] >= 2_000
    assert (found["mixed_pairs"], found["missing"], found["errors"]) == (0, 0, 0)
    assert (found["flips"], found["rollbacks"]) == (10, 10)
    assert found["moves"] > flips.READERS, "the readers saw the pointer move"
    assert 0 < found["flip_p50_ms"] <= found["flip_p99_ms"]


def test_a_mixture_would_be_counted(tmp_path: Path) -> None:
    """A release whose numbers are those of another, and a task that is gone."""
    store = open_store(f"lmdb://{tmp_path}/store", flips.APPLICATION)
    mixed = flips.fill(store, flips.generation("20260104-000000000003", "m2", 100, 8), 1, gone=frozenset({7}))
    store.flip(flips.release(mixed, 1, None))
    counted: list[dict[str, int]] = []

    stop = threading.Event()
    stop.set()

    class Results:
        def put(self, counts: dict[str, int]) -> None:
            counted.append(counts)

    flips.read(f"lmdb://{tmp_path}/store", 100, 1000, 0, threading.Barrier(1), stop, [0], Results())
    assert counted[0]["mixed_pairs"] == 1000
    assert counted[0]["missing"] > 0


def test_memory_of_a_fresh_process() -> None:
    found = flips.memory(20_000, reads=2_000)
    assert found["bytes"] > 20_000 * 140
    assert 20 < found["rss_mib"] < 1_000
    assert found["push_per_second"] > 0
