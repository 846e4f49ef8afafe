"""The gate on real pairs: promotion, refusal, idempotence, and the aliases in a real MLflow."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from limaml.config import Application
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.tasks import TaskSet
from limaml.errors import GateRefused, IntegrityError, StorageError
from limaml.manifest import Manifest
from limaml.model import load_model
from limaml.online.embeddings import generate_embeddings
from limaml.training.evaluation import Tuned, score_test
from limaml.training.gate import judge
from limaml.training.gate_page import roc_points
from limaml.training.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from limaml.training.train import train_model
from tests.limaml.training.planted import APPLICATION, AS_OF, TaskSets, group_all


class Bench:
    """Trains and judges below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sets: TaskSets = group_all(folder)
        self.tracking = f"sqlite:///{folder}/mlflow.db"
        self.registry = Registry(self.tracking, "small")

    def train(self, **changes: object) -> tuple[Application, str]:
        application = APPLICATION.model_copy(update={"training": APPLICATION.training.model_copy(update=changes)})
        manifest = train_model(
            self.sets.train, self.sets.validation, str(self.folder / "model"), application, self.tracking, AS_OF
        )
        return application, manifest.details["uri"]

    def embed(self, application: Application, model: str) -> str:
        output = str(self.folder / "embeddings" / Path(model).name)
        generate_embeddings(model, self.sets.test, output, application, AS_OF)
        return output

    def judge(self, application: Application, model: str, embeddings: str, **gate: object) -> Manifest:
        application = application.model_copy(update={"gate": application.gate.model_copy(update=gate)})
        output = str(self.folder / "decision" / Path(model).name)
        return judge(model, embeddings, self.sets.validation, self.sets.test, output, application, self.tracking, AS_OF)

    def aliases(self) -> dict[str, str | None]:
        found = {alias: self.registry.by_alias(alias) for alias in (CHALLENGER, CHAMPION, PREVIOUS)}
        return {alias: None if version is None else version.model_version for alias, version in found.items()}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("gate"))


def test_the_life_of_champions(bench: Bench) -> None:
    first, first_uri = bench.train(seed=0)
    first_embeddings = bench.embed(first, first_uri)
    decision = bench.judge(first, first_uri, first_embeddings)
    first_version = Path(first_uri).name.removeprefix("file://")
    assert decision.details["promoted"]
    assert bench.aliases() == {CHALLENGER: first_version, CHAMPION: first_version, PREVIOUS: None}
    table = {(row["slice"], row["algorithm"]): row for row in decision.details["table"]}
    assert table["with_support", "limaml"]["auc"] > 0.75 > 0.56 > table["all", "vanilla"]["auc"]
    assert table["all", "limaml"]["gauc"] > table["all", "vanilla_intercept"]["gauc"] + 0.1

    # One epoch only: a worse model, refused with a reason that names figures; the champion stays.
    second, second_uri = bench.train(seed=1, epochs=1)
    with pytest.raises(GateRefused, match=r"against the champion, all rows .*asked for -0.10%"):
        bench.judge(second, second_uri, bench.embed(second, second_uri))
    assert bench.aliases()[CHAMPION] == first_version
    assert Path(bench.folder / "decision" / Path(second_uri).name / "decision.html").exists()

    # A third is let through by its own gate and takes over.
    third, third_uri = bench.train(seed=2)
    bench.judge(third, third_uri, bench.embed(third, third_uri), maximum_drop_to_champion=1.0)
    assert bench.aliases()[CHAMPION] == Path(third_uri).name
    assert bench.aliases()[PREVIOUS] == first_version

    # Judged again after its promotion, a model meets the one it replaced then: the same decision.
    again = bench.judge(third, third_uri, bench.embed(third, third_uri), maximum_drop_to_champion=1.0)
    assert again.details["champion"] == first_version

    # The first, judged again, meets today's champion, and does not come back whatever is decided.
    bench.judge(first, first_uri, first_embeddings, maximum_drop_to_champion=1.0)
    assert bench.aliases()[CHAMPION] == Path(third_uri).name

    # What is served is what is judged: a model compared with itself as champion has the same scores.
    model, vanilla = load_model(first_uri), load_model(first_uri, algorithm="vanilla")
    files, test = EmbeddingFiles(first_embeddings), TaskSet.open(bench.sets.test)
    scored = score_test(model, vanilla, files, test, Tuned(1.0, 10.0, 3.0), "float32", champion=model)
    np.testing.assert_allclose(scored.scores["champion"], scored.scores["limaml"], atol=1e-6)

    # Training again is a no-op; so is its MLflow run.
    assert bench.train(seed=0)[1] == first_uri
    runs = bench.registry.client.search_runs([bench.registry.experiment_id])
    assert len(runs) == 3
    with pytest.raises(IntegrityError, match="were made by model"):
        bench.judge(third, third_uri, first_embeddings)


def test_a_champion_of_another_schema_does_not_block_its_successor(bench: Bench, tmp_path: Path) -> None:
    """A new feature is a reason to train again; the old champion can't read it, and vanilla is still to be beaten."""
    features = APPLICATION.features
    slimmer = APPLICATION.model_copy(update={"features": features.model_copy(update={"meta": features.meta[:2]})})
    sets = group_all(tmp_path, slimmer)
    old = (
        bench.aliases()[CHAMPION]
        or bench.judge(*(pair := bench.train(seed=0)), bench.embed(*pair)).details["model_version"]
    )
    made = train_model(sets.train, sets.validation, str(tmp_path / "model"), slimmer, bench.tracking, AS_OF)
    uri = made.details["uri"]
    generate_embeddings(uri, sets.test, str(tmp_path / "embeddings"), slimmer, AS_OF)
    decision = judge(
        uri, str(tmp_path / "embeddings"), sets.validation, sets.test, str(tmp_path / "decision"), slimmer,
        bench.tracking, AS_OF,
    )  # fmt: skip
    assert decision.details["champion"] is None
    assert f"champion {old} not compared: trained on other task keys or features" in decision.details["reasons"]
    assert bench.aliases() == {
        CHALLENGER: made.details["model_version"], CHAMPION: made.details["model_version"], PREVIOUS: old,
    }  # fmt: skip


def test_a_wrong_address_of_mlflow_costs_no_training(bench: Bench) -> None:
    address = f"sqlite:///{bench.folder}/validated/manifest.json/mlflow.db"
    with pytest.raises(StorageError):
        train_model(bench.sets.train, bench.sets.validation, str(bench.folder / "other"), APPLICATION, address, AS_OF)
    assert not list((bench.folder / "other").rglob("*.safetensors"))


def test_roc_points_lie_on_scikit_learn_s_curve() -> None:
    random = np.random.default_rng(0)
    label = (random.random(300) < 0.4).astype(int)
    score = np.round(random.random(300) + 0.3 * label, 2)
    points = roc_points(label, score, points=1000)
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_allclose(points["fpr"], fpr)
    np.testing.assert_allclose(points["tpr"], tpr)
