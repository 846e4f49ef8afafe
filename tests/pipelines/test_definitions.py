"""Two task definitions from interactions to scores: trained, judged, published, refreshed and watched."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from kfp import dsl

from components.gate_theta import gate_theta
from components.generate_embeddings import generate_embeddings
from components.group_tasks import group_tasks
from components.monitor import monitor
from components.push_embeddings import push_embeddings
from components.train_theta import train_theta
from components.validate_data import validate_data
from limaml.config import Application, load_application, parse_application
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.simulator import simulate
from limaml.data.tasks import TaskSet
from limaml.data.world import SimulationSpec
from limaml.online.overlay import open_generation
from limaml.online.scoring import Scorer
from limaml.online.store import open_store
from limaml.schema import stored_id
from limaml.windows import refresh_split, training_splits
from limaml.workspace import Workspace
from pipelines.run import run_refresh, run_train
from tests.conftest import SHORT

TRAINED, REFRESHED = date(2026, 1, 9), date(2026, 1, 10)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def small(name: str) -> Application:
    content = load_application(name).model_dump(mode="json")
    return parse_application({**content, **{key: content[key] | value for key, value in SHORT.items()}}, "small")


class Steps:
    """The components' bodies in the pipelines' order, in this process."""

    def __init__(self, application: Application, root: str, data: str, folder: Path) -> None:
        self.common, self.data, self.folder = (application.model_dump_json(), root), data, folder
        self.count = 0

    def run(self, component: Any, *arguments: str, **options: str) -> Any:
        self.count += 1
        folder = self.folder / f"step-{self.count}"
        folder.mkdir(parents=True)
        kinds = {"manifest": dsl.Artifact, "report": dsl.HTML, "metrics": dsl.Metrics}
        kinds |= {"summary": dsl.Markdown, "roc": dsl.ClassificationMetrics}
        wanted = component.component_spec.outputs or {}
        outputs = {name: kind(name=name, uri=str(folder / name)) for name, kind in kinds.items() if name in wanted}
        return component.python_func(*self.common, *arguments, **options, **outputs)

    def train(self, run_date: date) -> None:
        day, validated = self.run(validate_data, self.data, run_date.isoformat(), "train")
        tasks = {name: self.run(group_tasks, day, validated, name) for name in ("train", "validation", "test")}
        model = self.run(train_theta, day, tasks["train"], tasks["validation"])
        embeddings = self.run(generate_embeddings, day, tasks["test"], model=model)
        decision = self.run(gate_theta, self.data, day, model, embeddings, tasks["validation"], tasks["test"])
        self.run(push_embeddings, day, embeddings, decision=decision)

    def refresh(self, run_date: date) -> None:
        day, validated = self.run(validate_data, self.data, run_date.isoformat(), "refresh")
        tasks = self.run(group_tasks, day, validated, "recent")
        embeddings = self.run(generate_embeddings, day, tasks)
        release = self.run(push_embeddings, day, embeddings)
        self.run(monitor, day, embeddings=embeddings, release=release)


def in_steps(application: Application, root: str, data: str, folder: Path) -> None:
    steps = Steps(application, root, data, folder)
    steps.train(TRAINED)
    steps.refresh(REFRESHED)


def through_the_runner(application: Application, root: str, data: str, folder: Path) -> None:
    del folder
    for finished in (run_train(application, root, data, TRAINED), run_refresh(application, root, data)):
        assert finished.error is None, finished.error


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "further", "way"),
    [
        ("pclick_both", "member_type", in_steps),
        ("pinvite_both", "invitee", in_steps),
        pytest.param("pclick_both", "member_type", through_the_runner, marks=pytest.mark.heavy),
    ],
)
def test_both_definitions_from_interactions_to_scores(
    name: str, further: str, way: Callable[[Application, str, str, Path], None], tmp_path: Path
) -> None:
    application = small(name)
    data, root = str(tmp_path / "data"), str(tmp_path / "w")
    simulate(data, application, SimulationSpec(members=150, items=100, days=9))
    way(application, root, data, tmp_path / "steps")

    place = Workspace(root, application.name)
    splits = training_splits(application.windows, TRAINED)
    assert TaskSet.open(place.tasks(splits["train"])).further == []
    assert TaskSet.open(place.tasks(splits["test"])).further == [further]
    store = open_store(place.store_url(application), application.name)
    release = store.current()
    assert release is not None
    assert (release.number, release.as_of) == (2, REFRESHED)
    files = EmbeddingFiles(place.embeddings(release.model_version, REFRESHED))
    recent = TaskSet.open(place.tasks(refresh_split(application.windows, REFRESHED)))
    reader = open_generation(store, release.generation)
    for each in application.definition_names:
        ids = list(files.lookup(each)[0])
        assert len(ids) == recent.of(each).tasks > 50, "every task of the window has its embedding"
        assert reader.get([stored_id(each, task) for task in ids]).found.all()
    assert release.verified["tasks"] == release.tasks == recent.tasks + recent.of(further).tasks
    reader.close()
    monitored = json.loads((Path(root) / name / "monitoring" / str(REFRESHED) / "monitoring.json").read_text())
    assert monitored["served"]["found_tasks"] == monitored["served"]["active_tasks"] == recent.tasks
    assert monitored["canary"]["tasks"] > 0

    rows = pq.read_table(tmp_path / "data" / "interactions" / "date=2026-01-09").drop_columns(["label"])
    scores = Scorer.open(place.store_url(application), application).score_table(rows)
    assert np.isfinite(scores.probability).all()
    assert set(scores.reason.tolist()) == {"stale"}, "all of a past day's tasks are known"
