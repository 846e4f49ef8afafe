"""One SQL query of integer sums against pandas, whatever the files look like."""

import dataclasses
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from limaml.errors import DataError
from limaml.experiment.exposures import SIGNUPS, VISITS, exposure_columns, exposure_schema, open_log
from limaml.experiment.metrics import CTR, EVERYONE, WAU, Measured, Sums, measure

from .worlds import Logs, make_logs, write_logs


@pytest.fixture(scope="module")
def logs() -> Logs:
    return make_logs(members=1500, days=16)


def measured(logs: Logs) -> Measured:
    return measure(ds.dataset(logs.exposures), ds.dataset(logs.visits), ds.dataset(logs.signups), logs.window, "limaml")


def brute_force(logs: Logs) -> dict[tuple[str, str, str], Sums]:
    start = pd.Timestamp(logs.window.start_time)
    exposures, visits, signups = (t.to_pandas() for t in (logs.exposures, logs.visits, logs.signups))
    weeks = len(logs.window.days) // 7
    rows = []
    for member, mine in exposures.groupby("member_id"):
        own = visits.loc[visits.member_id == member, "visit_time"]
        signup = signups.loc[signups.member_id == member, "signup_time"].min()
        active = {(t - start).days // 7 for t in own if start <= t < start + pd.Timedelta(weeks=weeks)}
        before = own[own < start]
        if start - pd.Timedelta(weeks=4) <= signup < start:
            cohort = "C3"
        elif (before >= start - pd.Timedelta(weeks=4)).any():
            cohort = "C1"
        else:
            cohort = "C2" if len(before) else "other"
        rows.append((mine.variant.iloc[0], cohort, mine.label.sum(), len(mine), len(active), weeks))
    table = pd.DataFrame.from_records(rows, columns=["arm", "cohort", "clicks", "shown", "active", "weeks"])
    result = {}
    for cohort in (EVERYONE, "C3", "C1", "C2", "other"):
        for arm, part in table[(table.cohort == cohort) | (cohort == EVERYONE)].groupby("arm"):
            for metric, x, y in ((CTR, part.clicks, part.shown), (WAU, part.active, part.weeks)):
                figures = (x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum())
                result[cohort, arm, metric] = Sums(len(part), *(int(f) for f in figures))
    return result


def test_sums_equal_brute_force_in_pandas(logs):
    found = measured(logs)
    assert found.sums == brute_force(logs)
    assert {cohort for cohort, _, _ in found.sums} == {EVERYONE, "C1", "C2", "C3", "other"}
    assert (found.weeks, found.week_days, found.in_both_arms) == (2, 7, 0)
    treated = logs.exposures.to_pandas().query("variant == 'treatment'")
    assert found.reasons == treated.reason.value_counts().to_dict()


def test_partitioning_and_order_change_nothing(logs, tmp_path):
    shuffled = dataclasses.replace(
        logs, exposures=logs.exposures.take(np.random.default_rng(0).permutation(len(logs.exposures)))
    )
    results = [measured(logs)]
    for parts in (1, 3):
        uris = write_logs(shuffled, tmp_path / str(parts), parts)
        days = logs.window.days
        results.append(
            measure(
                open_log(uris["exposures"], exposure_columns(), days),
                open_log(uris["visits"], VISITS, days, earlier=True),
                open_log(uris["signups"], SIGNUPS),
                logs.window,
                "limaml",
            )
        )
    assert results[0] == results[1] == results[2]


def test_an_experiment_shorter_than_a_week_is_one_period():
    logs = make_logs(members=300, days=3)
    found = measured(logs)
    assert (found.weeks, found.week_days) == (1, 3)
    visits = logs.visits.to_pandas()
    came = visits[visits.visit_time >= pd.Timestamp(logs.window.start_time)].member_id.unique()
    treated = logs.exposures.to_pandas().query("variant == 'treatment'").member_id.unique()
    assert found.sums[EVERYONE, "treatment", WAU].x == len(set(came) & set(treated))


def test_rows_outside_the_window_do_not_count(logs):
    inside = measured(logs)
    late = logs.exposures.slice(0, 5).to_pandas()
    late["request_id"] += 10**6
    late["event_time"] += timedelta(days=100)
    more = pa.concat_tables([logs.exposures, pa.Table.from_pandas(late, schema=exposure_schema())])
    assert measured(dataclasses.replace(logs, exposures=more)) == inside


def _spoiled(logs: Logs, column: str, value: object) -> Logs:
    values = logs.exposures[column].to_pylist()
    values[7] = value
    index = logs.exposures.schema.get_field_index(column)
    field = logs.exposures.schema.field(column)
    return dataclasses.replace(logs, exposures=logs.exposures.set_column(index, field, pa.array(values, field.type)))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("variant", "blue", "'blue'"),
        ("variant", None, "None"),
        ("label", None, "neither 0 nor 1 in 1 of"),
        ("label", 2, "neither 0 nor 1 in 1 of"),
    ],
)
def test_broken_exposures_are_refused(logs, column, value, message):
    with pytest.raises(DataError, match=message):
        measured(_spoiled(logs, column, value))


