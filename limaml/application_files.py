"""Applications as YAML files: those that ship with the package, yours, and those that extend another.

`extends: kuairand` starts from another application and says only what differs. Sections merge field by field. Features
and past aggregates merge by name: one that is named again keeps what it does not say anew, and a feature moves to the
side that names it (a feature feeds one block). Every other list is replaced.
"""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from limaml.errors import ConfigError

Plain = dict[str, Any]


def shipped_applications(with_extensions: bool = True) -> list[str]:
    """Names of the applications that come with the package, with or without those that extend another of them."""
    folder = resources.files("limaml") / "applications"
    names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return names if with_extensions else [name for name in names if "extends" not in _content(name)]


def read_application(name_or_path: str, below: tuple[str, ...] = ()) -> Any:
    """An application as plain data, with what it extends filled in; `below` are the files that extend it.

    Raises:
        ConfigError: no such application, not YAML, or it extends itself.
    """
    if name_or_path in below:
        raise ConfigError(f"{below[0]}: extends itself: {' → '.join([*below, name_or_path])}")
    content = _content(name_or_path)
    if not isinstance(content, dict) or "extends" not in content:
        return content
    base = content.pop("extends")
    if not isinstance(base, str):
        raise ConfigError(f"{name_or_path}: extends: the name of a shipped application or a path (got {base!r})")
    if base.endswith((".yaml", ".yml")):
        base = str(Path(name_or_path).parent / base)
    under = read_application(base, (*below, name_or_path))
    return extend(under, content) if isinstance(under, dict) else content


def _content(name_or_path: str) -> Any:
    """What one YAML file says."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"{name_or_path}: no such file")
        text = path.read_text()
    elif name_or_path in shipped_applications():
        text = (resources.files("limaml") / "applications" / f"{name_or_path}.yaml").read_text()
    else:
        raise ConfigError(
            f"no application {name_or_path!r}: give a path that ends in .yaml, or one of "
            + ", ".join(shipped_applications())
        )
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name_or_path}: not valid YAML: {error}") from error


def extend(base: Plain, changes: Plain) -> Plain:
    """The application `changes` describes on top of `base`, both as plain data; neither is modified."""
    merged = _merge(base, changes)
    if (features := _features(base.get("features"), changes.get("features"))) is not None:
        merged["features"] = merged["features"] | features
    old, new = (_at(content, "data", "source", "aggregates") for content in (base, changes))
    if isinstance(old, list) and isinstance(new, list):
        source = merged["data"]["source"] | {"aggregates": _by_name(old, new)}
        merged["data"] = merged["data"] | {"source": source}
    return merged


def _features(base: Any, changes: Any) -> Plain | None:
    """Both sides of the features, or None where either says none or is no pair of lists: validation says so."""
    sides = ("meta", "other")
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return None
    before, after = ({side: content.get(side, []) for side in sides} for content in (base, changes))
    if not all(isinstance(features, list) for content in (before, after) for features in content.values()):
        return None
    known = {_name(feature): feature for side in sides for feature in before[side]}
    result = {}
    for side, opposite in zip(sides, reversed(sides), strict=True):
        moved = {_name(feature) for feature in after[opposite]}
        result[side] = _by_name([f for f in before[side] if _name(f) not in moved], after[side], known)
    return result


def _merge(base: Plain, changes: Plain) -> Plain:
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merge(base[key], value) if both else value
    return result


def _by_name(items: list[Any], changes: list[Any], known: Plain | None = None) -> list[Any]:
    """Items changed in place where they are named again, new ones at the end; `known` gives what those start from."""
    result = {_name(item): item for item in items}
    for change in changes:
        name = _name(change)
        result[name] = _full(result.get(name, (known or {}).get(name, {}))) | _full(change)
    return list(result.values())


def _full(item: Any) -> Plain:
    """A bare name is a feature of that name."""
    return item if isinstance(item, dict) else {"name": item}


def _name(item: Any) -> Any:
    return str(item.get("name") if isinstance(item, dict) else item)


def _at(content: Any, *path: str) -> Any:
    for part in path:
        content = content.get(part) if isinstance(content, dict) else None
    return content
