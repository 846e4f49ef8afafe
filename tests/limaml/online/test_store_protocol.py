"""What each store must do by itself; `test_store_contract` publishes over the same stores."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from limaml.errors import ReleaseConflict, StoreError
from limaml.online import lmdb_generation
from limaml.online.overlay import open_generation
from limaml.online.paged_generation import page_names, read_chunks
from limaml.online.paged_store import PagedStore
from limaml.online.records import TOMBSTONE, Precision, value_dtype
from limaml.online.store import Generation, Release, Store, open_store

WIDTH = 3
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(params=["lmdb", "redis", "redis_cluster", "dynamodb"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store of every kind, Redis also as a cluster."""
    return open_store(request.getfixturevalue(f"{request.param}_url"), "small")


def plan(name: str = "20260131-000000000000", dtype: Precision = "float32", **changes) -> Generation:
    fields = {
        "name": name,
        "application": "small",
        "model_version": "m1",
        "embeddings_digest": "d",
        "as_of": date(2026, 1, 31),
        "newest_event_time": NOON,
        "tasks": 2,
        "width": WIDTH,
        "dtype": dtype,
        "buffer_rows": 16,
    }
    return Generation(**(fields | changes))


def release(number: int, generation: str, **changes) -> Release:
    fields = {
        "number": number,
        "application": "small",
        "model_version": "m1",
        "model_uri": "file:///models/m1",
        "model_digest": "d",
        "generation": generation,
        "as_of": date(2026, 1, 31),
        "cutoff": NOON,
        "newest_event_time": NOON,
        "tasks": 2,
        "width": WIDTH,
        "dtype": "float32",
        "embeddings_digest": "d",
        "previous": number - 1 or None,
        "published_at": NOON,
    }
    return Release(**(fields | changes))


def value(seed: int, dtype: Precision = "float32") -> bytes:
    """A record whose numbers are exact in both types."""
    numbers = np.random.default_rng(seed).integers(-512, 512, WIDTH) / 64
    return np.array([(numbers, seed, seed)], value_dtype(WIDTH, dtype)).tobytes()


def rows(count: int, dtype: Precision = "float32", salt: int = 0) -> tuple[list[bytes], list[bytes]]:
    keys = sorted(f"{number}|sort é".encode() if number % 7 == 0 else str(number).encode() for number in range(count))
    return keys, [value(number + salt, dtype) for number in range(count)]


def write(store: Store, made: Generation, keys: list[bytes], values: list[bytes], chunk: int = 100) -> Generation:
    with store.begin(made) as writer:
        for index, start in enumerate(range(0, len(keys), chunk)):
            writer.write(index, keys[start : start + chunk], values[start : start + chunk])
        return writer.seal()


def alter(store: Store, name: str, change: Callable[[bytes], bytes]) -> None:
    """The stored bytes of a generation, put through `change` behind the store's back."""
    if isinstance(store, PagedStore):
        backend = store._backend
        index, chunk = list(read_chunks(backend, name).items())[-1]
        names = page_names(name, index, chunk.pages)
        pages = dict(zip(names, backend.read_pages(names), strict=True))
        backend.write_pages({each: change(page) for each, page in pages.items() if page})
    else:
        path = Path(store.url.removeprefix("lmdb://")) / "small" / "generations" / name / "data.mdb"
        path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_reads_what_was_written(store: Store, dtype: Precision) -> None:
    keys, values = rows(450, dtype)
    sealed = write(store, plan(dtype=dtype), keys, values)
    assert (sealed.rows, len(sealed.chunks), sealed.base) == (450, 5, "")
    assert sealed.bytes > 0
    assert store.sealed(sealed.name) == sealed
    reader = store.open(sealed.name)
    assert reader.count() == 450
    found = reader.get([key.decode() for key in keys])
    assert found.found.all()
    expected = np.frombuffer(b"".join(values), value_dtype(WIDTH, dtype))
    np.testing.assert_array_equal(found.embedding, expected["embedding"].astype(np.float32))
    np.testing.assert_array_equal(found.newest_event_time, expected["newest_event_time"])
    np.testing.assert_array_equal(found.samples, expected["samples"])
    store.audit(sealed.name)
    reader.close()


def test_absent_keys_and_none_at_all(store: Store) -> None:
    keys, values = rows(120)
    reader = store.open(write(store, plan(), keys, values, chunk=50).name)
    asked = ["!", "nobody", keys[5].decode(), "~", keys[5].decode(), "55x"]
    found = reader.get(asked)
    assert found.found.tolist() == [False, False, True, False, True, False]
    assert not found.embedding[~found.found].any()
    np.testing.assert_array_equal(found.embedding[2], found.embedding[4])
    assert len(reader.get([]).found) == 0


