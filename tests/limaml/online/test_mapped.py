"""Pages let go: the process shrinks, the content stays, and nothing else is touched."""

import sys
from pathlib import Path

import pytest

from limaml.config import Application
from limaml.online import mapped
from limaml.online.lmdb_store import LmdbStore
from limaml.online.release import publish
from limaml.online.store import open_store
from tests.limaml.online.conftest import Files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident(name: str) -> int:
    """KiB of a mapped file that are resident."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        int(next(line for line in lines if line.startswith("Rss:")).split()[1]) for line in lines if line.endswith(name)
    )


def test_a_reader_stays_small_and_reads_the_same(
    files: Files, lmdb_url: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = files.embeddings(tasks=20_000)
    release = publish(embeddings, lmdb_url, application, files.decision(embeddings))
    ids = files.rows(embeddings)["task_id"].to_pylist()
    reader = open_store(lmdb_url, "small").open(release.generation)
    name = f"{release.generation}/data.mdb"
    before = reader.get(ids)
    grown = resident(name)
    assert grown > 500
    reader.get(ids[:2000])
    assert resident(name) == grown, "little of it: nothing to let go of"
    monkeypatch.setattr(mapped, "MOST_RESIDENT", 1 << 20)
    reader.get(ids[:2000])
    assert resident(name) < grown / 10
    again = reader.get(ids)
    assert (again.embedding == before.embedding).all()
    assert again.found.all()
    reader.close()
    assert resident(name) == 0


def test_two_readers_of_a_generation_let_go_of_their_own_map_only(
    files: Files, lmdb_url: str, application: Application
) -> None:
    """Another's addresses may hold anything once it has closed."""
    embeddings = files.embeddings()
    release = publish(embeddings, lmdb_url, application, files.decision(embeddings))
    store = LmdbStore(lmdb_url, "small")
    one, two = (store.open(release.generation) for _ in range(2))
    assert len(one._mapped._ranges) == len(two._mapped._ranges) == 1
    assert one._mapped._ranges != two._mapped._ranges
    two.close()
    assert not two._mapped._ranges
    assert one.get(["1"]).found.all()
