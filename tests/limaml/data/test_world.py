from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from limaml.cohorts import COHORTS, cohort_sql
from limaml.config import Application, load_application
from limaml.data import population
from limaml.data.world import HISTORY_DAYS, Played, Policy, SimulationSpec, World, pick_highest
from limaml.errors import ConfigError

SPEC = SimulationSpec(members=700, items=200, days=4, chunk=256)


@pytest.fixture(scope="module")
def ptap() -> Application:
    return load_application("ptap")


def play_day(world: World, policy: Policy | None = None) -> Played:
    chunks = list(world.day(world.next_day, policy))
    return Played(*(pa.concat_tables([getattr(c, n) for c in chunks]) for n in ("interactions", "truth", "visits")))


def after_history(spec: SimulationSpec, application: Application) -> World:
    world = World(spec, application)
    while world.next_day < spec.start:
        play_day(world)
    return world


def play(world: World, until: date, policy: Policy | None = None) -> list[Played]:
    played = []
    while world.next_day < until:
        played.append(play_day(world, policy))
    return played


def interactions(played: list[Played]) -> pa.Table:
    return pa.concat_tables([one.interactions for one in played])


def first_candidate(candidates: pa.Table) -> np.ndarray:
    return np.unique(candidates["request_id"].to_numpy(), return_index=True)[1]


def test_equal_seeds_make_equal_worlds_and_others_do_not(ptap: Application) -> None:
    one, two = (play(World(SPEC, ptap), SPEC.end) for _ in range(2))
    assert one == two
    other = play(World(SPEC.model_copy(update={"seed": 1}), ptap), SPEC.end)
    assert not interactions(one).equals(interactions(other))


def test_members_of_one_chunk_do_not_depend_on_other_chunks(ptap: Application) -> None:
    small, large = (SPEC.model_copy(update={"members": n}) for n in (256, 700))
    days = [after_history(spec, ptap).day(SPEC.start) for spec in (small, large)]
    assert next(days[0]) == next(days[1])


def test_tastes_wander_as_an_ornstein_uhlenbeck_walk() -> None:
    rng = np.random.default_rng(0)
    now = population.draw_wandering(0, 50_000, 10_000)
    before = now.copy()
    for _ in range(10):
        population.wander(now, rng)
    assert now.std() == pytest.approx(1, abs=0.01)
    correlation = np.corrcoef(before.ravel(), now.ravel())[0, 1]
    assert correlation == pytest.approx(np.exp(-10 / population.WANDERING_DAYS), abs=0.01)


@pytest.mark.parametrize(("kind", "revealed"), [("notifications", 0.90), ("invitations", 0.55)])
def test_features_tell_the_stated_share_of_tastes_and_items(kind: population.Kind, revealed: float) -> None:
    rules = population.draw_rules(3)
    members = population.draw_members(3, 20_000, 5_000, rules)
    taste = population.taste_today(members, population.draw_wandering(3, 20_000, 5_000), np.arange(20_000))
    assert explained(members.features, taste) == pytest.approx(0.30, abs=0.02)
    items = population.draw_items(3, 20_000, kind, rules)
    assert explained(items.features, items.vector) == pytest.approx(revealed, abs=0.02)
    assert items.features.std(axis=0) == pytest.approx(1, abs=0.05)


def explained(features: np.ndarray, target: np.ndarray) -> float:
    fitted = features @ np.linalg.lstsq(features, target, rcond=None)[0]
    return float(1 - ((target - fitted) ** 2).sum() / (target**2).sum())


def test_outcomes_follow_the_true_probability_in_every_decile(ptap: Application) -> None:
    spec = SPEC.model_copy(update={"members": 4000})
    played = play(after_history(spec, ptap), spec.end)
    label = interactions(played)["label"].to_numpy()
    truth = np.concatenate([one.truth["true_probability"].to_numpy() for one in played])
    for decile in np.array_split(np.argsort(truth), 10):
        spread = np.sqrt((truth[decile] * (1 - truth[decile])).sum())
        assert abs(label[decile].sum() - truth[decile].sum()) < 4 * spread


