"""Several task definitions in one application's configuration."""

import copy
from typing import Any

import pytest

from limaml.application_files import shipped_applications
from limaml.config import AlsoTask, Application, application_from_parameter, load_application, parse_application
from limaml.errors import ConfigError
from limaml.model import network_spec, schema_changes
from tests.conftest import SMALL

BY_TYPE = {
    "name": "member_type",
    "keys": ["member_id", "notification_type"],
    "meta": ["notification_type", "member_x1"],
}


def content(*also: dict[str, Any], **sections: Any) -> dict[str, Any]:
    result = copy.deepcopy(SMALL) | {"also": list(also)}
    for section, values in sections.items():
        result[section] = result[section] | values
    return result


def test_the_definitions_in_order() -> None:
    application = parse_application(content(BY_TYPE), "tests")
    assert application.definition_names == ("", "member_type")
    assert application.definitions == (application.task, application.also[0])
    assert application.key_columns == ("member_id", "notification_type")
    assert [f.name for f in application.meta_features(application.also[0])] == ["member_x1", "notification_type"]
    assert application.meta_features(application.task) == application.features.meta
    # Numeric member_x0, member_x1, item_x0, item_x1; categories member_kind, notification_type.
    assert network_spec(application).also_columns == (((1,), (1,)),)
    assert application_from_parameter(application.model_dump_json()) == application


def test_one_definition_is_what_it_was(application: Application) -> None:
    assert application.also == ()
    assert application.definition_names == ("",)
    assert application.key_columns == application.task.keys
    assert network_spec(application).also_columns == ()


@pytest.mark.parametrize(
    ("also", "sections", "part"),
    [
        ([BY_TYPE, BY_TYPE | {"keys": ["item_id"]}], {}, "also: member_type names two task definitions"),
        ([BY_TYPE | {"keys": ["member_id"]}], {}, "also: two task definitions have the keys member_id"),
        (
            [BY_TYPE, BY_TYPE | {"name": "turned", "keys": ["notification_type", "member_id"]}],
            {},
            "two task definitions have the keys member_id, notification_type",
        ),
        ([BY_TYPE | {"meta": ["nothing"]}], {}, "also.0.meta: no feature nothing; there are member_x0, member_x1"),
        ([BY_TYPE | {"meta": ["item_x0", "item_x0"]}], {}, "also.0.meta: item_x0 is named twice"),
        ([BY_TYPE | {"meta": []}], {}, "also.0.meta"),
        ([BY_TYPE | {"keys": ["label"]}], {}, "label can be neither a feature nor a task key"),
        ([BY_TYPE | {"name": "Member Type"}], {}, "also.0.name"),
        ([BY_TYPE | {"support_fraction": 0.5}], {}, "also.0.support_fraction: unknown key"),
        (
            [BY_TYPE],
            {"network": {"adapted": "meta_block"}},
            "network.adapted: several task definitions need 'embedding'",
        ),
        ([BY_TYPE], {"network": {"adapted": "network"}}, "not 'network'"),
    ],
)
def test_what_cannot_be_is_refused(also: list[Any], sections: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_application(content(*also, **sections), "app.yaml")
    assert part in str(caught.value)


def test_another_definition_is_another_schema(application: Application) -> None:
    both = parse_application(content(BY_TYPE), "tests")
    assert any("also" in change for change in schema_changes(application, both))
    other = parse_application(content(BY_TYPE | {"meta": ["member_x0"]}), "tests")
    assert schema_changes(both, other)
    assert not schema_changes(both, both)


@pytest.mark.parametrize("name", [name for name in shipped_applications() if name.endswith("_both")])
def test_a_shipped_application_of_both_extends_the_one_of_its_first(name: str) -> None:
    both = load_application(name)
    (also,) = both.also
    assert isinstance(also, AlsoTask)
    first = load_application({"pclick_both": "pclick_user", "pinvite_both": "pinvite_inviter"}[name])
    second = load_application({"pclick_both": "pclick_user_type", "pinvite_both": "pinvite_invitee"}[name])
    assert (both.task, both.features) == (first.task, first.features)
    assert also.keys == second.task.keys
    assert set(also.meta) == {feature.name for feature in second.features.meta}
