"""`extends`: an application that says only what differs from another."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from limaml.application_files import extend, shipped_applications
from limaml.config import load_application
from limaml.errors import ConfigError
from tests.conftest import SMALL


def _file(path: Path, content: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_feature_named_on_the_other_side_moves_there_as_it_was(tmp_path: Path) -> None:
    base = _file(tmp_path / "base.yaml", SMALL)
    extended = {"extends": "./base.yaml", "name": "other", "features": {"meta": ["notification_type"]}}
    application, before = load_application(_file(tmp_path / "other.yaml", extended)), load_application(base)
    assert application.name == "other"
    assert [f.name for f in application.features.meta] == ["member_x0", "member_x1", "member_kind", "notification_type"]
    assert application.features.other == before.features.other[:2]
    assert application.features.meta[-1] == before.features.other[2]
    assert application.training == before.training


def test_fields_merge_features_and_aggregates_merge_by_name_other_lists_are_replaced() -> None:
    base = SMALL | {"data": SMALL["data"] | {"source": {"aggregates": [{"name": "a", "keys": ["item_id"]}]}}}
    changes = {
        "task": {"keys": ["member_id", "notification_type"]},
        "data": {"source": {"aggregates": [{"name": "a", "smoothing": 3}, {"name": "b", "keys": ["member_id"]}]}},
        "features": {"other": [{"name": "item_x1", "minimum": 0}, "b"]},
        "training": {"epochs": 9},
    }
    merged = extend(base, changes)
    assert merged["task"] == {"keys": ["member_id", "notification_type"], "max_samples": 16}
    aggregates = merged["data"]["source"]["aggregates"]
    assert aggregates == [{"name": "a", "keys": ["item_id"], "smoothing": 3}, {"name": "b", "keys": ["member_id"]}]
    names = [feature if isinstance(feature, str) else feature["name"] for feature in merged["features"]["other"]]
    assert names == ["item_x0", "item_x1", "notification_type", "b"]
    assert merged["features"]["other"][1] == {"name": "item_x1", "minimum": 0}
    assert merged["features"]["meta"] == SMALL["features"]["meta"]
    assert merged["training"] == SMALL["training"] | {"epochs": 9}


@pytest.mark.parametrize(
    ("extends", "told"),
    [
        ("./gone.yaml", "gone.yaml: no such file"),
        ("nobody", "no application 'nobody'"),
        ("./app.yaml", "extends itself"),
        (3, r"extends: the name of a shipped application or a path \(got 3\)"),
    ],
)
def test_what_cannot_be_extended_says_why(extends: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        load_application(_file(tmp_path / "app.yaml", {"extends": extends, "name": "app"}))


def test_wrong_sections_of_an_extension_are_reported_as_those_of_any_file(tmp_path: Path) -> None:
    content = {"extends": "kuairand", "name": "mine", "features": {"meta": 3}, "network": []}
    with pytest.raises(ConfigError, match=r"(?s)features.meta: .*network: "):
        load_application(_file(tmp_path / "mine.yaml", content))


def test_extensions_among_the_shipped_ones_can_be_left_out() -> None:
    assert "kuairand_strong" in shipped_applications()
    assert "kuairand_strong" not in shipped_applications(with_extensions=False)
    assert "kuairand" in shipped_applications(with_extensions=False)