def test_the_log_has_a_heavy_tail_and_a_median_of_about_a_dozen(ptap: Application) -> None:
    spec = SimulationSpec(days=14)
    member = interactions(play(after_history(spec, ptap), spec.end))["member_id"].to_numpy()
    samples = np.bincount(member)
    samples = samples[samples > 0]
    assert 9 <= np.median(samples) <= 16
    assert samples.max() > 200
    assert (samples <= 3).mean() > 0.05


def test_truth_belongs_to_the_rows_and_stays_out_of_the_log(ptap: Application) -> None:
    played = play_day(after_history(SPEC, ptap))
    assert played.truth["row_id"].equals(played.interactions["impression_id"])
    assert "true_probability" not in played.interactions.column_names
    wanted = {*ptap.task.keys, "impression_id", "event_time", "label", *(f.name for f in ptap.features.all)}
    assert wanted <= set(played.interactions.column_names)
    assert len(np.unique(played.interactions["impression_id"].to_numpy())) == played.interactions.num_rows


def test_a_policy_sees_everything_but_the_outcome_and_is_obeyed(ptap: Application) -> None:
    seen: list[pa.Table] = []
    expected: list[np.ndarray] = []
    world = after_history(SPEC, ptap)

    def policy(candidates: pa.Table) -> np.ndarray:
        chosen = first_candidate(candidates) + 2
        seen.append(candidates.take(chosen))
        expected.append(world.true_probability(candidates)[chosen])
        assert len(candidates) == SPEC.candidates * len(chosen)
        return chosen

    played = play_day(world, policy)
    columns = [name for name in played.interactions.column_names if name != "label"]
    assert {*columns, "request_id"} == set(seen[0].column_names)
    assert pa.concat_tables(seen).select(columns).equals(played.interactions.select(columns))
    np.testing.assert_array_equal(np.concatenate(expected), played.truth["true_probability"].to_numpy())


def test_equal_choices_have_equal_outcomes_under_two_policies(ptap: Application) -> None:
    logged = interactions(play(after_history(SPEC, ptap), SPEC.end))
    chosen = interactions(play(after_history(SPEC, ptap), SPEC.end, first_candidate))
    same = logged["item_id"].to_numpy() == chosen["item_id"].to_numpy()
    assert logged["impression_id"].equals(chosen["impression_id"])
    assert 0.05 < same.mean() < 0.3
    assert logged.filter(pa.array(same)).equals(chosen.filter(pa.array(same)))


def test_a_better_policy_raises_clicks_and_visits(ptap: Application) -> None:
    spec = SimulationSpec(members=2000, days=10)
    worlds = [after_history(spec, ptap) for _ in range(2)]
    usual = play(worlds[0], spec.end)
    best = play(worlds[1], spec.end, lambda table: pick_highest(table, worlds[1].true_probability(table)))
    rates = [interactions(one)["label"].to_numpy().mean() for one in (usual, best)]
    visits = [sum(day.visits.num_rows for day in one) for one in (usual, best)]
    assert rates[1] > 1.5 * rates[0]
    assert visits[1] > 1.05 * visits[0]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (lambda starts: starts + 8, "own are 0 to 7"),
        (lambda starts: starts * 0, "request number 1 the policy chose row 0"),
        (lambda starts: starts[:-1], "one int row index per request"),
        (lambda starts: starts.astype(float), "float64"),
    ],
)
def test_a_policy_can_only_choose_among_a_requests_own_candidates(ptap: Application, choice: Any, message: str) -> None:
    world = after_history(SPEC, ptap)
    with pytest.raises(ValueError, match=message):
        list(world.day(SPEC.start, lambda table: choice(first_candidate(table))))


def test_pick_highest_takes_the_first_best_row_of_each_request() -> None:
    request = np.array([5, 5, 2, 2, 2, 9])
    score = np.array([0.1, 0.3, 0.7, 0.2, 0.7, -1.0])
    assert pick_highest(pa.table({"request_id": request}), score).tolist() == [1, 2, 5]


def test_days_are_played_in_order_and_to_their_end(ptap: Application) -> None:
    world = World(SPEC, ptap)
    with pytest.raises(ValueError, match="next is 2025-11-06"):
        world.day(SPEC.start)
    next(world.day(world.next_day))
    with pytest.raises(ValueError, match="to their end"):
        world.day(world.next_day)


