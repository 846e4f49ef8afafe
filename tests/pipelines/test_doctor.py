"""`limaml doctor` against servers that lack one thing after the other."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import kube_config

from limaml.config import parse_application
from pipelines import doctor_cluster, doctor_services
from pipelines.doctor import Check, Outcome, run
from pipelines.doctor_cluster import amount
from pipelines.kubeflow import Access
from pipelines.kubernetes_api import KubernetesApi
from tests.conftest import SMALL
from tests.pipelines.conftest import Command
from tests.pipelines.fake_kubeflow import FakeKubeflow
from tests.pipelines.fake_kubernetes import FakeKubernetes, node

CLUSTER: dict[str, Any] = {
    "service_account": "runner",
    "image_pull_secrets": ["registry"],
    "secrets": [
        {"variable": "MLFLOW_TRACKING_USERNAME", "secret": "mlflow", "key": "user"},
        {"variable": "MLFLOW_TRACKING_PASSWORD", "secret": "mlflow", "key": "password"},
    ],
    "volumes": [{"claim": "models", "path": "/models"}],
    "steps": {
        "train_theta": {
            "gpus": 2,
            "cpu": "4",
            "memory": "16Gi",
            "node_selector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        }
    },
}


@pytest.fixture
def kubernetes(nothing_around: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster that has everything the application below names."""
    fake = FakeKubernetes()
    fake.nodes.append(node("gpu", {"pool": "gpu"}, ("nvidia.com/gpu=present:NoSchedule",), gpu="4"))
    fake.put("secrets", "registry", data={".dockerconfigjson": "e30="})
    fake.put("secrets", "mlflow", data={"user": "dQ==", "password": "cA=="})
    fake.put("serviceaccounts", "runner")
    fake.put("configmaps", "workflow-controller-configmap", "kubeflow", data={"executor": "imagePullPolicy: Always"})
    fake.put("persistentvolumeclaims", "models", status={"phase": "Bound"}, spec={"accessModes": ["ReadWriteMany"]})
    with fake.running(tmp_path) as config:
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        yield fake


