"""values.yaml, its schema and README: generated from one source, every value documented, none without effect."""

import copy
import json
import tomllib
from typing import Any

import pytest
import yaml
from helm_python import HelmValuesError, lint

from charts.generate import CHART, leaves, outputs, texts
from tests.charts.rendering import EVERYTHING, SCENARIOS, check, scenario, text

SOURCE = (CHART / "values.yaml").read_text()
DEFAULTS = yaml.safe_load(SOURCE)
LEAVES = dict(leaves(DEFAULTS))


@pytest.mark.parametrize("name", SCENARIOS)
def test_lint_finds_nothing(name: str) -> None:
    report = lint(CHART, scenario(name), strict=True, kube_version="v1.36.0")
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]


def test_what_is_generated_is_what_is_committed() -> None:
    for path, content in outputs().items():
        assert path.read_text() == content, f"{path.name} differs: run python -m charts.generate"


def test_chart_and_package_are_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == project


def test_every_value_and_section_is_documented() -> None:
    found = texts(SOURCE)
    free = ("applications.ptap.", "resources.requests", "resources.limits", "accessModes")
    undocumented = [path for path, said in found.items() if not said and not any(part in path for part in free)]
    assert undocumented == ["applications.ptap"]
    for path in LEAVES:
        assert found.get(path) or found.get(path.rpartition(".")[0]) or any(part in path for part in free), path


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    check(DEFAULTS)
    sections = {path.rpartition(".")[0] for path in LEAVES if "." in path and not path.startswith("applications")}
    for section in sections:
        if not _is_free(schema, section.split(".")):
            wrong: dict[str, Any] = {}
            _set(wrong, section, {"no_such_value": 1})
            with pytest.raises(HelmValuesError, match="no_such_value"):
                check(wrong)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"replicas": 2}, "replicas"),
        ({"scorer": {"replicas": "two"}}, "/scorer/replicas"),
        ({"scorer": {"spread": "required"}}, "/scorer/spread"),
        ({"scorer": {"ingress": {"hosts": ["a"]}}}, "hosts"),
        ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"workspace": {"uri": "gs://bucket"}}, "/workspace/uri"),
        ({"workspace": {"persistence": {"size": "20 GB"}}}, "/workspace/persistence/size"),
        ({"store": {"url": "redis://user:password@host:6379/0"}}, "/store/url"),
        ({"mlflow": {"trackingUri": "https://user:password@mlflow"}}, "/mlflow/trackingUri"),
        ({"mlflow": {"password": "hunter2"}}, "password"),
        ({"kubeflow": {"endpoint": "ml-pipeline:8888"}}, "/kubeflow/endpoint"),
        ({"kubeflow": {"manifests": [{"kind": "Job"}]}}, "/kubeflow/manifests/0"),
        ({"networkPolicy": {"egressPorts": [70000]}}, "/networkPolicy/egressPorts/0"),
        ({"monitoring": {"serviceMonitor": {"interval": "often"}}}, "/monitoring/serviceMonitor/interval"),
        ({"trial": {"redis": {"command": "rm"}}}, "/trial/redis/command"),
        ({"environment": {"A": 1}}, "/environment/A"),
        ({"applications": {"P-Tap": {"config": {"extends": "ptap"}}}}, "P-Tap"),
        ({"applications": {"ptap": {"replicas": 2}}}, "replicas"),
        ({"applications": {"ptap": {"scorer": {"serviceAccount": {"name": "x"}}}}}, "serviceAccount"),
        ({"applications": {"mine": {"config": {"title": "Mine"}}}}, "/applications/mine/config"),
        ({"applications": {"ptap": {"config": {"windows": {"lookback_day": 3}}}}}, "lookback_day"),
        (
            {"applications": {"ptap": {"config": {"training": {"epochs": 0}}}}},
            "/applications/ptap/config/training/epochs",
        ),
        ({"applications": {"ptap": {"config": {"schedule": {"refresh": {"cron": 3}}}}}}, "schedule/refresh"),
        ({"applications": {"ptap": {"config": {"cluster": {"secrets": [{"variable": "A"}]}}}}}, "cluster/secrets/0"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: dict, key: str) -> None:
    with pytest.raises(HelmValuesError) as refused:
        check(values)
    assert key in str(refused.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"workspace": {"uri": "s3://b/w"}, "mlflow": {"trackingUri": "http://m"}}, "store.url: required"),
        ({"workspace": {"uri": "s3://b/w"}, "store": {"url": "dynamodb://t"}}, "mlflow.trackingUri: required"),
        ({"applications": {"ptap": {"config": {"name": "pclick"}}}}, "applications.ptap.config.name: is pclick"),
        ({"scorer": {"ingress": {"enabled": True}}}, "scorer.ingress.domain: required"),
        ({"runs": {"rbac": {"trainJobs": True}}}, "runs.serviceAccount.name: required"),
        ({"fullnameOverride": "a" * 40, "applications": {"b" * 20: {"config": {"extends": "ptap"}}}}, "63"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: dict, said: str) -> None:
    with pytest.raises(Exception, match=said):
        text(values)