def test_repeated_exposures_are_refused(logs):
    twice = pa.concat_tables([logs.exposures, logs.exposures.slice(3, 2)])
    with pytest.raises(DataError, match=r"2 of .* rows repeat"):
        measured(dataclasses.replace(logs, exposures=twice))


def test_other_tests_of_the_same_log_do_not_count(logs):
    other = logs.exposures.set_column(0, "experiment", pa.array(["other"] * len(logs.exposures)))
    assert measured(dataclasses.replace(logs, exposures=pa.concat_tables([logs.exposures, other]))) == measured(logs)
    with pytest.raises(DataError, match="none of test 'limaml'"):
        measured(dataclasses.replace(logs, exposures=other))


def test_with_outcomes_what_was_shown_counts_once_however_often_it_was_delivered(logs):
    """A scorer's log: more candidates than are shown, no labels, ids as text, some rows twice."""
    shown = logs.exposures
    outcomes = shown.select(["request_id", "item_id", "label"])
    unshown = shown.set_column(shown.schema.get_field_index("item_id"), "item_id", pa.array([999] * len(shown)))
    rows = pa.concat_tables([shown, unshown, shown.slice(5, 50)])
    texts = {name: pa.array([str(each) for each in rows[name].to_pylist()]) for name in ("request_id", "item_id")}
    texts["label"] = pa.nulls(len(rows), pa.int8())
    scored = pa.table({name: texts.get(name, rows[name]) for name in rows.column_names})
    repeated = pa.concat_tables([outcomes, outcomes.slice(0, 9)])
    arguments = (ds.dataset(logs.visits), ds.dataset(logs.signups), logs.window, "limaml")
    assert measure(ds.dataset(scored), *arguments, ds.dataset(repeated)) == measured(logs)
    with pytest.raises(DataError, match="give the outcomes as well"):
        measure(ds.dataset(scored), *arguments)


def test_a_member_in_both_arms_is_counted(logs):
    first = logs.exposures.filter(pc.equal(logs.exposures["member_id"], logs.exposures["member_id"][0]))  # type: ignore[attr-defined]
    other = "control" if first["variant"][0].as_py() == "treatment" else "treatment"
    row = first.slice(0, 1).to_pandas().assign(variant=other, request_id=10**7)
    more = pa.concat_tables([logs.exposures, pa.Table.from_pandas(row, schema=exposure_schema())])
    assert measured(dataclasses.replace(logs, exposures=more)).in_both_arms == 1


def test_an_empty_window_is_an_error(logs):
    window = logs.window.model_copy(update={"start": logs.window.end, "end": logs.window.end + timedelta(days=7)})
    with pytest.raises(DataError, match="check the window"):
        measured(dataclasses.replace(logs, window=window))
