"""The stage that trains: which algorithms, and what it leaves behind."""

from pathlib import Path

from limaml import storage
from limaml.training.train import PAGE, train_model
from tests.limaml.training.planted import APPLICATION, AS_OF, group_all, interactions


def test_one_algorithm_makes_a_model_of_its_own(tmp_path: Path) -> None:
    training = APPLICATION.training.model_copy(update={"epochs": 1})
    application = APPLICATION.model_copy(update={"training": training})
    sets = group_all(tmp_path, application, interactions(members=40))
    root, tracking = f"{tmp_path}/model", f"sqlite:///{tmp_path}/mlflow.db"
    both = train_model(sets.train, sets.validation, root, application, tracking, AS_OF)
    one = train_model(sets.train, sets.validation, root, application, tracking, AS_OF, ("limaml",))
    assert one.details["model_version"] != both.details["model_version"]
    assert one.details["validation_auc"] == {"limaml": both.details["validation_auc"]["limaml"]}

    def weights(uri: str) -> set[str]:
        return {path.name for path in storage.local_path(uri).glob("*.safetensors")}

    assert weights(both.details["uri"]) == {"theta.safetensors", "vanilla.safetensors"}
    assert weights(one.details["uri"]) == {"theta.safetensors"}
    page = (storage.local_path(one.details["uri"]) / PAGE).read_text()
    assert "vanilla" not in page
    assert not list(Path(root).glob(".*")), "checkpoints outlived the run"