def test_keys_of_any_text_and_the_longest(store: Store) -> None:
    texts = ["é", "日本|語", "a:b:c", "{tag}", "x y\n\tz", "#", "😀" * 127 + "abc", "k" * 511, "\\|", "0"]
    keys = sorted(text.encode() for text in texts)
    assert max(map(len, keys)) == 511
    values = [value(number) for number in range(len(keys))]
    reader = store.open(write(store, plan(), keys, values, chunk=4).name)
    found = reader.get([key.decode() for key in keys])
    assert found.found.all()
    assert found.samples.tolist() == list(range(len(keys)))


def test_a_generation_is_readable_only_once_sealed(store: Store) -> None:
    keys, values = rows(20)
    with store.begin(plan()) as writer:
        writer.write(0, keys, values)
        assert store.generations() == [plan().name]
        assert store.sealed(plan().name) is None
        with pytest.raises(StoreError, match="no sealed generation"):
            store.open(plan().name)
        with pytest.raises(StoreError, match="no sealed generation"):
            store.audit(plan().name)
    assert store.sealed(plan().name) is None


def test_a_writer_goes_on_where_the_one_before_stopped(store: Store) -> None:
    keys, values = rows(90)
    with store.begin(plan()) as writer:
        writer.write(0, keys[:30], values[:30])
        writer.write(1, keys[30:60], values[30:60])
    with store.begin(plan()) as writer:
        assert {index: chunk.rows for index, chunk in writer.chunks.items()} == {0: 30, 1: 30}
        for index in range(3):
            writer.write(index, keys[30 * index : 30 * index + 30], values[30 * index : 30 * index + 30])
        assert writer.seal().rows == 90
    store.audit(plan().name)
    assert store.open(plan().name).get([key.decode() for key in keys]).found.all()


def test_one_writes_a_generation_others_write_theirs(store: Store) -> None:
    keys, values = rows(10)
    other = plan("20260201-000000000000")
    with store.begin(plan()) as writer:
        writer.write(0, keys, values)
        with pytest.raises(StoreError, match="another process is writing"), store.begin(plan()):
            pass
        assert store.discard(plan().name) is False
        write(store, other, keys, values)
        writer.seal()
    assert store.generations() == [plan().name, other.name]
    store.audit(plan().name)


def test_tombstones_hide_what_lies_below(store: Store) -> None:
    keys, values = rows(40)
    base = write(store, plan(), keys, values)
    changed = value(1000)
    above = plan("20260201-000000000000", base=base.name)
    sealed = write(store, above, [keys[0], keys[3], b"new"], [changed, TOMBSTONE, changed])
    assert (sealed.rows, store.sealed(above.name)) == (3, sealed)
    store.audit(above.name)
    asked = [keys[0].decode(), keys[3].decode(), keys[4].decode(), "new", "nobody"]
    layer = store.open(above.name).get(asked)
    assert layer.found.tolist() == [True, False, False, True, False]
    assert [value == TOMBSTONE for value in layer.values] == [False, True, False, False, False]
    whole = open_generation(store, above.name).get(asked)
    assert whole.found.tolist() == [True, False, True, True, False]
    assert whole.samples.tolist() == [1000, 0, 4, 1000, 0]


def test_an_overlay_of_removals_alone(store: Store) -> None:
    keys, values = rows(10)
    base = write(store, plan(), keys, values)
    above = write(store, plan("20260201-000000000000", base=base.name), keys[:3], [TOMBSTONE] * 3)
    store.audit(above.name)
    found = open_generation(store, above.name).get([key.decode() for key in keys])
    assert found.found.tolist() == [False] * 3 + [True] * 7


def test_an_audit_finds_one_changed_byte(store: Store) -> None:
    keys, values = rows(60)
    sealed = write(store, plan(), keys, values, chunk=30)
    store.audit(sealed.name)
    wanted = values[45]

    def flip(stored: bytes) -> bytes:
        at = stored.find(wanted)
        return stored if at < 0 else stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]

    alter(store, sealed.name, flip)
    with pytest.raises(StoreError, match="chunk 1 reads back with SHA-256"):
        store.audit(sealed.name)


