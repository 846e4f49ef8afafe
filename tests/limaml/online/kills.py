"""One runner kills a process at every failpoint of every operation on a store, and looks at what is left.

What must hold: readers keep a whole release, the old one or the new one; the same operation run again ends where one
that nothing happened to does, with the manifest's exact count; and it leaves nothing behind that the other does not.
"""

import itertools
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import boto3
import numpy as np
import pytest
import redis

import limaml
from limaml import failpoints
from limaml.config import parse_application
from limaml.manifest import read_manifest
from limaml.online import push, release
from limaml.online.overlay import open_generation
from limaml.online.store import Generation, Release, open_store, prepare_store
from tests.conftest import SMALL
from tests.limaml.online import doomed
from tests.limaml.online.conftest import AS_OF, Files

# A third delta is one layer too many: it is published whole (the compaction).
STORE = {"keep_days": 0, "keep_generations": 2, "maximum_overlays": 1, "dtype": "float32"}
APPLICATION = parse_application(SMALL | {"store": STORE}, "tests")
HALF = "20250101-000000000000"


def named_in_source() -> set[str]:
    """Every failpoint the library has."""
    sources = Path(limaml.__file__).parent.rglob("*.py")
    return {name for source in sources for name in re.findall(r'failpoint\(\s*"([^"]+)"', source.read_text())}


@dataclass(frozen=True)
class World:
    """Embeddings on disk: `first`, two deltas of it in a row, and those of `other`, a model that replaces theirs."""

    first: str
    second: str
    third: str
    other: str
    decisions: dict[str, str]
    truth: dict[str, dict[str, list[float]]]  # digest of embeddings → task → vector

    @classmethod
    def make(cls, files: Files, seed: int) -> "World":
        """Another seed, other sizes, shards, changes and numbers."""
        rng = np.random.default_rng(seed)
        tasks, shards = int(rng.integers(90, 160)), int(rng.integers(1, 4))
        first = files.embeddings(tasks=tasks, shards=shards, seed=seed)
        second = files.delta(first, every=int(rng.integers(3, 9)), seed=seed)
        third = files.delta(second, every=int(rng.integers(3, 9)), remove=int(rng.integers(0, 5)), seed=seed)
        other = files.embeddings(AS_OF + timedelta(days=9), model="m2", tasks=tasks, shards=shards, seed=seed)
        uris = (first, second, third, other)
        decisions = {uri: files.decision(uri) for uri in (first, other)}
        rows = {read_manifest(uri).digest: files.rows(uri).select(["task_id", "embedding"]).to_pydict() for uri in uris}
        truth = {digest: dict(zip(*columns.values(), strict=True)) for digest, columns in rows.items()}
        return cls(*uris, decisions, truth)

    def publish(self, url: str, *uris: str) -> None:
        for uri in uris:
            release.publish(uri, url, APPLICATION, self.decisions.get(uri))

    @property
    def tasks(self) -> list[str]:
        """Every task of any of them, and one of none."""
        return sorted({task for rows in self.truth.values() for task in rows} | {"nobody"})

    def check_reading(self, url: str) -> Release:
        """The current release, after every task was read from it and held against the files."""
        store = open_store(url, "small")
        current = store.current()
        assert current is not None
        reader = open_generation(store, current.generation)
        found = reader.get(self.tasks)
        reader.close()
        truth = self.truth[current.embeddings_digest]
        assert found.found.tolist() == [task in truth for task in self.tasks]
        expected = [truth.get(task, [0.0] * current.width) for task in self.tasks]
        np.testing.assert_array_equal(found.embedding, np.array(expected, np.float32))
        assert current.tasks == len(truth)
        return current


def _collect(world: World, url: str) -> None:
    release.collect_garbage(open_store(url, "small"), 1)


def _clutter(world: World, url: str) -> None:
    """A whole generation over two layers and a full one, none needed any more, and one that was never finished."""
    world.publish(url, world.first, world.second)
    store = open_store(url, "small")
    newest = store.sealed(store.generations()[-1])
    assert newest is not None
    with store.begin(
        Generation.model_validate(newest.model_dump() | {"name": HALF, "base": "", "chunks": ()})
    ) as writer:
        writer.write(0, [b"a"], [b"0" * 32])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "collect_unneeded", lambda *_: [])
        world.publish(url, world.third, world.other)


