"""`limaml submit` and `limaml pipelines` against a Kubeflow Pipelines server, as people and machines call them."""

import json
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import kube_config

from limaml import storage
from limaml.config import Application, load_application, parse_application
from limaml.errors import ConfigError, KubeflowError
from limaml.workspace import Workspace
from pipelines import submit, uploads
from pipelines.compile import KINDS, compile_pipeline
from pipelines.kubeflow import Access, connect
from tests.conftest import SMALL
from tests.pipelines.conftest import Command
from tests.pipelines.fake_kubeflow import FakeKubeflow
from tests.pipelines.fake_kubernetes import FakeKubernetes

WORKSPACE = "s3://bucket/limaml"


@pytest.fixture
def deployed(application: Application) -> Application:
    """An application that says where it works."""
    return parse_application(SMALL | {"cluster": {"workspace": WORKSPACE, "service_account": "runner"}}, "tests")


def _state(server: FakeKubeflow, state: str, **fields: Any) -> None:
    (run,) = server.items("runs")
    run.update(state=state, **fields)


def _tasks(**steps: str) -> dict[str, Any]:
    """The nodes of Argo's workflow as Kubeflow 2.17 lists them: steps, what lies around them, no word of a reason."""
    groups = dict.fromkeys(("limaml-refresh-gbnqq", "root", "exit-handler-1", "exit-handler-1.onExit"), "RUNNING")
    nodes = groups | {"root-driver": "SUCCEEDED", "validate-data-driver": "SUCCEEDED"}
    for step, state in steps.items():
        nodes |= {step.replace("_", "-"): state, "executor": state}
    nodes |= {f"{name}(0)": state for name, state in nodes.items()} | {"monitor": ""}
    details = [
        {"task_id": str(number), "display_name": name, "child_tasks": [{"pod_name": f"limaml-refresh-gbnqq-{number}"}]}
        | ({"state": state} if state else {})
        for number, (name, state) in enumerate(nodes.items())
    ]
    return {"run_details": {"task_details": details}}


def test_a_run_is_started_from_an_uploaded_version_in_the_applications_experiment(
    server: FakeKubeflow, deployed: Application
) -> None:
    kubeflow = connect(Access(server.host))
    result = submit.submit(kubeflow, deployed, "refresh", {}, date(2026, 1, 31))
    (run,), (version,), (pipeline,) = server.items("runs"), server.items("versions"), server.items("pipelines")
    assert pipeline["display_name"] == "small-refresh"
    assert version["name"] == result["version"]
    assert server.uploaded[version["pipeline_version_id"]] == compile_pipeline("refresh", deployed)
    assert [each["display_name"] for each in server.items("experiments")] == ["small"]
    assert run["runtime_config"]["parameters"] == {"run_date": "2026-01-31"}
    assert run["service_account"] == "runner"
    assert run["display_name"] == "small-refresh 2026-01-31"
    assert result["link"] == f"{server.host}/#/runs/details/{run['run_id']}"
    again = submit.submit(kubeflow, deployed, "refresh", {"workspace": "s3://other/place"})
    assert result["uploaded"]
    assert not again["uploaded"]
    assert [len(server.items(kind)) for kind in ("pipelines", "versions", "experiments", "runs")] == [1, 1, 1, 2]
    # A listing carries the whole text of every version.
    assert all(version["name"] in each.query["filter"] for each in server.asked("GET", "/versions$"))


def test_another_text_is_another_version_of_the_same_pipeline(server: FakeKubeflow, deployed: Application) -> None:
    kubeflow = connect(Access(server.host))
    first = uploads.upload(kubeflow, uploads.compiled("train", deployed))
    second = uploads.upload(kubeflow, uploads.compiled("train", deployed, image="registry/limaml@sha256:1"))
    assert first.pipeline_id == second.pipeline_id
    assert first.version != second.version


def test_two_that_upload_at_once_end_with_one_version(server: FakeKubeflow, deployed: Application) -> None:
    text = uploads.compiled("refresh", deployed)
    found: list[str] = []
    start = threading.Barrier(4)

    def upload() -> None:
        kubeflow = connect(Access(server.host))
        start.wait()
        found.append(uploads.upload(kubeflow, text).version_id)
        uploads.experiment(kubeflow, deployed)

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == len(server.items("versions")) == len(server.items("experiments")) == 1


def test_an_answer_to_an_upload_that_is_lost_does_no_harm(server: FakeKubeflow, deployed: Application) -> None:
    server.fault("POST", "/pipelines$", cut=True, after=True)
    server.fault("POST", "upload_version", cut=True, after=True)
    uploads.upload(connect(Access(server.host)), uploads.compiled("refresh", deployed))
    assert len(server.items("pipelines")) == len(server.items("versions")) == 1


