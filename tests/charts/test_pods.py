"""Pods of the chart, started by docker as Kubernetes would: their user, root, volumes, variables and commands."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.charts.rendering import Object, objects, scenario
from tests.infra.conftest import RESTRICTED, docker
from tests.infra.conftest import image as image

pytestmark = pytest.mark.docker
VALUES = scenario("trial") | {"trial": {"data": {"enabled": True, "members": 300}}}


def container(template: str, kind: str) -> tuple[Object, Object]:
    """A pod's spec and its first container."""
    found = next(each for each in objects(VALUES, template) if each["kind"] == kind)
    spec = found["spec"] if kind == "Pod" else found["spec"]["template"]["spec"]
    return spec, spec["containers"][0]


def options(spec: Object, pod: Object, cluster: Path) -> list[str]:
    """docker's options for a container: volumes are folders below `cluster`, claims writable for the pod's group."""
    given = [*RESTRICTED, "--network=host"]
    given += [f"--env={each['name']}={each['value']}" for each in pod.get("env", []) if "value" in each]
    volumes = {each["name"]: each for each in spec["volumes"]}
    for mount in pod["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "emptyDir" in volume:
            continue
        source = volume.get("persistentVolumeClaim", {}).get("claimName") or volume["configMap"]["name"]
        folder = cluster / source
        folder.mkdir(exist_ok=True)
        if "persistentVolumeClaim" in volume:
            os.chown(folder, 0, spec["securityContext"]["fsGroup"])
            folder.chmod(0o2775)
            given.append(f"--group-add={spec['securityContext']['fsGroup']}")
        given.append(f"--volume={folder}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}")
    return given


@contextmanager
def running(image: str, template: str, kind: str, cluster: Path) -> Iterator[str]:
    """A container of the chart in the background, by its id."""
    spec, pod = container(template, kind)
    entry, *rest = [*pod["command"], *pod["args"]]
    name = docker("run", "--detach", *options(spec, pod, cluster), f"--entrypoint={entry}", image, *rest).stdout.strip()
    try:
        yield name
    finally:
        docker("rm", "--force", name)


@pytest.mark.skipif(os.geteuid() != 0, reason="folders must be given to the pods' group")
def test_data_is_made_and_a_scorer_waits_for_its_first_release(image: str, tmp_path: Path) -> None:
    for config_map in objects(VALUES, "applications/configmap"):
        (tmp_path / config_map["metadata"]["name"]).mkdir()
        for name, content in config_map["data"].items():
            (tmp_path / config_map["metadata"]["name"] / name).write_text(content)
    with running(image, "trial/data-job", "Job", tmp_path) as job:
        assert docker("wait", job).stdout.strip() == "0", docker("logs", job).stderr
    assert len(list((tmp_path / "limaml-workspace/ptap/data/interactions").iterdir())) == 31

    with running(image, "scorer/deployment", "Deployment", tmp_path) as scorer:
        deadline = time.monotonic() + 120
        while not _ready():
            assert time.monotonic() < deadline, docker("logs", scorer).stderr
            time.sleep(1)
        assert requests.get("http://localhost:8080/v2/models/ptap/ready", timeout=5).status_code == 503
        _, pod = container("tests/scorers", "Pod")
        entry, *rest = [*pod["command"], pod["args"][0], "ptap=http://localhost:8080"]
        tested = docker("run", "--rm", *RESTRICTED, "--network=host", f"--entrypoint={entry}", image, *rest)
        assert "no release is loaded yet" in tested.stdout
        docker("stop", "--time", "60", scorer)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", scorer).stdout.strip() == "0"


def _ready() -> bool:
    try:
        return requests.get("http://localhost:8080/v2/health/ready", timeout=2).ok
    except requests.ConnectionError:
        return False
