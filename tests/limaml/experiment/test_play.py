"""A played A/B test: a small real world, and two scorers that are functions of the table."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from limaml.config import Application, load_application
from limaml.data.simulator import resume_world, simulate
from limaml.data.world import SimulationSpec
from limaml.errors import ConfigError
from limaml.experiment.analysis import analyze
from limaml.experiment.assignment import in_treatment, takes_part
from limaml.experiment.exposures import exposure_schema
from limaml.experiment.play import play
from limaml.windows import Window

SPEC = SimulationSpec(members=150, items=60, days=3, candidates=4, seed=3)
WINDOW = Window(start=SPEC.end, end=SPEC.end + timedelta(days=4))


@dataclass(frozen=True)
class Answers:
    probability: npt.NDArray[np.float32]
    reason: npt.NDArray[np.str_]
    age_seconds: npt.NDArray[np.float64]
    model_version: str
    generation: str


@dataclass(frozen=True)
class ByColumn:
    """Scores an item by one of its features: what a real scorer looks like from outside."""

    column: str
    version: str
    aged: bool

    def score_table(self, table: pa.Table, now: datetime | None = None) -> Answers:
        assert now is not None
        rows = len(table)
        age = np.full(rows, 3600.0 if self.aged else np.nan)
        score = (1 / (1 + np.exp(-table[self.column].to_numpy()))).astype(np.float32)
        return Answers(score, np.full(rows, "fresh" if self.aged else "vanilla"), age, self.version, "g" * self.aged)


SCORERS = {"control": ByColumn("item_popularity", "v", False), "treatment": ByColumn("item_x0", "m", True)}


@pytest.fixture(scope="module")
def application() -> Application:
    return load_application("ptap")


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, application: Application) -> str:
    root = str(tmp_path_factory.mktemp("past") / "data")
    simulate(root, application, SPEC)
    return root


def run(application: Application, past: str, folder: Path, scorers=SCORERS, window: Window = WINDOW):
    world = resume_world(past, application)
    return play(
        world,
        application,
        scorers,
        str(folder),
        window,
        past,
        {"who": {arm: str(scorer) for arm, scorer in scorers.items()}},
    )


def read(folder: Path, name: str) -> pa.Table:
    return ds.dataset(str(folder / name), format="parquet").to_table()


def test_every_request_is_answered_by_its_members_arm(application: Application, past: str, tmp_path: Path) -> None:
    manifest = run(application, past, tmp_path / "log")
    log = read(tmp_path / "log", "exposures")
    assert log.schema.names == exposure_schema().names
    assert len(log) == manifest.counts["exposures"] > 200
    assert len(np.unique(log["request_id"].to_numpy())) == len(log)
    treated = in_treatment(log["member_id"].to_numpy(), application.experiment)
    assert log["variant"].to_pylist() == np.where(treated, "treatment", "control").tolist()
    assert 0.2 < treated.mean() < 0.8
    assert set(log.filter(pa.array(treated))["reason"].to_pylist()) == {"fresh"}
    control = log.filter(pa.array(~treated))
    assert set(control["model_version"].to_pylist()) == {"v"}
    assert control["embedding_age_seconds"].null_count == len(control)
    assert manifest.counts["clicks"] == log["label"].to_numpy().sum()


def test_members_outside_the_test_are_answered_and_not_exposed(
    application: Application, past: str, tmp_path: Path
) -> None:
    half = application.experiment.model_copy(update={"slots": (0.0, 0.5)})
    run(application.model_copy(update={"experiment": half}), past, tmp_path / "half")
    log, visits = read(tmp_path / "half", "exposures"), read(tmp_path / "half", "visits")
    exposed = np.unique(log["member_id"].to_numpy())
    assert takes_part(exposed, half).all()
    members = np.unique(visits["member_id"].to_numpy())
    assert 0.3 < takes_part(members, half).mean() < 0.7
    assert set(log["experiment"].to_pylist()) == {"limaml"}


def test_what_was_shown_is_the_best_of_its_candidates(application: Application, past: str, tmp_path: Path) -> None:
    run(application, past, tmp_path / "log")
    log = read(tmp_path / "log", "exposures").sort_by("request_id")
    world = resume_world(past, application)
    seen: dict[int, tuple[int, float]] = {}

    def best(candidates: pa.Table) -> npt.NDArray[np.integer]:
        """By a loop over requests, the first of equals."""
        treated = in_treatment(candidates["member_id"].to_numpy(), application.experiment)
        popularity, taste = candidates["item_popularity"].to_numpy(), candidates["item_x0"].to_numpy()
        rows = candidates.select(["request_id", "item_id"]).to_pylist()
        chosen: dict[int, int] = {}
        value: dict[int, float] = {}
        for index, row in enumerate(rows):
            score = float(taste[index] if treated[index] else popularity[index])
            if row["request_id"] not in chosen or score > value[row["request_id"]]:
                chosen[row["request_id"]], value[row["request_id"]] = index, score
        seen.update({request: (rows[index]["item_id"], value[request]) for request, index in chosen.items()})
        return np.array(list(chosen.values()))

    labels: dict[int, int] = {}
    for day in WINDOW.days:
        for played in world.day(day, best):
            shown = played.interactions
            labels |= dict(zip(shown["impression_id"].to_pylist(), shown["label"].to_pylist(), strict=True))
    assert log["item_id"].to_pylist() == [seen[request][0] for request in log["request_id"].to_pylist()]
    # Common random numbers: the same choices have the same outcomes.
    assert log["label"].to_pylist() == [labels[request] for request in log["request_id"].to_pylist()]


def test_a_rerun_is_the_same_and_other_scorers_are_another_log(
    application: Application, past: str, tmp_path: Path
) -> None:
    first = run(application, past, tmp_path / "log")
    assert run(application, past, tmp_path / "log").created_at == first.created_at
    assert run(application, past, tmp_path / "again").digest == first.digest
    swapped = {"control": SCORERS["treatment"], "treatment": SCORERS["control"]}
    assert run(application, past, tmp_path / "swapped", swapped).digest != first.digest


def test_the_log_explains_its_cohorts_and_can_be_analyzed(application: Application, past: str, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    run(application, past, folder)
    days = sorted(date.fromisoformat(path.name.removeprefix("date=")) for path in (folder / "visits").iterdir())
    assert days[0] < SPEC.start
    assert days[-1] == WINDOW.days[-1]
    exposures, visits, signups = (str(folder / name) for name in ("exposures", "visits", "signups"))
    report = analyze(exposures, visits, signups, str(tmp_path / "report"), application, WINDOW)
    assert report.counts["impressions"] == len(read(folder, "exposures"))


def test_a_world_that_stands_elsewhere_is_refused(application: Application, past: str, tmp_path: Path) -> None:
    late = Window(start=WINDOW.start + timedelta(days=1), end=WINDOW.end)
    with pytest.raises(ConfigError, match=f"stands at {WINDOW.start}, but the test starts on {late.start}"):
        run(application, past, tmp_path / "log", window=late)
    assert not (tmp_path / "log").exists()
