"""The JSON schema of an application's YAML: what the models say, and what a file may leave to them.

A file that `extends` another says only what differs, so nothing is required of it; a feature may be its bare name.
"""

from typing import Any

from limaml.config import Application
from limaml.sections import Feature

Schema = dict[str, Any]
_CHANGES = ".changes"


def file_schema() -> Schema:
    """The schema of an application's file, whole or by what it extends, in draft 7."""
    schema = Application.model_json_schema(ref_template="#/$defs/{model}")
    sections = schema.pop("$defs")
    feature = sections[Feature.__name__]
    sections[Feature.__name__] = {"anyOf": [feature["properties"]["name"], feature]}
    sections["Application"] = schema
    changes = {name + _CHANGES: _changes(section, sections) for name, section in sections.items()}
    what = "a shipped application's name, or a path beside this file"
    extends = {"type": "string", "minLength": 1, "description": what}
    whole = changes["Application" + _CHANGES]
    whole["properties"] = {"extends": extends, **whole["properties"]}
    sections |= {name: changes[name] for name in _reached("Application" + _CHANGES, changes)}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "An application of LiMAML",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": f"#/$defs/Application{_CHANGES}"},
        "else": {"$ref": "#/$defs/Application"},
        "$defs": {name: _plain(section) for name, section in sections.items()},
    }


def _changes(section: Schema, sections: Schema) -> Schema:
    """A section of which nothing is required; sections below it likewise, but lists' items whole: they are replaced."""
    properties = {name: _changed(each, sections) for name, each in section.get("properties", {}).items()}
    return {key: value for key, value in section.items() if key != "required"} | {"properties": properties}


def _changed(each: Schema, sections: Schema) -> Schema:
    if "anyOf" in each:
        return each | {"anyOf": [_changed(one, sections) for one in each["anyOf"]]}
    name = each.get("$ref", "").removeprefix("#/$defs/")
    return each | {"$ref": f"#/$defs/{name}{_CHANGES}"} if name in sections else each


def _reached(name: str, schemas: Schema) -> list[str]:
    """Names of the schemas that one of them refers to, itself first."""
    found, waiting = [], [name]
    while waiting:
        name = waiting.pop()
        if name in schemas and name not in found:
            found.append(name)
            waiting += [reference.removeprefix("#/$defs/") for reference in _references(schemas[name])]
    return found


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [each for item in schema for each in _references(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
    return own + [each for value in schema.values() for each in _references(value)]


def _plain(schema: Any) -> Any:
    """Without titles that repeat a field's name, and with pairs as draft 7 writes them."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(pair := schema.get("prefixItems"), list):
        assert all(item == pair[0] for item in pair), "draft 7 would need another keyword for unequal items"
        schema = {key: value for key, value in schema.items() if key != "prefixItems"} | {"items": pair[0]}
    return {key: _plain(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
