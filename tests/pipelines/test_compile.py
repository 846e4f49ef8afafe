"""The compiled YAML, as Kubeflow will read it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import IMAGE
from pipelines.compile import compile_all

NAMES = ("train", "refresh", "ab_report")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    out = tmp_path_factory.mktemp("compiled") / "not" / "yet"
    paths = compile_all(out)
    return {path.stem: next(iter(yaml.safe_load_all(path.read_text()))) for path in paths}


def _tasks(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["root"]["dag"]["tasks"]


def _after(tasks: dict[str, Any], name: str) -> set[str]:
    """Every step that must end before this one."""
    direct = set(tasks[name].get("dependentTasks", []))
    return direct.union(*(_after(tasks, other) for other in direct)) if direct else direct


def test_all_pipelines_are_written(compiled: dict[str, dict[str, Any]]) -> None:
    assert tuple(compiled) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_steps_run_our_image_and_install_nothing(compiled: dict[str, dict[str, Any]], name: str) -> None:
    for label, executor in compiled[name]["deploymentSpec"]["executors"].items():
        assert executor["container"]["image"] == IMAGE, label
        assert "pip" not in executor["container"]["command"][2], label


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_named_for_people_and_never_cached(compiled: dict[str, dict[str, Any]], name: str) -> None:
    titles = [task["taskInfo"]["name"] for task in _tasks(compiled[name]).values()]
    assert len(set(titles)) == len(titles)
    for label, task in _tasks(compiled[name]).items():
        assert task["taskInfo"]["name"] != label, "a step shows its component's name"
        assert not task.get("cachingOptions", {}).get("enableCache"), label


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_documented_strings(compiled: dict[str, dict[str, Any]], name: str) -> None:
    parameters = compiled[name]["root"]["inputDefinitions"]["parameters"]
    for label, parameter in parameters.items():
        assert parameter["parameterType"] == "STRING", label
        assert parameter["description"], label
    for label, component in compiled[name]["components"].items():
        for parameter, content in component.get("inputDefinitions", {}).get("parameters", {}).items():
            assert content.get("description"), f"{label}.{parameter}"


def test_training_publishes_only_after_the_gate(compiled: dict[str, dict[str, Any]]) -> None:
    tasks = _tasks(compiled["train"])
    assert _after(tasks, "push-embeddings") >= {"gate-theta", "generate-embeddings", "train-theta", "validate-data"}
    assert _after(tasks, "gate-theta") >= {"generate-embeddings", "train-theta"}
    splits = {
        task["inputs"]["parameters"]["split"]["runtimeValue"]["constant"]
        for name, task in tasks.items()
        if name.startswith("group-tasks")
    }
    assert splits == {"train", "validation", "test"}


def test_refresh_monitors_what_it_published(compiled: dict[str, dict[str, Any]]) -> None:
    tasks = _tasks(compiled["refresh"])
    assert "train-theta" not in tasks
    assert _after(tasks, "monitor") >= {"push-embeddings", "generate-embeddings", "group-tasks", "validate-data"}


def test_the_date_is_resolved_once(compiled: dict[str, dict[str, Any]]) -> None:
    """Past midnight a second step would otherwise work on another day than the first."""
    for name in ("train", "refresh"):
        for label, task in _tasks(compiled[name]).items():
            source = task["inputs"]["parameters"].get("run_date")
            if source is not None and label != "validate-data":
                assert source["taskOutputParameter"]["producerTask"] == "validate-data"


def test_the_command_compiles_with_another_image(tmp_path: Path) -> None:
    image = "registry.example/limaml@sha256:0000"
    ended = subprocess.run(
        [sys.executable, "-m", "pipelines.compile", "--out", str(tmp_path), "--json"],
        env={**os.environ, "LIMAML_IMAGE": image},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ended.stdout.splitlines()[-1])["image"] == image
    assert f"image: {image}" in (tmp_path / "train.yaml").read_text()