def test_arguments_are_checked_before_anything_is_uploaded(server: FakeKubeflow, application: Application) -> None:
    kubeflow = connect(Access(server.host))
    with pytest.raises(ConfigError, match=r"no workspace: set cluster\.workspace"):
        submit.submit(kubeflow, application, "refresh", {})
    with pytest.raises(ConfigError, match="takes no 'rundate'; it takes application, data, image"):
        submit.submit(kubeflow, application, "refresh", {"rundate": "x", "workspace": WORKSPACE})
    with pytest.raises(ConfigError, match="needs end, exposures"):
        submit.submit(kubeflow, application, "ab_report", {"workspace": WORKSPACE})
    with pytest.raises(ConfigError, match="no pipeline 'refersh'; there are"):
        submit.submit(kubeflow, application, "refersh", {})
    assert not server.asked("POST", "")


def test_a_run_is_followed_through_lost_connections_to_its_reason(
    server: FakeKubeflow, deployed: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.05)
    kubeflow = connect(Access(server.host))
    run_id = submit.submit(kubeflow, deployed, "refresh", {})["run_id"]

    def live() -> None:
        _state(server, "RUNNING", **_tasks(validate_data="SUCCEEDED", group_tasks="RUNNING", group_tasks_2="RUNNING"))
        time.sleep(0.3)
        server.fault("GET", "/runs/", cut=True, times=2)
        server.fault("GET", "/runs/", status=503, times=2)
        time.sleep(0.3)
        ended = {"validate_data": "SUCCEEDED", "group_tasks_2": "FAILED", "group_tasks_3_driver": "FAILED"}
        _state(server, "FAILED", **_tasks(**ended))

    thread = threading.Thread(target=live)
    thread.start()
    with caplog.at_level("INFO", "pipelines"):
        result = submit.watch(kubeflow, run_id, 1)
    thread.join()
    assert result["state"] == "FAILED"
    assert result["reason"] == "group-tasks-2; group-tasks-3-driver"
    assert result["failed_steps"][0] == {"step": "group-tasks-2", "message": ""}
    assert f"run {run_id}: RUNNING, running: group-tasks, group-tasks-2" in caplog.messages


def test_the_reason_is_read_where_the_closing_step_wrote_it(
    server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, limaml: Command, tmp_path: Path
) -> None:
    """Kubeflow knows which step failed, and nothing of why."""
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.05)
    place = Workspace(f"file://{tmp_path}", "ptap")

    def end(kind: str, item: dict[str, Any]) -> None:
        if kind == "runs":
            item.update(state="FAILED", **_tasks(validate_data="FAILED"))
            for folder, run_id in ((place.run(date(2026, 1, 31), "refresh"), item["run_id"]), (place.runs, "another")):
                text = json.dumps({"run_id": run_id, "reason": f"validate_data: DataError: of {run_id}"})
                storage.write_bytes(storage.join(folder, "state.json"), text.encode())

    server.on_create = end
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)
    given = ["--app", "ptap", "--date", "2026-01-31", "--wait", "--json"]
    code, out, err = limaml("submit", "refresh", *given, "--workspace", f"file://{tmp_path}")
    result = json.loads(out)
    assert (code, result["reason"]) == (8, f"validate_data: DataError: of {result['run_id']}")
    assert result["reason"] in err
    code, out, err = limaml("submit", "refresh", *given, "--workspace", f"file://{tmp_path}/nobody")
    assert (code, json.loads(out)["reason"]) == (8, "validate-data")


