"""The image that was built: who runs in it, what is in it and what is not, and that every part of ours starts."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from limaml.config import load_application
from pipelines.compile import KINDS, compile_pipeline
from tests.infra.conftest import docker, in_container
from tests.test_architecture import COMPONENTS

NAMES = [path.stem for path in COMPONENTS if "@dsl.component" in path.read_text()]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def executors(image: str) -> dict[str, Any]:
    """What Kubeflow runs, by component: command and arguments as compiled."""
    found = {}
    alone = load_application("ptap")
    fanned = alone.model_copy(
        update={
            "cluster": alone.cluster.model_copy(update={"fan_out": 2}),
            "store": alone.store.model_copy(update={"url": "redis://redis:6379/0"}),
        }
    )
    for kind, application in itertools.product(KINDS, (alone, fanned)):
        spec = next(yaml.safe_load_all(compile_pipeline(kind, application, image=image)))
        for executor in spec["deploymentSpec"]["executors"].values():
            arguments = executor["container"]["args"]
            found[arguments[arguments.index("--function_to_execute") + 1]] = (executor["container"], spec)
    return found


def executor_input(name: str, spec: dict[str, Any]) -> str:
    """A component's input as Kubeflow's launcher would hand it over, with a configuration that is none."""
    component = spec["components"][f"comp-{name.replace('_', '-')}"]
    kinds = component["inputDefinitions"]["parameters"]
    empty: dict[str, Any] = {
        "STRING": "",
        "NUMBER_INTEGER": 0,
        "NUMBER_DOUBLE": 0.0,
        "BOOLEAN": False,
        "LIST": [],
        "STRUCT": {},
    }
    empty["TASK_FINAL_STATUS"] = {"state": "FAILED", "pipelineJobResourceName": "", "pipelineTaskName": "", "error": {}}
    values = {parameter: empty[kind["parameterType"]] for parameter, kind in kinds.items()}
    artifacts = {
        artifact: {"artifacts": [{"name": artifact, "type": kind["artifactType"], "uri": f"/tmp/out/{artifact}"}]}
        for artifact, kind in component.get("outputDefinitions", {}).get("artifacts", {}).items()
    }
    parameters = {
        parameter: {"outputFile": f"/tmp/out/{parameter}"}
        for parameter in component.get("outputDefinitions", {}).get("parameters", {})
    }
    outputs = {"artifacts": artifacts, "parameters": parameters, "outputFile": "/tmp/out/executor_output.json"}
    wrong = {"application": '{"name": 3}', "workspace": "/tmp/workspace", "part": '{"number": 0}'}
    given = {"parameterValues": {**values, **{name: value for name, value in wrong.items() if name in values}}}
    return json.dumps({"inputs": given, "outputs": outputs})


@pytest.fixture(scope="module")
def compiled(image: str) -> dict[str, Any]:
    return executors(image)


def test_nobody_runs_it_and_the_root_stays_as_it_is(image: str) -> None:
    said = in_container(
        image, "sh", "-c", "id -u; id -g; pwd; echo $HOME; touch /opt/limaml/x; touch /tmp/x && echo ok"
    )
    assert said.stdout.split() == ["10001", "10001", "/tmp", "/tmp", "ok"]
    assert "Read-only file system" in said.stderr


@pytest.mark.parametrize("user", ["10001", "1000650000:0"], ids=["the image's", "one that a cluster makes up"])
def test_the_command_line_starts_for_any_user(image: str, user: str) -> None:
    said = in_container(image, "limaml", "--help", options=(f"--user={user}",))
    assert "from interactions to a served score" in said.stdout
    imports = "import torch, mlflow, evidently, great_expectations, matplotlib.pyplot, tea_tasting, onnxruntime"
    in_container(image, "python3", "-c", imports, options=(f"--user={user}",))


def test_nothing_of_the_build_is_left(image: str) -> None:
    inspected = json.loads(docker("image", "inspect", image).stdout)[0]
    config = inspected["Config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.version"] in config["Labels"].values()
    assert not [each for each in config["Env"] if each.startswith(("PIP_", "SSL_", "AWS_"))]
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "BEGIN CERTIFICATE" not in history
    assert "PIP_INDEX_URL" not in history
    absent = "for tool in gcc cc make git curl; do command -v $tool; done; ls -d /wheels /build 2>/dev/null"
    assert in_container(image, "sh", "-c", absent, check=False).stdout == ""
    assert in_container(image, "python3", "-m", "pip", check=False).returncode != 0
    # Certificates of a closed network stay in the stage that downloads.
    base = docker("run", "--rm", "python:3.11-slim-bookworm", "md5sum", "/etc/ssl/certs/ca-certificates.crt").stdout
    assert in_container(image, "md5sum", "/etc/ssl/certs/ca-certificates.crt").stdout == base


def test_bytecode_is_there_and_taken(image: str) -> None:
    """A module without bytecode, or with bytecode that Python doesn't trust, is compiled at every start."""
    code = (
        "import sys, importlib.util, pathlib, torch, pandas, kfp, limaml.config, pipelines.cli, json, asyncio\n"
        "def taken(file):\n"
        "    cache = pathlib.Path(importlib.util.cache_from_source(file))\n"
        "    if not cache.exists():\n"
        "        return False\n"
        "    flag, time, size = (int.from_bytes(cache.read_bytes()[at : at + 4], 'little') for at in (4, 8, 12))\n"
        "    stat = pathlib.Path(file).stat()\n"
        "    return flag == 1 or (flag == 0 and (time, size) == (int(stat.st_mtime), stat.st_size))\n"
        "files = [getattr(module, '__file__', None) or '' for module in list(sys.modules.values())]\n"
        "files = [file for file in files if file.startswith('/') and file.endswith('.py')]\n"
        "print(len(files), [file for file in files if not taken(file)])"
    )
    count, others = in_container(image, "python3", "-c", code).stdout.split(maxsplit=1)
    assert int(count) > 1000
    assert others.strip() == "[]"


def test_it_is_small(image: str) -> None:
    size = json.loads(docker("image", "inspect", image).stdout)[0]["Size"]
    assert size < 2.5e9, f"{size:,} bytes"


def test_steps_install_nothing(compiled: dict[str, Any]) -> None:
    assert set(compiled) == set(NAMES)
    for container, _ in compiled.values():
        assert "pip" not in container["command"][2]


@pytest.mark.parametrize("name", NAMES)
def test_a_component_starts_as_kubeflow_starts_it(image: str, compiled: dict[str, Any], name: str) -> None:
    """The component loads, its imports are there, and its first act, reading the configuration, fails as documented."""
    container, spec = compiled[name]
    arguments = [executor_input(name, spec) if word == "{{$}}" else word for word in container["args"]]
    ended = in_container(image, *container["command"], *arguments, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "ERROR ConfigError: " in ended.stderr


def test_the_code_is_the_working_trees(image: str) -> None:
    root = Path(__file__).resolve().parents[2]
    code = (
        "import hashlib, limaml, components, pipelines, monitoring, pathlib\n"
        "for module in (limaml, components, pipelines, monitoring):\n"
        "    base = pathlib.Path(module.__path__[0])\n"
        "    for path in sorted(base.rglob('*.py')):\n"
        "        print(path.relative_to(base.parent), hashlib.md5(path.read_bytes()).hexdigest())\n"
    )
    inside = dict(line.split() for line in in_container(image, "python3", "-c", code).stdout.splitlines())
    ours = {
        str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest()
        for folder in ("limaml", "components", "pipelines", "monitoring")
        for path in (root / folder).rglob("*.py")
    }
    assert inside == ours
