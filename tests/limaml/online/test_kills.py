"""Killed at any failpoint, readers keep a whole release and the next run ends where an undisturbed one does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.limaml.online import kills
from tests.limaml.online.conftest import Files
from tests.limaml.online.kills import OPERATIONS, World

SEEDS = 5


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[str]:
    return kills.fresh_urls(tmp_path)


def test_every_failpoint_of_this_store_is_passed_and_survived_once(tmp_path: Path, urls: Iterator[str]) -> None:
    world = World.make(Files(tmp_path / "files", kills.APPLICATION), seed=0)
    killed: set[str] = set()
    for operation in OPERATIONS:
        expected = kills.undisturbed(operation, world, next(urls))
        for name in sorted(set(expected.passed) - killed):
            kills.kill(operation, world, next(urls), name, expected)
            killed.add(name)
    other_stores = ("redis.", "dynamodb.", "paged.")
    assert killed == {name for name in kills.named_in_source() if not name.startswith(other_stores)}


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
