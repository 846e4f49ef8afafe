"""The chart rendered as Helm would: a scenario's values in, Kubernetes' objects out."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from helm_python import Chart

from charts.generate import CHART

Object = dict[str, Any]
SCENARIOS = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
EVERYTHING = "everything"
_CHART = Chart.load(CHART)


def scenario(name: str) -> dict[str, Any]:
    """Values of a scenario."""
    return yaml.safe_load(SCENARIOS[name].read_text())


def check(values: dict[str, Any]) -> None:
    """Hold values against the schema alone; Helm's error names the key."""
    _CHART.validate_schema(values)


def text(values: dict[str, Any], name: str = "limaml", namespace: str = "team") -> dict[str, str]:
    """Rendered text by the template's path below templates/."""
    return _text(json.dumps(values), name, namespace)


@cache
def _text(values: str, name: str, namespace: str) -> dict[str, str]:
    rendered = _CHART.render(json.loads(values), name=name, namespace=namespace)
    return {path.removeprefix("limaml/templates/"): content for path, content in rendered.items()}


def objects(values: dict[str, Any], template: str = "", name: str = "limaml") -> list[Object]:
    """Every object, or those of one template."""
    return [
        document
        for path, content in text(values, name).items()
        if path.endswith(".yaml") and path.startswith(template)
        for document in yaml.load_all(content, yaml.CSafeLoader)
        if document
    ]


def one(found: list[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind, or the one of that name."""
    (chosen,) = (each for each in found if each["kind"] == kind and name in ("", each["metadata"]["name"]))
    return chosen


def pod_specs(found: list[Object]) -> Iterator[tuple[str, Object]]:
    """The spec of every pod that the objects lead to, with the name of its object."""
    for each in found:
        spec = each.get("spec", {})
        if each["kind"] == "Pod":
            yield each["metadata"]["name"], spec
        elif each["kind"] in ("Deployment", "Job"):
            yield each["metadata"]["name"], spec["template"]["spec"]
        elif each["kind"] == "InferenceService":
            yield each["metadata"]["name"], spec["predictor"]


def pod_labels(found: list[Object]) -> Iterator[dict[str, str]]:
    """Labels of every pod that the objects lead to."""
    for each in found:
        if each["kind"] == "Pod":
            yield each["metadata"]["labels"]
        elif each["kind"] in ("Deployment", "Job"):
            yield each["spec"]["template"]["metadata"]["labels"]
        elif each["kind"] == "InferenceService":
            yield each["spec"]["predictor"]["labels"]
