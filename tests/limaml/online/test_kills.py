"""Killed at any failpoint, readers keep a whole release and the next run ends where an undisturbed one does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.limaml.online import kills
from tests.limaml.online.conftest import Files
from tests.limaml.online.kills import OPERATIONS, World

SEEDS = 5
OWN = {"lmdb": ("lmdb.",), "redis": ("redis.", "paged."), "dynamodb": ("dynamodb.", "paged.")}
OF_STORES = ("lmdb.", "redis.", "dynamodb.", "paged.")


@pytest.fixture(params=OWN)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def urls(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if kind == "redis":
        return kills.fresh_urls(kind, tmp_path, redis_url=request.getfixturevalue("redis_url"))
    if kind == "dynamodb":
        request.getfixturevalue("dynamodb_url")
        return kills.fresh_urls(kind, tmp_path, endpoint=request.getfixturevalue("s3_endpoint"))
    return kills.fresh_urls(kind, tmp_path)


def test_every_failpoint_is_passed_and_survived_once(tmp_path: Path, kind: str, urls: Iterator[str]) -> None:
    """What all stores share is killed once, over LMDB; each store at what is its own."""
    world = World.make(Files(tmp_path / "files", kills.APPLICATION), seed=0)
    wanted = {
        name
        for name in kills.named_in_source()
        if name.startswith(OWN[kind]) or (kind == "lmdb" and not name.startswith(OF_STORES))
    }
    killed: set[str] = set()
    for operation in OPERATIONS:
        if wanted == killed:
            break
        expected = kills.undisturbed(operation, world, next(urls))
        for name in sorted(wanted.intersection(expected.passed) - killed):
            kills.kill(operation, world, next(urls), name, expected)
            killed.add(name)
    assert killed == wanted


def test_there_are_enough_of_them() -> None:
    assert len(kills.named_in_source()) >= 40


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_survives_every_failpoint(
    tmp_path: Path, urls: Iterator[str], operation: str, seed: int
) -> None:
    world = World.make(Files(tmp_path / "files", kills.APPLICATION), seed)
    expected = kills.undisturbed(operation, world, next(urls))
    rng = np.random.default_rng([seed, *operation.encode()])
    for name, passings in sorted(expected.passed.items()):
        kills.kill(operation, world, next(urls), f"{name}:{rng.integers(passings) + 1}", expected)


@pytest.mark.heavy
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_from_outside_at_any_time(tmp_path: Path, urls: Iterator[str], operation: str) -> None:
    world = World.make(Files(tmp_path / "files", kills.APPLICATION), seed=0)
    expected = kills.undisturbed(operation, world, next(urls))
    for seconds in np.random.default_rng([*operation.encode()]).uniform(0, 0.5, 20):
        kills.kill_after(float(seconds), operation, world, next(urls), expected)
