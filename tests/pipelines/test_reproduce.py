"""Tables measured whole, on small simulated worlds: what they hold, and that nothing finished is made again."""

import json
from pathlib import Path
from typing import Any

import pytest

from limaml import storage
from limaml.config import Application, parse_application
from limaml.data.tasks import TaskSet
from pipelines.reproduce import cost
from pipelines.reproduce.bench import Bench
from pipelines.reproduce.logs import World, logs
from pipelines.reproduce.run import reproduce
from pipelines.reproduce.variants import BASE, changed
from tests.conftest import SMALL

APPLICATION: Application = parse_application(
    SMALL
    | {
        "features": SMALL["features"] | {"meta": ["member_x0", "member_x1"]},
        "windows": {"train_days": 5, "validation_days": 2, "test_days": 1, "lookback_days": 5},
    },
    "tests",
)
WORLD = World(members=150, items=60)


class Tables:
    """Tables of one workspace, each measured once."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = str(workspace)

    def measure(self, name: str, **options: Any) -> dict[str, Any]:
        return reproduce(name, APPLICATION, self.workspace, world=WORLD, **options)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return Tables(tmp_path_factory.mktemp("reproduce"))


def _find(result: dict[str, Any], name: str, algorithm: str) -> dict[str, Any]:
    [row] = [row for row in result["table"] if (row["slice"], row["algorithm"]) == (name, algorithm)]
    return row


def test_every_algorithm_meets_the_same_rows(tables: Tables) -> None:
    result = tables.measure("table3", seeds=1)
    rows = [row for row in result["table"] if row["slice"] == "all"]
    assert {row["algorithm"] for row in rows} == {
        "vanilla", "vanilla_intercept", "vanilla_finetuned", "limaml", "limaml_unadapted", "limaml_paper_form",
        "limaml_paper_form_unadapted", "maml", "maml_unadapted", "best_possible",
    }  # fmt: skip
    assert len({row["rows"] for row in rows}) == 1
    for algorithm in ("limaml", "maml"):
        assert _find(result, "all", algorithm)["auc"] != _find(result, "all", f"{algorithm}_unadapted")["auc"]
    best = _find(result, "all", "best_possible")["auc"]
    assert best == max(row["auc"] for row in rows)
    assert (_find(result, "all", "limaml")["paper"], _find(result, "all", "vanilla")["paper"]) == (0.0147, None)
    assert _find(result, "all", "limaml")["gain"]["low"] is None, "one seed has no interval"
    assert "| entire-network MAML, fine-tuned |" in storage.read_bytes(result["markdown"]).decode()


def test_seeds_are_worlds_and_a_second_run_makes_nothing_anew(tables: Tables) -> None:
    result = tables.measure("controls", seeds=2)
    vanilla, limaml = _find(result, "all", "vanilla"), _find(result, "all", "limaml")
    assert vanilla["auc_by_seed"][0] != vanilla["auc_by_seed"][1]
    gains = [value / base - 1 for value, base in zip(limaml["auc_by_seed"], vanilla["auc_by_seed"], strict=True)]
    assert limaml["gain"]["mean"] == pytest.approx(sum(gains) / 2)
    assert limaml["gain"]["low"] < limaml["gain"]["mean"] < limaml["gain"]["high"]
    assert json.loads(storage.read_bytes(result["json"])) == json.loads(json.dumps(result))

    models = {path: path.stat().st_mtime_ns for path in Path(tables.workspace).rglob("*.safetensors")}
    assert tables.measure("controls", seeds=2) == result
    assert {path: path.stat().st_mtime_ns for path in Path(tables.workspace).rglob("*.safetensors")} == models


def test_a_log_that_is_given_is_every_seeds(tables: Tables) -> None:
    [log] = logs(APPLICATION, tables.workspace, "", 1, WORLD, None)
    result = tables.measure("controls", data=log.data, seeds=2)
    assert result["data"] == log.data
    assert (
        _find(result, "all", "vanilla")["rows"] == _find(tables.measure("controls", seeds=1), "all", "vanilla")["rows"]
    )
    best = _find(result, "all", "best_possible")["auc_by_seed"]
    assert best[0] == best[1], "the rows are the same, only training differs"


def test_ids_and_other_definitions_have_task_sets_of_their_own(tables: Tables) -> None:
    ids = tables.measure("table14", seeds=1)
    assert _find(ids, "all", "wide_deep_id")["rows"] == _find(ids, "all", "limaml")["rows"]
    assert _find(ids, "all", "wide_deep_id")["auc"] != _find(ids, "all", "vanilla")["auc"]
    assert _find(ids, "all", "limaml_latest")["auc"] == _find(ids, "all", "limaml")["auc"]
    kinds = tables.measure("table4", seeds=1)
    member, finer = (
        [row for row in kinds["table"] if row["definition"] == name and row["slice"] == "all"]
        for name in ("member_id", "member_id+notification_type")
    )
    assert [row["rows"] for row in member] == [row["rows"] for row in finer]
    assert [row["paper"] for row in member + finer if row["algorithm"] == "limaml"] == [0.0001, 0.0047]
    assert finer[0]["tasks"] > member[0]["tasks"]
    across = kinds["comparisons"][-1]
    assert (across["algorithm"], across["over"]) == ("limaml by member_id+notification_type", "limaml by member_id")
    auc = [next(row["auc"] for row in rows if row["algorithm"] == "limaml") for rows in (finer, member)]
    assert across["gain"]["mean"] == pytest.approx(auc[0] / auc[1] - 1)


def test_a_refresh_of_the_weeks_first_morning_is_the_weekly_one(tables: Tables) -> None:
    result = tables.measure("refresh", seeds=1)
    for day in range(7):
        daily, weekly = (_find(result, f"weekly_age_{day}", f"limaml_{often}") for often in ("daily", "weekly"))
        assert daily["rows"] == weekly["rows"]
        assert (daily["auc"] == weekly["auc"]) == (day == 0)
    assert _find(result, "all", "limaml_daily")["rows"] == sum(
        _find(result, f"weekly_age_{day}", "vanilla")["rows"] for day in range(7)
    )
    assert {(each["algorithm"], each["over"]) for each in result["comparisons"]} == {("limaml_daily", "limaml_weekly")}


def test_a_played_test_has_a_lift_for_everyone_and_by_cohort(tables: Tables) -> None:
    result = tables.measure("table11_13", seeds=1)
    lifts = {(each["cohort"], each["metric"]): each["lift"] for each in result["lifts"]}
    assert {("all", "ctr"), ("all", "wau"), ("C1", "ctr")} <= set(lifts)
    assert -1 < lifts["all", "ctr"]["mean"] < 1
    assert {"C1", "C3"} <= {row["slice"] for row in result["table"]}


def test_more_inner_steps_cost_more(tables: Tables) -> None:
    [log] = logs(APPLICATION, tables.workspace, "", 1, WORLD, None)
    bench = Bench(log, APPLICATION)
    model = bench.trained(BASE, APPLICATION)["uri"]
    timed = {str(n): cost.Stepping(model, changed(APPLICATION, training={"inner_steps": n})) for n in (1, 40)}
    train = TaskSet.open(bench.tasks(bench.splits["train"]))
    ratios = cost.ratios(cost.Stepping(model, APPLICATION, "vanilla"), timed, train)
    assert 0 < ratios["1"] < ratios["40"]
