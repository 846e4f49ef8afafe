"""A model that is not what its manifest or the configuration says is refused, and the message says where."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from limaml.config import parse_application
from limaml.errors import ConfigError, DataError, IntegrityError
from limaml.model import load_model
from limaml.storage import local_path
from tests.conftest import SMALL
from tests.limaml.online.chain import interactions, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model"), "m1", parse_application(SMALL, "tests"), interactions())


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_weights_that_changed_are_refused(model: str, tmp_path: Path, damage: str) -> None:
    copy = shutil.copytree(local_path(model), tmp_path / "copy")
    weights = sorted(copy.glob("*.safetensors"))[0]
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content if damage == "flipped" else content[:-9])
    if damage == "missing":
        weights.unlink()
    with pytest.raises(IntegrityError, match=weights.name):
        load_model(str(copy))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        load_model(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("task", "keys"), ["member_id", "item_id"], "task.keys: trained with ['member_id']"),
        (("features", "meta"), ["member_x0"], "features.meta: trained with"),
        (("features", "other"), ["item_x1", "item_x0"], "features.other: trained with"),
    ],
    ids=["keys", "meta", "order of other"],
)
def test_a_configuration_of_another_schema_is_refused(
    model: str, path: tuple[str, str], value: list[Any], told: str
) -> None:
    section, name = path
    changed = SMALL | {section: SMALL[section] | {name: value}}
    with pytest.raises(ConfigError) as caught:
        load_model(model, parse_application(changed, "tests"))
    assert told in str(caught.value)
    assert model in str(caught.value)
