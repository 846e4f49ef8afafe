"""The stage that trains: which algorithms, and what it leaves behind."""

from pathlib import Path

import numpy as np
from safetensors.torch import load

from limaml import storage
from limaml.config import Application
from limaml.data.features import encode_features
from limaml.model import load_model
from limaml.training.train import PAGE, train_model
from tests.limaml.training.planted import APPLICATION, AS_OF, group_all, interactions


def changed(**training: object) -> Application:
    return APPLICATION.model_copy(update={"training": APPLICATION.training.model_copy(update=training)})


def test_one_algorithm_makes_a_model_of_its_own(tmp_path: Path) -> None:
    application = changed(epochs=1)
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


def test_on_a_frozen_base_members_without_samples_are_served_as_vanilla_serves_them(tmp_path: Path) -> None:
    sets, log = group_all(tmp_path, log=interactions(members=60)), interactions(members=5)
    root, tracking = f"{tmp_path}/model", f"sqlite:///{tmp_path}/mlflow.db"
    joint, frozen = (changed(epochs=4, base=base) for base in ("joint", "frozen"))
    beside = train_model(sets.train, sets.validation, root, joint, tracking, AS_OF, ("vanilla",)).details["uri"]
    details = train_model(sets.train, sets.validation, root, frozen, tracking, AS_OF, ("limaml",)).details
    uri, score = details["uri"], details["validation_auc"]
    weights = [load(storage.read_bytes(storage.join(place, "vanilla.safetensors"))) for place in (beside, uri)]
    assert all(weights[1][name].equal(value) for name, value in weights[0].items()), "another vanilla network"

    limaml, vanilla = load_model(uri), load_model(uri, algorithm="vanilla")
    meta, other = (encode_features(features, log) for features in (frozen.features.meta, frozen.features.other))
    expected = vanilla.predict_unadapted(*meta, *other)
    np.testing.assert_array_equal(limaml.predict_unadapted(*meta, *other), expected)
    nobody = np.tile(limaml.default_embedding, (len(log), 1))
    of_vanilla = np.tile(vanilla.default_embedding, (len(log), 1))
    np.testing.assert_array_equal(limaml.score(nobody, *other), vanilla.score(of_vanilla, *other))
    assert limaml.embedding_width == 2 * vanilla.embedding_width
    assert score["limaml"] > score["vanilla"] + 0.1, "taste is all there is in this log"
