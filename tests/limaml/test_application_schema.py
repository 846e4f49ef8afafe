"""The schema of an application's file says yes and no as the models do."""

import copy
from typing import Any

import jsonschema
import pytest
import yaml

from limaml.application_files import shipped_applications
from limaml.application_schema import file_schema
from limaml.config import load_application

VALIDATOR = jsonschema.Draft7Validator(file_schema())


def errors(content: Any) -> list[str]:
    """Where a file breaks the schema."""
    return [".".join(map(str, error.absolute_path)) + ": " + error.message for error in VALIDATOR.iter_errors(content)]


@pytest.mark.parametrize("name", shipped_applications())
def test_shipped_files_keep_it_and_so_do_they_with_every_default_spelled_out(name: str) -> None:
    from importlib import resources

    text = (resources.files("limaml") / "applications" / f"{name}.yaml").read_text()
    assert errors(yaml.safe_load(text)) == []
    assert errors(load_application(name).model_dump(mode="json")) == []


def test_the_schema_is_one_itself() -> None:
    jsonschema.Draft7Validator.check_schema(file_schema())


def test_what_extends_says_only_what_differs() -> None:
    changes = {"extends": "ptap", "schedule": {"refresh": {"enabled": False}}, "task": {"max_samples": 32}}
    assert errors(changes) == []
    assert errors(changes | {"features": {"other": ["item_x0"]}}) == []
    del changes["extends"]
    assert any("'title' is a required property" in each for each in errors(changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"windows": {"lookback_day": 3}}, "windows: Additional properties are not allowed ('lookback_day'"),
        ({"training": {"epochs": 0}}, "training.epochs: 0 is less than the minimum of 1"),
        ({"store": {"dtype": "float8"}}, "store.dtype: 'float8' is not one of"),
        ({"validation": {"label_rate": [0.1]}}, "validation.label_rate: [0.1] is too short"),
        ({"features": {"meta": ["member x0"]}}, "features.meta.0: 'member x0' is not valid under any"),
        ({"cluster": {"volumes": [{"claim": "work"}]}}, "cluster.volumes.0: 'path' is a required property"),
        ({"extends": ""}, "extends: "),
    ],
)
def test_wrong_files_are_told_where(change: dict, said: str) -> None:
    whole = load_application("ptap").model_dump(mode="json")
    contents = [{"extends": "ptap"} | change]
    if "extends" not in change:
        contents.append(copy.deepcopy(whole) | {key: whole[key] | value for key, value in change.items()})
    for content in contents:
        assert any(said in each for each in errors(content)), errors(content)