def test_what_keeps_pods_from_starting_is_said_while_a_run_stands_still(
    server: FakeKubeflow,
    deployed: Application,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(submit, "STILL_SECONDS", 0.1)
    kubeflow = connect(Access(server.host))
    run_id = submit.submit(kubeflow, deployed, "refresh", {})["run_id"]
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    unplaced = {"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}
    pull = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    unpulled = {"containerStatuses": [{"name": "main", "image": "registry/limaml:1", "state": pull}]}
    fake = FakeKubernetes()
    pods = [{"metadata": {"name": name}, "status": status} for name, status in (("a", unplaced), ("b", unpulled))]
    waits = {"phase": "Pending", "containerStatuses": [{"name": "main", "state": {"waiting": {"reason": "Creating"}}}]}
    pods.append({"metadata": {"name": "c"}, "spec": {"nodeName": "one"}, "status": waits})
    fake.objects["/api/v1/namespaces/kubeflow/pods"] = {"items": pods}
    fake.objects["/api/v1/namespaces/kubeflow/events"] = {"items": [{"message": "MountVolume.SetUp failed"}]}
    with fake.running(tmp_path) as config, caplog.at_level("INFO", "pipelines"):
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        with pytest.raises(KubeflowError, match="still PENDING"):
            submit.watch(kubeflow, run_id, 0.01)
        assert "pod a can't start: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu." in caplog.text
        assert "pod b can't start: ImagePullBackOff: not found (image registry/limaml:1)" in caplog.text
        assert "pod c does not start on node one: MountVolume.SetUp failed" in caplog.text
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
        with pytest.raises(KubeflowError, match="still PENDING"):
            submit.watch(kubeflow, run_id, 0.01)
        assert "`kubectl -n kubeflow get pods`, say why" in caplog.text


def test_a_run_without_end_and_a_connection_that_stays_lost_are_errors_not_hangs(
    server: FakeKubeflow, deployed: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(submit, "LOST_SECONDS", 1.0)
    kubeflow = connect(Access(server.host))
    run_id = submit.submit(kubeflow, deployed, "refresh", {})["run_id"]
    with pytest.raises(KubeflowError, match="still PENDING after 0 minutes"):
        submit.watch(kubeflow, run_id, 0.002)
    with pytest.raises(KubeflowError, match="not found: runs gone not found"):
        submit.watch(kubeflow, "gone", 1)
    server.fault("GET", "/runs/", cut=True, times=0)
    with pytest.raises(KubeflowError, match=f"can't follow run {run_id}: the connection was lost"):
        submit.watch(kubeflow, run_id, 1)


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "CANCELED"])
def test_the_command_prints_one_object_and_ends_as_the_run_ends(
    server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, limaml: Command, state: str
) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.05)
    server.on_create = lambda kind, item: item.update(state=state) if kind == "runs" else None
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)
    given = ["--app", "ptap", "--workspace", WORKSPACE, "--date", "2026-01-31", "--wait", "--json"]
    code, out, err = limaml("submit", "refresh", *given)
    result = json.loads(out)
    assert result["state"] == state
    assert result["arguments"] == {"run_date": "2026-01-31", "workspace": WORKSPACE}
    assert code == (0 if state == "SUCCEEDED" else 8)
    assert state == "SUCCEEDED" or f"ended {state}" in err


def test_pipelines_are_registered_listed_and_removed(server: FakeKubeflow, limaml: Command) -> None:
    given = ["--app", "ptap", "--host", server.host, "--json"]
    for uploaded in (True, False):
        code, out, _ = limaml("pipelines", "register", *given)
        assert code == 0
        pipelines = json.loads(out)["pipelines"]
        assert [each["uploaded"] for each in pipelines] == [uploaded] * len(KINDS)
    listed = json.loads(limaml("pipelines", "list", *given)[1])["pipelines"]
    assert [each["kind"] for each in listed] == list(KINDS)
    assert all(len(each["versions"]) == 1 for each in listed)
    removed = json.loads(limaml("pipelines", "remove", *given)[1])["removed"]
    assert len(removed) == len(KINDS)
    assert not server.items("pipelines")
    assert not server.items("versions")
    assert json.loads(limaml("pipelines", "remove", *given)[1])["removed"] == []


def test_a_command_without_kubeflow_says_so_and_ends_with_8_or_2(server: FakeKubeflow, limaml: Command) -> None:
    server.version = "2.5.0"
    code, out, err = limaml("submit", "train", "--app", "ptap", "--host", server.host, "--json")
    assert (code, out) == (8, "")
    assert "2.16 or newer" in err
    code, _, err = limaml("submit", "train", "--app", "ptap")
    assert code == 2
    assert "where is Kubeflow Pipelines?" in err


def test_teams_get_their_namespace(server: FakeKubeflow, deployed: Application) -> None:
    server.multi_user = True
    kubeflow = connect(Access(server.host, namespace="team-a"))
    submit.submit(kubeflow, deployed, "refresh", {})
    assert {each["namespace"] for kind in ("pipelines", "experiments") for each in server.items(kind)} == {"team-a"}


def test_every_shipped_application_compiles_to_text_kubeflow_reads(application: Application) -> None:
    text = uploads.compiled("refresh", load_application("pclick_user_type"))
    assert text.name == "pclick-user-type-refresh"
    assert next(yaml.safe_load_all(text.text))["pipelineInfo"]["name"] == "limaml-refresh"