# Operation → what was done before it, what it does, and whether doing it twice is doing it once.
OPERATIONS: dict[str, tuple[Callable[[World, str], None], Callable[[World, str], object], bool]] = {
    "publish": (lambda w, url: w.publish(url, w.first), lambda w, url: w.publish(url, w.other), True),
    "overlay": (lambda w, url: w.publish(url, w.first), lambda w, url: w.publish(url, w.second), True),
    "compact": (lambda w, url: w.publish(url, w.first, w.second), lambda w, url: w.publish(url, w.third), True),
    "rollback": (
        lambda w, url: w.publish(url, w.first, w.second),
        lambda w, url: release.rollback(open_store(url, "small")),
        False,
    ),
    "hold": (
        lambda w, url: w.publish(url, w.first),
        lambda w, url: release.hold(open_store(url, "small"), "why"),
        True,
    ),
    "gc": (_clutter, _collect, True),
}


def do(operation: str, world: World, url: str) -> None:
    """Run an operation in small chunks."""
    push.BUFFER_ROWS = doomed.BUFFER_ROWS
    OPERATIONS[operation][1](world, url)


@dataclass(frozen=True)
class Undisturbed:
    """What an operation leaves when nothing happens to it, and the failpoints it passed."""

    passed: Counter[str]
    current: Release
    generations: list[str]
    left: list[str]


def undisturbed(operation: str, world: World, url: str) -> Undisturbed:
    """Run an operation in this process."""
    OPERATIONS[operation][0](world, url)
    failpoints.passed.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(push, "BUFFER_ROWS", doomed.BUFFER_ROWS)
        patch.setenv(failpoints.VARIABLE, "none of them")
        do(operation, world, url)
    passed = Counter(failpoints.passed)
    tidy(operation, url)
    current = world.check_reading(url)
    return Undisturbed(passed, current, open_store(url, "small").generations(), left_in(url))


def kill(operation: str, world: World, url: str, armed: str, expected: Undisturbed) -> None:
    """Run an operation in a process that dies at a failpoint, look at what readers see, then run it again."""
    OPERATIONS[operation][0](world, url)
    old = open_store(url, "small").current()
    assert doomed.run(do, operation, world, url, **{failpoints.VARIABLE: armed}) == -9, f"{armed} was not passed"
    look_and_run_again(operation, world, url, old, expected)


def kill_after(seconds: float, operation: str, world: World, url: str, expected: Undisturbed) -> None:
    """The same, killed from outside after a while, wherever it is then."""
    OPERATIONS[operation][0](world, url)
    old = open_store(url, "small").current()
    doomed.run_for(seconds, do, operation, world, url)
    look_and_run_again(operation, world, url, old, expected)


def look_and_run_again(operation: str, world: World, url: str, old: Release | None, expected: Undisturbed) -> None:
    """Readers see the old release or the new one, whole; run again, it ends as if nothing had happened."""
    store, twice = open_store(url, "small"), OPERATIONS[operation][2]
    seen = world.check_reading(url)
    if seen != old:
        assert (seen.number, seen.generation) == (expected.current.number, expected.current.generation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(push, "BUFFER_ROWS", doomed.BUFFER_ROWS)
        if twice or seen == old:
            do(operation, world, url)
    tidy(operation, url)
    after = world.check_reading(url)
    assert after.model_dump(exclude={"published_at"}) == expected.current.model_dump(exclude={"published_at"})
    assert store.generations() == expected.generations
    assert left_in(url) == expected.left


def tidy(operation: str, url: str) -> None:
    """What a publish that died after its flip leaves to the next one, or to whoever asks for it."""
    release.collect_garbage(open_store(url, "small"), 1 if operation == "gc" else APPLICATION.store.keep_generations)


def left_in(url: str) -> list[str]:
    """The name of everything a store keeps; leases left out, which expire."""
    parsed = urlparse(url)
    if parsed.scheme == "redis":
        client = redis.Redis.from_url(url, decode_responses=True)
        names = [key for key in client.scan_iter() if ":lease:" not in key]
        hashes = [name for name in names if client.type(name) == "hash"]
        return sorted(names + [f"{name} {field}" for name in hashes for field in client.hkeys(name)])
    if parsed.scheme == "dynamodb":
        client = boto3.client("dynamodb", region_name=parsed.netloc, endpoint_url=parse_qs(parsed.query)["endpoint"][0])
        items = client.get_paginator("scan").paginate(TableName=parsed.path.strip("/")).search("Items[]")
        names = [f"{item['place']['S']} {item['kind']['S']}" for item in items]
        return sorted(name for name in names if " lease#" not in name)
    path = Path(parsed.path)
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


def fresh_urls(kind: str, root: Path, redis_url: str = "", endpoint: str = "") -> Iterator[str]:
    """Empty stores of a kind, one after the other; a Redis server is emptied for the next."""
    for number in itertools.count():
        if kind == "lmdb":
            yield f"lmdb://{root}/{number}"
        elif kind == "redis":
            redis.Redis.from_url(redis_url).flushall()
            yield redis_url
        else:
            url = f"dynamodb://us-east-1/{uuid.uuid4().hex}?endpoint={endpoint}"
            prepare_store(url)
            yield url
