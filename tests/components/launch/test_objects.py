"""The objects as Kubernetes is given them."""

import copy
from typing import Any

import pytest

from components.launch.job import object_name
from components.launch.spark_application import SPARK_APPLICATION, spark_application
from components.launch.train_job import TRAIN_JOB, train_job
from limaml.config import Application, application_from_parameter, parse_application
from tests.conftest import SMALL

CLUSTER: dict[str, Any] = {
    "service_account": "limaml-steps",
    "image_pull_secrets": ["registry"],
    "environment": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
    "secrets": [{"variable": "LIMAML_REDIS_PASSWORD", "secret": "redis", "key": "password"}],
    "volumes": [{"claim": "workspace", "path": "/data"}],
    "train_on": "trainjob",
    "nodes": 2,
    "processes_per_node": 4,
    "spark": {"image": "limaml-spark:1", "executors": 8, "configuration": {"spark.network.timeout": "300s"}},
    "steps": {
        "train_theta": {
            "cpu": "8",
            "memory": "64Gi",
            "gpus": 4,
            "shared_memory": "8Gi",
            "node_selector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        }
    },
}


@pytest.fixture
def full() -> Application:
    return parse_application(copy.deepcopy(SMALL) | {"cluster": CLUSTER}, "tests")


def test_a_trainjob_has_what_the_steps_section_says(full: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "r1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    body = train_job(full, "0123456789abcdef", "limaml:1", ["--date", "2026-02-01"])
    trainer = body["spec"]["trainer"]
    assert body["spec"]["runtimeRef"]["name"] == "torch-distributed"
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (2, 4, "limaml:1")
    assert trainer["resourcesPerNode"] == {
        "requests": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "4"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "4"},
    }
    assert trainer["env"] == [
        {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"},
        {
            "name": "LIMAML_REDIS_PASSWORD",
            "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password", "optional": False}},
        },
        {"name": "MLFLOW_RUN_ID", "value": "r1"},
    ]
    (patch,) = body["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "limaml-steps"
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in pod["volumes"]
    (container,) = pod["containers"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/dev/shm", "/data"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_an_older_trainer_gets_the_same_pods(full: Application) -> None:
    """What version 2.2 renamed, without the security context that there was no field for."""
    body = train_job(full, "0123456789abcdef", "limaml:1", [], "podTemplateOverrides")
    (override,) = body["spec"]["podTemplateOverrides"]
    assert override["targetJobs"] == [{"name": "node"}]
    assert override["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert "securityContext" not in override["spec"]


def test_the_application_travels_whole(full: Application) -> None:
    for body in (
        train_job(full, "0123456789abcdef", "i", [])["spec"]["trainer"]["args"],
        spark_application(full, "0123456789abcdef", "i", [])["spec"]["arguments"],
    ):
        assert application_from_parameter(body[body.index("--app") + 1]) == full


def test_a_spark_application_has_what_its_section_says(full: Application) -> None:
    spec = spark_application(full, "0123456789abcdef", "limaml-spark:1", ["--split", "train"])["spec"]
    assert spec["arguments"][:2] == ["group", "--app"]
    assert spec["arguments"][-2:] == ["--split", "train"]
    assert (spec["executor"]["instances"], spec["executor"]["memoryOverhead"]) == (8, "4g")
    assert spec["sparkConf"] == {"spark.network.timeout": "300s"}
    assert spec["restartPolicy"] == {"type": "Never"}
    for part in ("driver", "executor"):
        assert {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"} in spec[part]["env"]
        assert {"name": "volume-0", "mountPath": "/data"} in spec[part]["volumeMounts"]
    assert spec["imagePullSecrets"] == ["registry"]


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ({}, "running"),
        ({"state": "SUBMITTED"}, "running"),
        ({"state": "RUNNING"}, "running"),
        ({"state": "COMPLETED"}, "done"),
        ({"state": "FAILED", "errorMessage": "driver container failed"}, "failed"),
        ({"state": "SUBMISSION_FAILED", "errorMessage": "no such account"}, "failed"),
    ],
)
def test_the_state_of_a_spark_application(said: dict[str, str], state: str) -> None:
    found, words = SPARK_APPLICATION.state({"status": {"applicationState": said}})
    assert found == state
    assert state != "failed" or words == said["errorMessage"]


def test_a_failed_condition_outweighs_a_suspended_one() -> None:
    conditions = [{"type": kind, "status": "True", "reason": "R", "message": "m"} for kind in ("Suspended", "Failed")]
    assert TRAIN_JOB.state({"status": {"conditions": conditions}}) == ("failed", "R: m")


def test_names_fit_kubernetes_and_its_operators() -> None:
    name = object_name("a_very_long_name_of_an_application_for_tests", "train", "0123456789abcdef")
    assert len(name) <= 45  # a JobSet's pod appends -node-0-0-abcde
    assert "_" not in name
