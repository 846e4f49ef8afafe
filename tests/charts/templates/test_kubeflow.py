"""templates/kubeflow and templates/tests: what the Jobs ask of Kubeflow Pipelines, and that they may."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from limaml.config import load_application
from pipelines.manifests import manifests
from pipelines.uploads import compiled
from tests.charts.rendering import Object, check, objects, one, scenario
from tests.pipelines.fake_kubeflow import FakeKubeflow

ROOT = Path(__file__).resolve().parents[3]
APPLY, REMOVE = "kubeflow/apply-job", "kubeflow/remove-job"


def container(found: list[Object]) -> Object:
    (job,) = found
    (only,) = job["spec"].get("template", job)["spec"]["containers"]
    return only


def run(found: list[Object], etc: Path, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A container's command on this machine, with the applications' files where a pod has them."""
    pod = container(found)
    variables = {each["name"]: each.get("value", "") for each in pod["env"]}
    environment = os.environ | variables | {"KF_PIPELINES_ENDPOINT": host, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = [each.replace("/etc/limaml", str(etc)) for each in [*pod["command"], *pod["args"]]]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def files(values: dict, etc: Path) -> None:
    for folder, template in (("applications", "applications/configmap"), ("removed", "applications/removed")):
        (etc / folder).mkdir(exist_ok=True)
        for config_map in objects(values, template):
            for name, content in config_map.get("data", {}).items():
                (etc / folder / name).write_text(content)


def test_jobs_are_hooks_that_end() -> None:
    apply, remove = one(objects({}, APPLY), "Job"), one(objects({}, REMOVE), "Job")
    assert apply["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade,post-rollback"
    assert remove["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    for job in (apply, remove):
        assert job["spec"]["activeDeadlineSeconds"] == 600
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert objects({"kubeflow": {"enabled": False}}, "kubeflow/") != []
    assert {each["kind"] for each in objects({"kubeflow": {"enabled": False}}, "kubeflow/")} == {"NetworkPolicy"}


def test_a_job_knows_where_kubeflow_is_and_which_image_steps_run() -> None:
    values = {
        "image": {"repository": "registry.example/limaml", "tag": "7"},
        "kubeflow": {"endpoint": "http://kfp:1234"},
    }
    variables = {each["name"]: each["value"] for each in container(objects(values, APPLY))["env"]}
    assert variables["KF_PIPELINES_ENDPOINT"] == "http://kfp:1234"
    assert variables["KF_PIPELINES_NAMESPACE"] == "team"
    assert variables["LIMAML_IMAGE"] == "registry.example/limaml:7"
    ports = [
        port["port"]
        for rule in objects(values, "kubeflow/networkpolicy")[0]["spec"]["egress"]
        for port in rule["ports"]
    ]
    assert 1234 in ports


def test_its_token_is_for_kubeflow_pipelines_alone() -> None:
    (job,) = objects({}, APPLY)
    spec = job["spec"]["template"]["spec"]
    (token,) = [each for each in spec["volumes"] if each["name"] == "token"]
    (source,) = token["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    (mount,) = [each for each in container([job])["volumeMounts"] if each["name"] == "token"]
    assert mount["mountPath"] == "/var/run/secrets/kubeflow/pipelines"
    values = {"kubeflow": {"existingSecret": "kfp", "tokenKey": "key"}}
    (variable,) = [each for each in container(objects(values, APPLY))["env"] if each["name"] == "KF_PIPELINES_TOKEN"]
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "kfp", "key": "key"}


def test_its_role_is_of_the_api_and_nothing_else() -> None:
    role, binding = objects({}, "kubeflow/role")
    assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {"pipelines.kubeflow.org"}
    verbs = {verb for rule in role["rules"] for verb in rule["verbs"]}
    assert verbs == {"get", "list", "create", "delete", "enable", "disable"}
    assert (
        binding["subjects"][0]["name"]
        == one(objects({}, "kubeflow/serviceaccount"), "ServiceAccount")["metadata"]["name"]
    )
    assert objects({"kubeflow": {"rbac": {"create": False}}}, "kubeflow/role") == []


def test_manifests_go_in_as_they_are() -> None:
    pipeline, version = objects(scenario("everything"), "kubeflow/manifests")
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"]
    assert pipeline["apiVersion"] == "pipelines.kubeflow.org/v2beta1"


def test_pipelines_as_manifests_are_values_and_named_as_uploading_names_them() -> None:
    """So that the Job finds them there."""
    application, image = load_application("ptap"), "registry.example/limaml:7"
    given = manifests(application, image, ["monitor"])
    values = {"kubeflow": {"manifests": given}}
    check(values)
    pipeline, version = objects(values, "kubeflow/manifests")
    assert [pipeline["spec"], version["spec"]] == [each["spec"] for each in given]
    text = compiled("monitor", application, image)
    assert (pipeline["metadata"]["name"], version["spec"]["displayName"]) == (text.name, text.version)
    assert version["metadata"]["name"] == f"{text.name}-{text.version}"
    assert version["spec"]["platformSpec"]


def test_helm_test_looks_at_kubeflow_and_at_every_scorer() -> None:
    pods = {each["metadata"]["name"]: each for each in objects(scenario("everything"), "tests/")}
    assert set(pods) == {"limaml-test-kubeflow", "limaml-test-scorers"}
    assert pods["limaml-test-scorers"]["spec"]["containers"][0]["args"][1:] == [
        "pclick_user=http://limaml-scorer-pclick-user-predictor:80",
        "ptap=http://limaml-scorer-ptap:80",
    ]
    assert pods["limaml-test-kubeflow"]["spec"]["containers"][0]["args"][1:] == [
        "/etc/limaml/applications/pclick_user.yaml",
        "/etc/limaml/applications/ptap.yaml",
    ]


def test_removing_never_fails(tmp_path: Path) -> None:
    """Without Kubeflow, and without the command itself."""
    files({}, tmp_path)
    found = objects({}, REMOVE)
    pod = container(found)
    command = [each.replace("/etc/limaml", str(tmp_path)) for each in [*pod["command"], *pod["args"]]]
    ended = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert "may still be there" in ended.stdout


@pytest.mark.heavy
def test_install_test_upgrade_and_uninstall_against_a_server(tmp_path: Path) -> None:
    values = scenario("trial")
    with FakeKubeflow().running() as server:
        files(values, tmp_path)
        applied = run(objects(values, APPLY), tmp_path, server.host)
        assert applied.returncode == 0, applied.stdout + applied.stderr
        names = {each["display_name"] for each in server.items("pipelines")}
        assert {"ptap-train", "ptap-refresh", "ptap-ab-report"} <= names
        assert len(server.items("recurringruns")) == 2

        tested = run(objects(values, "tests/kubeflow"), tmp_path, server.host)
        assert tested.returncode == 0, tested.stdout + tested.stderr
        assert "schedule refresh: in sync" in tested.stdout

        values["applications"]["ptap"]["enabled"] = False
        (tmp_path / "applications/ptap.yaml").unlink()
        files(values, tmp_path)
        upgraded = run(objects(values, APPLY), tmp_path, server.host)
        assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
        assert server.items("pipelines") == server.items("recurringruns") == []

        files(scenario("trial"), tmp_path)
        removed = run(objects(scenario("trial"), REMOVE), tmp_path, server.host)
        assert removed.returncode == 0, removed.stdout + removed.stderr


@pytest.mark.heavy
def test_a_test_finds_what_is_missing(tmp_path: Path) -> None:
    with FakeKubeflow().running() as server:
        files({}, tmp_path)
        tested = run(objects({}, "tests/kubeflow"), tmp_path, server.host)
        assert tested.returncode == 1
        assert "ptap: train is not registered as it is now" in tested.stderr