def test_a_restored_world_plays_on_as_the_first_would_have(ptap: Application) -> None:
    world = after_history(SPEC, ptap)
    play(world, SPEC.start + timedelta(days=2))
    state = {name: array.copy() for name, array in world.state.items()}
    other = World(SPEC, ptap)
    other.restore(state, world.next_day)
    assert play(world, SPEC.end + timedelta(days=1)) == play(other, SPEC.end + timedelta(days=1))


def test_visits_are_once_a_day_after_the_signup_and_follow_every_click(ptap: Application) -> None:
    world = World(SPEC, ptap)
    signups = {row["member_id"]: row["signup_time"] for row in world.signups(SPEC.end).to_pylist()}
    for number in range(HISTORY_DAYS + SPEC.days):
        day = world.next_day
        played = play_day(world)
        visits = {row["member_id"]: row["visit_time"] for row in played.visits.to_pylist()}
        assert len(visits) == played.visits.num_rows
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        assert all(start <= at < start + timedelta(days=1) and at >= signups[who] for who, at in visits.items())
        assert {who for who, at in signups.items() if start <= at < start + timedelta(days=1)} <= visits.keys()
        clicks = [row for row in played.interactions.to_pylist() if row["label"]]
        assert bool(clicks) == (number >= HISTORY_DAYS)
        assert all(visits[row["member_id"]] <= row["event_time"] for row in clicks)
        assert all(row["event_time"] > signups[row["member_id"]] for row in played.interactions.to_pylist())


def test_every_cohort_has_members_and_dormant_ones_come_back(ptap: Application) -> None:
    spec = SimulationSpec(members=1500)
    world = World(spec, ptap)
    visits = pa.concat_tables([one.visits for one in play(world, spec.end)])
    later = pa.concat_tables([one.visits for one in play(world, spec.end + timedelta(days=7))])
    signups = world.signups(spec.end)
    with duckdb.connect() as connection:
        for name, table in (("visits", visits), ("later", later), ("signups", signups)):
            connection.register(name, table)
        cohort = cohort_sql(f"TIMESTAMPTZ '{spec.end} 00:00:00+00'", "signup_time", "last")
        rows = connection.execute(
            f"""SELECT {cohort} AS cohort, count(*), count(*) FILTER (member_id IN (SELECT member_id FROM later))
            FROM signups LEFT JOIN (SELECT member_id, max(visit_time) AS last FROM visits GROUP BY 1)
            USING (member_id) GROUP BY 1"""
        ).fetchall()
    members = {cohort: count for cohort, count, _ in rows}
    returned = {cohort: count for cohort, _, count in rows}
    assert set(members) == set(COHORTS)
    assert all(count >= 10 for count in members.values())
    assert all(count >= 1 for count in returned.values())


def test_days_start_at_the_applications_midnight() -> None:
    application = load_application("ptap")
    windows = application.windows.model_copy(update={"utc_offset_hours": 8})
    spec = SPEC.model_copy(update={"chunk": SPEC.members})
    played = play_day(after_history(spec, application.model_copy(update={"windows": windows})))
    local = [row["event_time"] + timedelta(hours=8) for row in played.interactions.to_pylist()]
    assert {at.date() for at in local} == {SPEC.start}
    assert [at.hour for at in local] == played.interactions["hour_of_day"].to_pylist()
    assert local == sorted(local)


@pytest.mark.parametrize("name", ["pclick_user", "pclick_user_type", "pinvite_inviter", "pinvite_invitee"])
def test_every_simulated_application_finds_its_columns(name: str) -> None:
    application = load_application(name)
    played = play_day(after_history(SPEC, application))
    wanted = {*application.task.keys, application.data.item_column, *(f.name for f in application.features.all)}
    assert wanted <= set(played.interactions.column_names)
    if name.startswith("pinvite"):
        assert played.interactions["invitee_id"].to_numpy().min() > SPEC.members


def test_an_application_with_other_columns_can_not_be_simulated() -> None:
    with pytest.raises(ConfigError, match=r"kuairand: can't be simulated.*user_id"):
        World(SPEC, load_application("kuairand"))