@pytest.fixture
def mlflow() -> Iterator[dict[str, Any]]:
    """MLflow's answer to a search for experiments, to be changed."""
    said: dict[str, Any] = {"status": 200, "body": '{"experiments": []}', "authorization": None}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said["authorization"] = self.headers.get("Authorization")
            self.send_response(said["status"])
            self.end_headers()
            self.wfile.write(said["body"].encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    said["uri"] = f"http://127.0.0.1:{server.server_port}"
    yield said
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(
    server: FakeKubeflow,
    kubernetes: FakeKubernetes,
    mlflow: dict[str, Any],
    s3: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limaml: Command,
) -> Any:
    """The doctor about an application; its exit code and rows by check."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def ask(*arguments: str, code: int, store: str = "", **cluster: Any) -> dict[str, dict[str, Any]]:
        said = CLUSTER | {"workspace": f"{s3}/w", "environment": {"MLFLOW_TRACKING_URI": mlflow["uri"]}} | cluster
        file = tmp_path / "small.yaml"
        url = store or f"lmdb://{tmp_path}/store"
        file.write_text(yaml.safe_dump(SMALL | {"cluster": said, "store": {"url": url}}))
        given = [
            "doctor",
            "--app",
            str(file),
            "--host",
            server.host,
            "--namespace",
            "team",
            "--json",
            "--timeout",
            "60",
        ]
        ended, out, _ = limaml(*given, "--timeout", "60", *arguments)
        assert len(out.splitlines()) == 1
        result = json.loads(out)
        assert ended == code, result
        assert result["healthy"] == (code == 0)
        return {row["check"]: row for row in result["checks"]}

    return ask


# As Kubeflow Pipelines 2.17.0 installs it.
STOCK = """
spec:
  ttlStrategy: {secondsAfterCompletion: 3600}
  templateDefaults:
    retryStrategy: {limit: '2', retryPolicy: OnError}
"""


@pytest.mark.parametrize("data", [{"workflowDefaults": STOCK}, {"config": yaml.safe_dump({"workflowDefaults": STOCK})}])
def test_an_argo_that_tries_no_failed_step_again_is_told(kubernetes: FakeKubernetes, ask: Any, data: Any) -> None:
    assert ask(code=0)["retries"]["state"] == "ok"
    kubernetes.put("configmaps", "workflow-controller-configmap", "kubeflow", data=data)
    row = ask(code=0)["retries"]
    assert (row["state"], row["do"]) == (
        "warning",
        "take templateDefaults out of Argo's workflowDefaults: docs/pipelines.md, What is tried again",
    )
    patch = {
        "name": "COMPILED_PIPELINE_SPEC_PATCH",
        "value": '{"templates": [{"retryStrategy": {"retryPolicy": "x"}}]}',
    }
    pod = {"containers": [{"name": "ml-pipeline-api-server", "env": [patch]}]}
    kubernetes.objects["/apis/apps/v1/namespaces/kubeflow/deployments/ml-pipeline"] = {
        "spec": {"template": {"spec": pod}}
    }
    assert ask(code=0)["retries"]["state"] == "ok"
    kubernetes.statuses["configmaps"] = 403
    assert ask(code=0)["retries"]["state"] == "skipped"


def test_where_everything_is_there_nothing_fails_and_nothing_is_left_behind(ask: Any, s3: str) -> None:
    import boto3

    rows = ask(code=0)
    assert {row["state"] for row in rows.values()} <= {"ok", "warning"}
    warned = {name for name, row in rows.items() if row["state"] == "warning"}
    assert warned == {"data", "online store"}  # an installation before its first day
    assert rows["kubeflow pipelines"]["found"].startswith("2.17.0 at http://127.0.0.1")
    assert rows["kubernetes"]["found"].startswith("v1.36.0")
    assert rows["gpu nodes"]["found"] == "train_theta: each fits one of 4 nodes"
    left = boto3.client("s3").list_objects_v2(Bucket=s3.removeprefix("s3://")).get("Contents", [])
    assert [each["Size"] for each in left] in ([], [0])  # Arrow's mark of a folder


@pytest.mark.parametrize(
    ("spoil", "check", "says", "do"),
    [
        (lambda k: k.nodes.pop(), "gpu nodes", "3 without the labels", "add such a node"),
        (lambda k: k.nodes[3]["metadata"].update(labels={}), "gpu nodes", "4 without the labels", "add such"),
        (
            lambda k: k.nodes.__setitem__(3, node("gpu", {"pool": "gpu"}, gpu="1")),
            "gpu nodes",
            "1 without 2 nvidia.com/gpu, 3 without the labels",
            "add such",
        ),
        (
            lambda k: k.nodes[3]["spec"]["taints"].append({"key": "spot", "value": "", "effect": "NoSchedule"}),
            "gpu nodes",
            "1 with the taint spot",
            "add such",
        ),
        (lambda k: k.nodes[3]["spec"].update(unschedulable=True), "gpu nodes", "1 closed for new pods", "add such"),
        (
            lambda k: [each["status"]["allocatable"].update(memory="4000Mi") for each in k.nodes],
            "nodes",
            "4 with too little memory",
            "add such",
        ),
        (lambda k: k.objects.pop("/apis/argoproj.io"), "crd Workflow", "no Workflow of argoproj.io", "install"),
        (lambda k: k.objects.pop("/api/v1/namespaces/team/secrets/mlflow"), "secret mlflow", "no secret mlflow", ""),
        (
            lambda k: k.put("secrets", "mlflow", data={"user": "dQ=="}),
            "secret mlflow",
            "has no key password",
            "add it to the secret in team",
        ),
        (
            lambda k: k.objects.pop("/api/v1/namespaces/team/serviceaccounts/runner"),
            "service account",
            "no service account runner in namespace team",
            "create serviceaccount",
        ),
        (
            lambda k: k.objects.pop("/api/v1/namespaces/team/persistentvolumeclaims/models"),
            "volume models",
            "no volume claim models",
            "create it",
        ),
    ],
)  # fmt: skip
def test_what_the_cluster_lacks_is_named_with_what_to_do(
    kubernetes: FakeKubernetes, spoil: Any, check: str, says: str, do: str
) -> None:
    spoil(kubernetes)
    application = parse_application(SMALL | {"cluster": CLUSTER}, "tests")
    rows = run(doctor_cluster.checks(KubernetesApi, application, "team"), 60)
    assert {row["check"] for row in rows if row["state"] == "failed"} <= {check, "gpu nodes"}
    row = next(row for row in rows if row["check"] == check)
    assert row["state"] == "failed"
    assert says in row["found"]
    assert do in row["do"]


def test_trainjobs_and_spark_need_more(kubernetes: FakeKubernetes) -> None:
    kubernetes.objects.pop("/apis/sparkoperator.k8s.io")
    cluster = CLUSTER | {"train_on": "trainjob"}
    application = parse_application(SMALL | {"cluster": cluster, "grouping": {"engine": "spark"}}, "tests")

    def failed() -> set[str]:
        rows = run(doctor_cluster.checks(KubernetesApi, application, "team"), 60)
        return {row["check"] for row in rows if row["state"] == "failed"}

    assert failed() == {"training runtime", "spark's service account", "crd SparkApplication"}
    kubernetes.put("serviceaccounts", "spark")
    kubernetes.objects["/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/torch-distributed"] = {}
    assert failed() == {"crd SparkApplication"}


def test_secrets_are_named_never_shown(ask: Any) -> None:
    assert "dQ==" not in json.dumps(ask(code=0))


def test_what_is_only_for_other_choices_is_skipped(ask: Any, kubernetes: FakeKubernetes) -> None:
    for group in ("serving.kserve.io", "trainer.kubeflow.org", "sparkoperator.k8s.io", "monitoring.coreos.com"):
        kubernetes.objects.pop(f"/apis/{group}")
    rows = ask(code=0, steps={})
    assert {rows[f"crd {kind}"]["state"] for kind in ("InferenceService", "TrainJob", "SparkApplication")} == {
        "skipped"
    }
    assert rows["gpu nodes"]["state"] == "skipped"


def test_where_one_may_not_look_is_a_warning(ask: Any, kubernetes: FakeKubernetes) -> None:
    kubernetes.statuses = {"/nodes": 403, "/secrets/": 403}
    rows = ask(code=0)
    assert {rows[name]["state"] for name in ("nodes", "gpu nodes", "secret mlflow")} == {"warning"}
    assert "give this account the right" in rows["nodes"]["do"]


def test_an_optional_key_and_a_pending_claim_are_warnings(ask: Any, kubernetes: FakeKubernetes) -> None:
    kubernetes.put("persistentvolumeclaims", "models", status={"phase": "Pending"})
    secrets = [{"variable": "X", "secret": "mlflow", "key": "x", "optional": True}]
    rows = ask(code=0, secrets=secrets)
    assert rows["volume models"]["state"] == rows["secret mlflow"]["state"] == "warning"


def test_no_kubernetes_is_one_failure_and_the_rest_is_skipped(
    ask: Any, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    rows = ask(code=8)
    assert rows["kubernetes"]["state"] == "failed"
    assert "set KUBECONFIG" in rows["kubernetes"]["do"]
    assert {row["state"] for name, row in rows.items() if name.startswith(("crd", "secret", "volume", "nodes"))} == {
        "skipped"
    }


@pytest.mark.parametrize(
    ("version", "state", "says"),
    [("2.15.2", "failed", "2.16 or newer is needed"), ("dev", "warning", "does not know its version")],
)
def test_kubeflows_version_is_judged(ask: Any, server: FakeKubeflow, version: str, state: str, says: str) -> None:
    server.version = version
    row = ask(code=8 if state == "failed" else 0)["kubeflow pipelines"]
    assert row["state"] == state
    assert says in row["found"]


def test_without_an_endpoint_kubeflow_fails_and_the_rest_is_asked(ask: Any) -> None:
    rows = ask("--host", "", code=8)
    assert "KF_PIPELINES_ENDPOINT" in rows["kubeflow pipelines"]["found"] + rows["kubeflow pipelines"]["do"]
    assert rows["kubernetes"]["state"] == "ok"


@pytest.mark.parametrize(
    ("status", "body", "says", "do"),
    [
        (403, "Invalid Host header - possible DNS rebinding attack detected", "refuses the name", "--allowed-hosts"),
        (401, "You are not authenticated", "does not let us in (401)", "MLFLOW_TRACKING_USERNAME"),
        (200, "<html>Airflow</html>", "does not answer as MLflow does", "MLFLOW_TRACKING_URI"),
        (500, "{}", "does not answer as MLflow does (500)", "MLFLOW_TRACKING_URI"),
    ],
)
def test_mlflow_that_refuses(
    mlflow: dict, monkeypatch: pytest.MonkeyPatch, status: int, body: str, says: str, do: str
) -> None:
    mlflow.update(status=status, body=body)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow["uri"])
    asked = doctor_services.checks(Access(), parse_application(SMALL, "tests"), "s3://b/w", "")
    (row,) = run([check for check in asked if check.name == "mlflow"], 60)
    assert row["state"] == "failed"
    assert says in row["found"]
    assert do in row["do"]


def test_mlflow_is_asked_as_the_user_and_must_be_named_for_a_bucket(
    ask: Any, mlflow: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p")
    ask(code=0)
    assert mlflow["authorization"] == "Basic dTpw"
    assert "MLFLOW_TRACKING_URI must be set" in ask(code=8, environment={})["mlflow"]["found"]


def test_a_bucket_that_is_not_there_and_no_workspace(ask: Any) -> None:
    row = ask(code=8, workspace="s3://no-such-bucket-anywhere/w")["workspace"]
    assert row["state"] == "failed"
    assert "no-such-bucket-anywhere" in row["found"]
    rows = ask(code=8, workspace="")
    assert "set cluster.workspace" in rows["workspace"]["do"]
    assert rows["data"]["state"] == "skipped"


def test_what_only_pods_reach_is_skipped_outside_of_them(
    ask: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = ask(code=0, workspace="file:///mnt/no-such-volume/w", store="redis://redis.team.svc:6379/0")
    assert {rows[name]["state"] for name in ("workspace", "data", "online store")} == {"skipped"}
    monkeypatch.setattr(doctor_services, "POD_ACCOUNT", tmp_path)
    rows = ask(code=8, store="redis://redis.team.svc:6379/0")
    assert rows["online store"]["state"] == "failed"


def test_a_store_nobody_serves_fails_with_its_reason(ask: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    row = ask(code=8, store=f"redis://127.0.0.1:{port}/0")["online store"]
    assert row["state"] == "failed"
    assert str(port) in row["found"]


def test_a_cluster_that_hangs_fails_its_checks_in_time(ask: Any, kubernetes: FakeKubernetes) -> None:
    kubernetes.seconds = 30
    start = time.monotonic()
    rows = ask("--timeout", "2", code=8)
    assert time.monotonic() - start < 20
    assert "no answer within 2 s" in rows["kubernetes"]["found"]
    assert rows["kubeflow pipelines"]["state"] == "ok"


def test_the_doctor_survives_a_check_that_breaks() -> None:
    def broken() -> Outcome:
        raise ZeroDivisionError("1/0")

    rows = run([Check("a", broken), Check("b", lambda: Outcome("ok", "fine"))], 5)
    assert [row["state"] for row in rows] == ["failed", "ok"]
    assert "ZeroDivisionError" in rows[0]["found"]


def test_without_an_application_the_cluster_alone_is_looked_at(
    server: FakeKubeflow, kubernetes: FakeKubernetes, limaml: Command
) -> None:
    code, out, _ = limaml("doctor", "--host", server.host)
    assert code == 0
    assert out.startswith("ok       kubeflow pipelines    2.17.0")
    assert all(line.startswith("ok") for line in out.splitlines())


def test_a_long_name_keeps_its_column(
    server: FakeKubeflow, kubernetes: FakeKubernetes, limaml: Command, tmp_path: Path
) -> None:
    volumes = [{"claim": "the-models-of-all-our-applications", "path": "/models"}]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL | {"cluster": {"volumes": volumes}}))
    _, out, _ = limaml("doctor", "--app", str(tmp_path / "small.yaml"), "--host", server.host, "--namespace", "team")
    (line,) = [line for line in out.splitlines() if "volume the-models" in line]
    assert "volume the-models-of-all-our-applications there is no volume claim" in line
    (said,) = [line for line in out.splitlines() if "create the claim" in line or "create it" in line]
    assert said.index("→") == line.index("there is no volume claim")


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", 0.5), ("4", 4), ("1Gi", 2**30), ("16393244Ki", 16393244 * 1024), ("1.5", 1.5), ("2G", 2e9)],
)
def test_quantities(text: str, number: float) -> None:
    assert amount(text) == number