def test_discard_leaves_nothing_of_it_and_all_of_the_others(store: Store) -> None:
    keys, values = rows(60)
    first, second = plan(), plan("20260201-000000000000")
    write(store, first, keys, values)
    kept = write(store, second, keys, values)
    with store.begin(plan("20260202-000000000000")) as writer:
        writer.write(0, keys, values)
    assert store.discard(first.name) is True
    assert store.discard("20260202-000000000000") is True
    assert store.discard("20260203-never-there") is True
    assert store.generations() == [kept.name]
    assert store.sealed(first.name) is None
    store.audit(kept.name)
    if isinstance(store, PagedStore):
        assert set(store._backend.records("plans")) == {kept.name}
        assert read_chunks(store._backend, first.name) == {}
        assert store._backend.read_pages(page_names(first.name, 0, 4), newest=True) == [None] * 4


def test_the_current_generation_is_not_discarded_nor_a_discarded_one_made_current(store: Store) -> None:
    keys, values = rows(10)
    current = write(store, plan(), keys, values)
    store.flip(release(1, current.name))
    assert store.discard(current.name) is False
    store.audit(current.name)
    other = write(store, plan("20260201-000000000000"), keys, values)
    assert store.discard(other.name) is True
    with pytest.raises(StoreError, match="was deleted meanwhile"):
        store.flip(release(2, other.name))
    assert store.current() == release(1, current.name)
    assert store.releases() == [release(1, current.name)]


def test_of_writers_and_flips_at_the_same_moment_one_each_wins(store: Store) -> None:
    keys, values = rows(10)
    names = [write(store, plan(f"2026013{number}-000000000000"), keys, values).name for number in range(3)]
    wins: list[str] = []
    start = threading.Barrier(6)

    def race(number: int) -> None:
        mine = open_store(store.url, "small")
        start.wait()
        for turn in range(1, 6):
            try:
                mine.flip(release(turn, names[number % 3], model_version=f"racer-{number}"))
                wins.append(f"{turn}")
            except ReleaseConflict:
                pass

    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(race, number) for number in range(6)]:
            each.result()
    assert sorted(wins) == [str(turn) for turn in range(1, len(wins) + 1)]
    history = store.releases()
    assert [each.number for each in history] == list(range(len(wins), 0, -1))
    assert store.current() == history[0]


def test_another_application_in_the_same_store_is_not_disturbed(store: Store) -> None:
    keys, values = rows(50)
    other = open_store(store.url, "small2")
    theirs = write(other, plan(application="small2"), keys, values[::-1])
    other.flip(release(1, theirs.name, application="small2"))
    mine = write(store, plan(), keys, values)
    store.flip(release(1, mine.name))
    assert mine.name == theirs.name
    later = write(store, plan("20260201-000000000000"), keys, values)
    store.flip(release(2, later.name))
    assert store.discard(mine.name) is True
    assert (other.generations(), other.releases()) == ([theirs.name], [release(1, theirs.name, application="small2")])
    other.audit(theirs.name)
    assert other.open(theirs.name).get([keys[0].decode()]).samples.tolist() == [49]


def test_readers_in_many_threads_share_one(store: Store) -> None:
    keys, values = rows(200)
    reader = store.open(write(store, plan(), keys, values).name)
    asked = [key.decode() for key in keys]

    def read(seed: int) -> bool:
        order = np.random.default_rng(seed).permutation(200)[:50]
        return reader.get([asked[number] for number in order]).samples.tolist() == order.tolist()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(40)))


def test_a_damaged_seal_is_an_error(store: Store) -> None:
    keys, values = rows(10)
    sealed = write(store, plan(), keys, values)
    if isinstance(store, PagedStore):
        with store.begin(plan()) as writer:
            writer._backend.put("seals", sealed.name, b'{"format": 2}', writer._lease)  # type: ignore[attr-defined]
    else:
        path = Path(store.url.removeprefix("lmdb://")) / "small" / "generations" / sealed.name / lmdb_generation.SEAL
        path.write_text('{"format": 2}')
    with pytest.raises(StoreError, match=r"seal"):
        store.open(sealed.name)


def test_wide_embeddings_stay_below_the_limit_of_an_item(dynamodb_url: str) -> None:
    """150 kB each: chance puts more of them in a page than an item may have, until there are enough pages."""
    store, width = open_store(dynamodb_url, "small"), 37_500
    keys, seeds = sorted(str(number).encode() for number in range(20)), range(20)
    values = [np.array([(seed, seed, seed)], value_dtype(width, "float32")).tobytes() for seed in seeds]
    store.audit(write(store, plan(width=width), keys, values).name)
    found = store.open(plan().name).get([key.decode() for key in keys])
    assert found.samples.tolist() == list(seeds)
    assert (found.embedding == np.arange(20, dtype=np.float32)[:, None]).all()
    with pytest.raises(StoreError, match="values of 400012 bytes are too large"):
        write(store, plan("20260202-000000000000"), keys[:1], [b"." * 400_012])
