"""`python -m charts.generate`: what of charts/limaml follows from other files.

values.schema.json from schema.yaml, the texts in values.yaml and the application's models; the table in README.md from
values.yaml; files/ from monitoring/. A test fails where any of them is not what this writes.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from limaml.application_schema import file_schema

HERE = Path(__file__).resolve().parent
CHART = HERE / "limaml"
MONITORING = HERE.parent / "monitoring"
BEGIN, END = "<!-- values: made by python -m charts.generate -->", "<!-- /values -->"
# What users fill in as they like: below it there is nothing to document.
FREE = ("applications.ptap.config", "applications.ptap.scorer")

Plain = dict[str, Any]


def texts(source: str) -> dict[str, str]:
    """The comment above every value, by its path: `scorer.token.key`."""
    found: dict[str, str] = {}
    comment: list[str] = []
    above: list[tuple[int, str]] = []
    for line in source.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
        elif key := re.match(r"( *)([\w-]+):", line):
            depth = len(key[1])
            above = [each for each in above if each[0] < depth]
            above.append((depth, key[2]))
            found[".".join(name for _, name in above)] = " ".join(comment)
            comment = []
        else:
            comment = []
    return found


def leaves(values: Plain, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no section, with its path; an empty mapping is a value."""
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value and here not in FREE:
            yield from leaves(value, here)
        else:
            yield here, value


def schema() -> Plain:
    """values.schema.json."""
    result = yaml.safe_load((HERE / "schema.yaml").read_text())
    application = file_schema()
    definitions = result["$defs"]
    for name, section in application.pop("$defs").items():
        definitions[f"application.{name}"] = _moved(section)
    # The chart gives every application its name: that of its key.
    whole = definitions["application.Application"]
    whole["required"] = [name for name in whole["required"] if name != "name"]
    branches = {key: _moved(application[key]) for key in ("if", "then", "else")}
    definitions["application"] = {"type": "object", **branches}
    own = {name: each for name, each in definitions["scorer"]["properties"].items() if name != "serviceAccount"}
    definitions["scorerOfApplication"] = definitions["scorer"] | {"properties": own}
    for path, text in texts((CHART / "values.yaml").read_text()).items():
        if (node := _at(result, path.split("."))) is not None:
            node["description"] = text
    return result


def readme(text: str) -> str:
    """README.md with its table of values as it should be."""
    source = (CHART / "values.yaml").read_text()
    said = texts(source)
    rows = ["| value | default | |", "|---|---|---|"]
    for path, value in leaves(yaml.safe_load(source)):
        default = json.dumps(value, ensure_ascii=False).replace("|", "\\|")
        rows.append(f"| `{path}` | `{default}` | {said.get(path, '')} |")
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{rest.partition(END)[2]}"


def outputs() -> dict[Path, str]:
    """Every file this writes, as it should be."""
    made = {
        CHART / "values.schema.json": json.dumps(schema(), indent=1) + "\n",
        CHART / "README.md": readme((CHART / "README.md").read_text()),
        CHART / "files/alerts.yaml": (MONITORING / "alerts.yaml").read_text(),
    }
    for dashboard in sorted((MONITORING / "dashboards").glob("*.json")):
        made[CHART / "files/dashboards" / dashboard.name] = dashboard.read_text()
    return made


def main() -> None:
    """Write what differs, and say so."""
    for path, content in outputs().items():
        if not path.exists() or path.read_text() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            sys.stdout.write(f"wrote {path.relative_to(HERE.parent)}\n")


def _moved(node: Any) -> Any:
    """References into the application's own schema, where that schema now is."""
    if isinstance(node, list):
        return [_moved(item) for item in node]
    if not isinstance(node, dict):
        return node
    prefix = "#/$defs/"
    moved = {key: _moved(value) for key, value in node.items()}
    if isinstance(reference := node.get("$ref"), str):
        moved["$ref"] = f"{prefix}application.{reference.removeprefix(prefix)}"
    return moved


def _at(node: Plain, path: list[str]) -> Plain | None:
    """What describes a value: found through sections and the scorer's definition, which is used once."""
    for name in path[:-1]:
        node = node.get("properties", {}).get(name, {})
        if node.get("allOf"):
            return None
    return node.get("properties", {}).get(path[-1])


if __name__ == "__main__":
    main()
