import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from limaml.application_files import shipped_applications
from limaml.config import (
    Application,
    application_from_parameter,
    load_application,
    parse_application,
)
from limaml.errors import ConfigError
from tests.conftest import SMALL


def changed(path: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(SMALL)
    *parents, last = path.split(".")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    return content


def message(content: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_application(content, "app.yaml")
    return str(caught.value)


def test_the_shipped_applications_load_under_their_own_names() -> None:
    assert shipped_applications() == [
        "kuairand",
        "kuairand_strong",
        "kuairand_strong_user_type",
        "kuairand_user_type",
        "movietweetings",
        "movietweetings_strong",
        "movietweetings_strong_user_type",
        "movietweetings_user_type",
        "pclick_both",
        "pclick_user",
        "pclick_user_type",
        "pinvite_both",
        "pinvite_invitee",
        "pinvite_inviter",
        "ptap",
    ]
    for name in shipped_applications():
        assert load_application(name).name == name


@pytest.mark.parametrize("name", ["ptap", "kuairand"])
def test_the_application_survives_the_json_parameter_of_a_pipeline(name: str) -> None:
    application = load_application(name)
    back = application_from_parameter(application.model_dump_json())
    assert back == application
    assert back.config_hash == application.config_hash


def test_all_errors_are_shown_at_once_with_their_paths() -> None:
    content = changed("training.epochs", 0)
    content["gate"] = {"minimum_rows": "many"}
    content["features"]["meta"].append({"name": "x y"})
    del content["title"]
    text = message(content)
    assert text.startswith("app.yaml: 4 errors")
    for path in ("training.epochs", "gate.minimum_rows", "features.meta.3.name", "title: required"):
        assert path in text
    assert "(got 0)" in text


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("training.task_lerning_rate", "did you mean 'task_learning_rate'?"),
        ("monitorng", "did you mean 'monitoring'?"),
        ("store.zzz", "allowed here: url, dtype"),
    ],
)
def test_an_unknown_key_is_refused_with_the_likely_one(path: str, hint: str) -> None:
    text = message(changed(path, 1))
    assert f"{path}: unknown key; " in text
    assert hint in text


def test_a_typo_inside_a_feature_is_named_by_its_position() -> None:
    text = message(changed("features.other", ["a", {"name": "b", "knid": "categorical"}]))
    assert "features.other.1.knid: unknown key; did you mean 'kind'?" in text


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        ("features.other", ["member_x0"], "named as both meta and other: member_x0"),
        ("features.other", ["a", "a"], "named twice: a"),
        ("features.other", ["label"], "label can be neither a feature nor a task key"),
        ("task.keys", ["event_time"], "event_time can be neither"),
        ("task.keys", [], "task.keys"),
        ("training.task_learning_rate", float("nan"), "training.task_learning_rate"),
        ("training.tasks_per_batch", 1.5, "training.tasks_per_batch"),
        ("name", "Not a slug", "name"),
    ],
)
def test_values_that_cannot_be_right_are_refused(path: str, value: Any, part: str) -> None:
    assert part in message(changed(path, value))


@pytest.mark.parametrize("adapted", ["meta_block", "network"])
def test_a_frozen_base_is_not_adapted(adapted: str) -> None:
    content = changed("training.base", "frozen")
    assert parse_application(content, "app.yaml").training.unadapted_weight == 0
    content["network"]["adapted"] = adapted
    assert f"a frozen base needs network.adapted 'embedding', not '{adapted}'" in message(content)


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_an_application_is_a_mapping(content: Any) -> None:
    assert "mapping of sections" in message(content)


def test_it_is_frozen(application: Application) -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(application, "name", "other")  # noqa: B010 - a plain assignment would not type-check


def test_a_bare_name_is_a_numeric_feature(application: Application) -> None:
    assert application.features.meta[0].kind == "numeric"
    assert [feature.name for feature in application.features.all][:4] == [
        "member_x0",
        "member_x1",
        "member_kind",
        "item_x0",
    ]


def test_a_sections_hash_changes_with_its_own_section_only(application: Application) -> None:
    other = parse_application(changed("gate.minimum_rows", 7), "tests")
    assert other.sections_hash("training", "features") == application.sections_hash("training", "features")
    assert other.sections_hash("gate") != application.sections_hash("gate")
    assert other.config_hash != application.config_hash


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "mine.yaml"
    good.write_text(yaml.safe_dump(SMALL))
    assert load_application(str(good)).name == "small"
    with pytest.raises(ConfigError, match="no such file"):
        load_application(str(tmp_path / "missing.yaml"))
    with pytest.raises(ConfigError, match=r"one of kuairand, .*ptap"):
        load_application("ptapp")
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: [unclosed")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_application(str(bad))
    unsafe = tmp_path / "unsafe.yaml"
    unsafe.write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_application(str(unsafe))


def test_json_that_is_not_json() -> None:
    with pytest.raises(ConfigError, match="not valid JSON"):
        application_from_parameter("{")


def test_every_field_with_a_range_says_so_in_the_json_schema() -> None:
    schema = json.dumps(Application.model_json_schema())
    assert '"additionalProperties": false' in schema
    assert "exclusiveMinimum" in schema
