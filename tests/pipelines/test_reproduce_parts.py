"""The tables' parts: intervals, task definitions read off a log, variants of any application, days put together."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from limaml.application_files import shipped_applications
from limaml.config import Application, load_application
from limaml.data.layout import INTERACTIONS, part_path
from limaml.data.simulator import simulate
from limaml.data.world import SimulationSpec
from limaml.errors import ConfigError
from limaml.training.evaluation import Scored
from limaml.training.metrics import Metrics, evaluate
from pipelines.reproduce import definitions, refresh
from pipelines.reproduce.page import markdown
from pipelines.reproduce.run import reproduce
from pipelines.reproduce.summary import Interval, Seeds
from pipelines.reproduce.tables import TABLES
from pipelines.reproduce.variants import ABLATIONS, BASE, IDS, MAML_WHOLE, META_BLOCKS, PAPER, inner_steps, pooled


def _metrics(auc: float | None, gauc: float | None = 0.6) -> Metrics:
    return Metrics(rows=10, tasks=2, auc=auc, gauc=gauc, gauc_tasks=2, log_loss=0.5, calibration=1.0)


def _bounds(interval: Interval | None) -> tuple[float | None, ...]:
    assert interval is not None
    return interval.mean, interval.low, interval.high


def test_an_interval_is_students() -> None:
    values = [0.01, 0.02, 0.015, 0.03]
    interval = Interval.of(values)
    oracle = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval is not None
    assert interval.low == pytest.approx(oracle.low)
    assert interval.high == pytest.approx(oracle.high)
    assert Interval.of([0.02]) == Interval(0.02, None, None)
    assert Interval.of([0.02, None]) is None
    assert Interval.of([]) is None


def test_gains_are_relative_and_paired_by_seed_and_a_missing_auc_empties_them() -> None:
    auc = {
        "vanilla": (0.70, 0.60),
        "vanilla_intercept": (0.72, 0.61),
        "limaml": (0.77, 0.63),
        "best_possible": (0.8, 0.8),
    }
    figures = [{("all", name): _metrics(values[seed]) for name, values in auc.items()} for seed in range(2)]
    figures[0][("samples_0", "limaml")] = figures[1][("samples_0", "limaml")] = _metrics(0.5)
    figures[0][("samples_0", "vanilla")], figures[1][("samples_0", "vanilla")] = _metrics(0.5), _metrics(None, None)
    seeds = Seeds("member_id", figures)
    rows = {(row.slice, row.algorithm): row for row in seeds.rows({"limaml": "LiMAML"}, {"limaml": 0.0147})}
    limaml = rows["all", "limaml"]
    assert _bounds(limaml.gain) == pytest.approx(_bounds(Interval.of([0.1, 0.05])))
    assert _bounds(limaml.gain_over_intercept) == pytest.approx(_bounds(Interval.of([0.05 / 0.72, 0.02 / 0.61])))
    assert limaml.gap_closed is not None
    assert limaml.gap_closed.mean == pytest.approx((0.7 + 0.15) / 2)
    assert (limaml.title, limaml.paper, limaml.auc) == ("LiMAML", 0.0147, pytest.approx(0.7))
    assert rows["samples_0", "limaml"].gain is None
    assert rows["samples_0", "vanilla"].auc is None
    assert rows["samples_0", "limaml"].paper is None
    [compared] = [each for each in seeds.compare("limaml", "best_possible", None) if each.slice == "all"]
    assert _bounds(compared.gain) == pytest.approx(_bounds(Interval.of([(0.77 - 0.8) / 0.8, (0.63 - 0.8) / 0.8])))


def test_tasks_by_kind_take_the_kind_along_and_leave_it_again() -> None:
    own, finer = definitions.by_kind(load_application("pclick_user"))
    shipped = load_application("pclick_user_type")
    assert own == load_application("pclick_user")
    assert finer.task.keys == shipped.task.keys
    assert (set(finer.features.meta), set(finer.features.other)) == (
        set(shipped.features.meta), set(shipped.features.other),
    )  # fmt: skip
    coarser, again = definitions.by_kind(shipped)
    assert coarser.task.keys == own.task.keys
    assert set(coarser.features.meta) == set(own.features.meta)
    assert again == shipped


def test_a_log_without_a_kind_keeps_its_own_definition() -> None:
    application = load_application("pinvite_inviter")
    assert definitions.by_kind(application) == [application]


def test_the_log_says_which_features_describe_the_other_side(tmp_path: Path) -> None:
    inviter = load_application("pinvite_inviter")
    data = str(tmp_path / "data")
    simulate(data, inviter, SimulationSpec(members=80, items=30, days=2))
    own, other = definitions.by_side(inviter, data)
    shipped = load_application("pinvite_invitee")
    assert own == inviter
    assert other.task.keys == shipped.task.keys
    assert {f.name for f in other.features.meta} == {f.name for f in shipped.features.meta} | {"invitee_popularity"}
    assert {f.name for f in other.features.other} == {f"inviter_x{i}" for i in range(8)} | {"hour_of_day"}


def test_a_side_that_nothing_describes_is_left_out(tmp_path: Path, application: Application) -> None:
    rows = {"member_id": [1, 1, 2, 2], "item_id": [7, 8, 7, 8], "event_time": [datetime(2026, 1, 1)] * 4}
    rows |= {feature.name: [0, 1, 2, 3] for feature in application.features.all}
    pq.write_table(pa.table(rows), part_path(tmp_path, INTERACTIONS, datetime(2026, 1, 1).date()))
    assert definitions.by_side(application, str(tmp_path)) == [application]
    with pytest.raises(ConfigError, match="no column nobody_id"):
        definitions.constant_features(application, str(tmp_path), "nobody_id")


@pytest.mark.parametrize("name", shipped_applications())
def test_every_variant_is_a_valid_form_of_every_application(name: str) -> None:
    application = load_application(name)
    for variant in (BASE, PAPER, MAML_WHOLE, *META_BLOCKS, pooled(), inner_steps(5, (1, 3)), *ABLATIONS):
        if application.also and variant in (PAPER, MAML_WHOLE, *(v for v in ABLATIONS if "block" in v.name)):
            with pytest.raises(ConfigError, match="several task definitions need 'embedding'"):
                variant.of(application)
            continue
        assert variant.of(application).name == application.name, "it reads the same task sets"
    with_ids = IDS.of(application)
    assert with_ids.name == f"{name}__ids"
    added = {f.name for f in with_ids.features.meta} - {f.name for f in application.features.meta}
    assert added == set(application.task.keys) - {f.name for f in application.features.all}
    assert BASE.of(application) == application == pooled().of(application)


def test_days_put_together_rank_each_day_for_itself() -> None:
    random = np.random.default_rng(0)
    days = [
        Scored(
            label=(random.random(20) < 0.5).astype(np.int8),
            task=np.repeat(np.arange(2), 10),
            samples=np.full(20, day),
            task_ids=["a", "b"],
            scores={"limaml": random.random(20).astype(np.float32)},
        )
        for day in range(3)
    ]
    whole = refresh.together(days)
    gauc = [evaluate(day.task, day.label, day.scores["limaml"]).gauc or 0 for day in days]
    assert evaluate(whole.task, whole.label, whole.scores["limaml"]).gauc == pytest.approx(np.mean(gauc))
    assert whole.task_ids == ["a", "b"] * 3
    np.testing.assert_array_equal(whole.samples, np.repeat([0, 1, 2], 20))


def test_an_unknown_table_and_no_seeds_are_told(application: Application, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no table 'table2': one of controls, table3, "):
        reproduce("table2", application, str(tmp_path))
    with pytest.raises(ConfigError, match="--seeds 0"):
        reproduce("controls", application, str(tmp_path), seeds=0)
    with pytest.raises(ConfigError, match="no --data, and application kuairand: can't be simulated"):
        reproduce("table3", load_application("kuairand"), str(tmp_path))


def test_the_command_names_every_table() -> None:
    from pipelines import cli

    [help_text] = [each.help for each in cli.reproduce.__annotations__["table"].__metadata__]
    assert all(name in help_text for name in TABLES)


def test_markdown_shows_what_is_there_and_nothing_where_nothing_is() -> None:
    result = {
        "name": "table9", "title": "Cost", "paper": "Table 9", "application": "app", "data": "log", "seeds": 1,
        "table": [{
            "definition": "member_id", "slice": "all", "algorithm": "limaml", "title": "LiMAML", "auc": None,
            "gauc": 0.5, "gain": None, "gauc_gain": {"mean": 0.01, "low": 0.0, "high": 0.02},
            "gain_over_intercept": None, "gap_closed": None, "paper": None,
        }],
        "comparisons": [],
        "costs": [{"algorithm": "limaml_n1", "ratio": {"mean": 1.25, "low": None, "high": None}, "paper": 2.05}],
        "lifts": [],
    }  # fmt: skip
    text = markdown(result)
    assert "| all rows | LiMAML | – |  |  | 0.5000 | +1.00% ± 1.00% |" in text
    assert "| limaml_n1 | 1.25 | 2.05 |" in text