# What a value may be instead, where its schema allows only some texts, and how it shows.
MANIFEST = {
    "apiVersion": "pipelines.kubeflow.org/v2beta1",
    "kind": "Pipeline",
    "metadata": {"name": "other"},
    "spec": {},
}
OTHER: dict[str, tuple[Any, str]] = {
    "image.digest": (f"sha256:{'2' * 64}", "2" * 64),
    "image.pullPolicy": ("Never", "imagePullPolicy: Never"),
    "workspace.uri": ("s3://other/workspace", "s3://other/workspace"),
    "workspace.persistence.accessModes": (["ReadWriteOncePod"], "ReadWriteOncePod"),
    "workspace.persistence.mountPath": ("/other", "/other"),
    "store.url": ("dynamodb://other", "dynamodb://other"),
    "mlflow.trackingUri": ("https://mlflow.other", "https://mlflow.other"),
    "aws.endpointUrl": ("https://endpoint.other", "https://endpoint.other"),
    "kubeflow.endpoint": ("https://kubeflow.other", "https://kubeflow.other"),
    "kubeflow.manifests": ([MANIFEST], "name: other"),
    "monitoring.serviceMonitor.interval": ("7999s", "7999s"),
    "scorer.autoscaling.targetCpuUtilization": (777, "averageUtilization: 777"),
    "scorer.service.type": ("NodePort", "NodePort"),
    "scorer.spread": ("none", ""),
    "trial.redis.command": ("redis-server", "value: redis-server"),
    "applications.ptap.config": (
        {"extends": "other.yaml", "experiment": {"exposures": {"url": "s3://b/exposures"}}},
        "extends: other.yaml",
    ),
    "applications.ptap.scorer": ({"replicas": 7}, "replicas: 7"),
}
# Values that others overrule in the fullest scenario, with one where nothing does.
LOGIN = {"existingSecret": "login"}
ALONE: dict[str, Any] = {
    "nameOverride": {},
    "image.tag": {},
    "scorer.replicas": {},
    "scorer.ingress.domain": scenario(EVERYTHING),
    "scorer.httpRoute.domain": scenario(EVERYTHING),
    "runs.serviceAccount.create": {},
    "scorer.spread": {},
    "workspace.uri": {"store": {"url": "dynamodb://t"}, "mlflow": {"trackingUri": "http://m"}},
    "workspace.persistence.size": {},
    "workspace.persistence.storageClass": {},
    "workspace.persistence.accessModes": {},
    "workspace.persistence.mountPath": {},
    "store.redis.usernameKey": {"store": {"redis": LOGIN}},
    "store.redis.passwordKey": {"store": {"redis": LOGIN}},
    "mlflow.usernameKey": {"mlflow": LOGIN},
    "mlflow.passwordKey": {"mlflow": LOGIN},
    "aws.accessKeyIdKey": {"aws": LOGIN},
    "aws.secretAccessKeyKey": {"aws": LOGIN},
    "applications.ptap.scorer": {},
}
SWITCHES = [path for path, value in LEAVES.items() if isinstance(value, bool)]


def test_every_value_reaches_an_object() -> None:
    """Each has a value of its own here, and that is found in what is rendered."""
    changed = scenario(EVERYTHING)
    shown = {}
    for number, (path, value) in enumerate(LEAVES.items()):
        if path not in SWITCHES and path not in ALONE:
            other, shown[path] = _other(path, value, number)
            _set(changed, path, other)
    check(changed)
    rendered = "\n".join(text(changed).values())
    assert [path for path, found in shown.items() if found not in rendered] == []


@pytest.mark.parametrize("path", [*SWITCHES, *(path for path in ALONE if path not in SWITCHES)])
def test_every_switch_and_overruled_value_changes_something(path: str) -> None:
    base = copy.deepcopy(ALONE.get(path, scenario(EVERYTHING)))
    changed = copy.deepcopy(base)
    value = LEAVES[path]
    _set(changed, path, not _get(base, path, value) if path in SWITCHES else _other(path, value, 1)[0])
    check(changed)
    assert _stable(changed) != _stable(base)


def _other(path: str, value: Any, number: int) -> tuple[Any, str]:
    """Another value than the default one, and the text by which it is found."""
    mark, count = f"other{number}", 7000 + number
    if path in OTHER:
        return OTHER[path]
    match value:
        case int():
            return count, str(count)
        case str() if path.endswith((".cpu", ".memory", "Size", ".size")):
            return f"{count}Mi", f"{count}Mi"
        case str():
            return mark, mark
        case dict():
            return {mark: mark}, mark
        case list() if path.endswith("Ports"):
            return [count], str(count)
        case list() if not value and path != "image.pullSecrets":
            return [{"key": mark}], mark
        case list():
            return [mark], mark
    raise AssertionError(path)


def _stable(values: dict[str, Any]) -> list[str]:
    """What is rendered, without the passwords that every rendering draws anew."""
    return [
        line
        for content in text(values).values()
        for line in content.splitlines()
        if not line.lstrip().startswith(("password: ", "flaskSecretKey: "))
    ]


def _get(values: dict[str, Any], path: str, default: Any) -> Any:
    for name in path.split("."):
        if not isinstance(values, dict) or name not in values:
            return default
        values = values[name]
    return values


def _set(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, last = path.split(".")
    for name in sections:
        values = values.setdefault(name, {})
    values[last] = value


def _is_free(schema: dict[str, Any], path: list[str]) -> bool:
    """Whether a section takes any name: labels, annotations, quantities."""
    node: dict[str, Any] = schema
    for name in path:
        for _ in range(2):
            node = node["allOf"][0] if "allOf" in node else node
            if "$ref" in node:
                node = schema["$defs"][node["$ref"].removeprefix("#/$defs/")]
        node = node["properties"][name]
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return node.get("additionalProperties") is not False and "allOf" not in node
