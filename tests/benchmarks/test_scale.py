"""The arithmetic says where each of its figures was measured, and that page has it."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scale import EMBEDDING_FILE_BYTES, MEASURED, REDIS_BYTES, Assumed, costs, sizes, steps

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", MEASURED)
def test_every_rate_stands_on_its_page(name: str) -> None:
    figure = MEASURED[name]
    assert figure.said in (ROOT / figure.page).read_text()


def test_the_sizes_stand_on_theirs() -> None:
    assert f"{EMBEDDING_FILE_BYTES} bytes a task" in (ROOT / "docs/scale.md").read_text()
    assert f"needs {REDIS_BYTES} bytes a task and generation" in (ROOT / "docs/stores_redis.md").read_text()
    assert "| 64 × float16 | 21 | 175,900 |" in (ROOT / "docs/stores_dynamodb.md").read_text()


def test_the_page_has_what_the_command_prints() -> None:
    page = (ROOT / "docs/scale.md").read_text()
    for step in steps(Assumed()):
        assert f"| {step.core_hours:.1f} | {step.core_hours / 6:.1f} |" in page, step.name
    assert f"{sizes(Assumed())['features of a window, float32, TB']:.1f} TB" in page


def test_half_of_everything_costs_half() -> None:
    half, whole = Assumed(tasks=5e8), Assumed()
    for one, two in zip(steps(half), steps(whole), strict=True):
        assert one.core_hours == pytest.approx(two.core_hours / 2)
    prices = {"core_hour": 1.0, "write_unit": None, "gib_month": None}
    assert costs(whole, prices).keys() == {"core_hour"}
    assert costs(half, prices)["core_hour"] == pytest.approx(costs(whole, prices)["core_hour"] / 2)


def test_the_command_prints_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--core-hour", "0.04"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "generate what changed" in ended.stdout
    assert "core hours cost" in ended.stdout
