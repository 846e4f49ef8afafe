"""What a user does: install, test, train, score, upgrade, roll back, uninstall, on nodes that run the pods.

Kubeflow Pipelines is the tests' own server of its API, in a pod of the cluster. The tests of this file are one story.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Config, HelmReleaseError
from kubernetes.client.exceptions import ApiException

import tests.pipelines.fake_kubeflow
from charts.generate import CHART
from tests.charts.rendering import scenario
from tests.cluster.conftest import Cluster, new_namespace, until
from tests.conftest import SHORT

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("nodes"), pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
LIMAML = Path(sys.executable).parent / "limaml"
MINUTES = 60
REQUEST = {
    "task": {"member_id": 42},
    "features": {"hour_of_day": 18, "notification_type": "digest", **{f"item_x{n}": 0 for n in range(12)}},
    "candidates": [{"item_id": 7, "item_popularity": 0.02}, {"item_id": 9, "item_popularity": 0.31}],
}
SERVE = """
import sys, threading
sys.path.insert(0, "/etc/kubeflow")
from fake_kubeflow import FakeKubeflow
with FakeKubeflow().running(("0.0.0.0", 8888)):
    threading.Event().wait()
"""


class Story:
    """A release named limaml in a namespace of its own."""

    def __init__(self, cluster: Cluster, namespace: str, image: str) -> None:
        self.cluster, self.namespace, self.image = cluster, namespace, image
        self.helm = Config(kubeconfig_path=cluster.kubeconfig, namespace=namespace)
        self.root = f"/api/v1/namespaces/{namespace}"

    def values(self, cron: str = "0 30 2 * * *", replicas: int = 1) -> dict[str, Any]:
        """The trial's values with a smaller model and less data, and where things are on this cluster."""
        repository, _, tag = self.image.rpartition(":")
        values = scenario("trial")
        values["image"] = {"repository": repository, "tag": tag}
        values["applications"]["ptap"]["config"] |= SHORT | {"schedule": {"refresh": {"cron": cron}}}
        # A second one, so that there are several of everything.
        values["applications"]["pclick_user"] = {"config": {"extends": "pclick_user"}}
        values["trial"]["data"] |= {"members": 300, "daysBefore": 8, "daysAfter": 2}
        if redis := os.environ.get("LIMAML_TEST_REDIS_IMAGE"):
            values["trial"]["redis"]["image"] = redis
        values["kubeflow"] = {"endpoint": f"http://ml-pipeline.{self.namespace}.svc:8888"}
        values["scorer"] = {"replicas": replicas}
        return values

    def through(self, service: str, path: str, body: Any = None) -> Any:
        """A request to a Service, by way of the API server."""
        return self.cluster.call("POST" if body else "GET", f"{self.root}/services/{service}/proxy{path}", body)

    def kubeflow(self, kind: str) -> list[dict[str, Any]]:
        """Everything of a kind that Kubeflow Pipelines has."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            path = f"{self.root}/services/ml-pipeline:8888/proxy/apis/v2beta1/{kind.lower()}"
            page = self.cluster.call("GET", path, page_token=token)
            found += page.get(kind, [])
            if not (token := page.get("next_page_token", "")):
                return found

    def enabled(self) -> list[str]:
        """The cron expressions of the schedules that are on."""
        runs = self.kubeflow("recurringRuns")
        return sorted(each["trigger"]["cron_schedule"]["cron"] for each in runs if each["status"] == "ENABLED")

    def pod(self, name: str, command: list[str], image: str = "", token: bool = False, **more: Any) -> None:
        """A pod like those of the chart, with the workspace and the applications' files."""
        security = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        user = {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        mounts = {"temporary": "/tmp", **more.pop("mounts", {})}
        container = {
            "name": "main",
            "image": image or self.image,
            "command": command,
            "securityContext": security,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in mounts.items()],
        }
        spec = {
            "automountServiceAccountToken": token,
            "restartPolicy": "Never",
            "securityContext": user,
            "containers": [container | more.pop("container", {})],
            "volumes": [{"name": "temporary", "emptyDir": {}}, *more.pop("volumes", [])],
        }
        self.cluster.core.create_namespaced_pod(self.namespace, {"metadata": {"name": name, **more}, "spec": spec})

    def application(self) -> dict[str, Any]:
        """The application's file as the chart made it."""
        found = self.cluster.call("GET", f"{self.root}/configmaps/limaml-applications")
        return yaml.safe_load(found["data"]["ptap.yaml"])

    def ended(self, name: str, seconds: float) -> tuple[str, str]:
        """A pod's phase once it has ended, and its log."""
        path = f"{self.root}/pods/{name}"
        phase = until(
            f"the end of {name}",
            lambda: (found := self.cluster.call("GET", path)["status"]["phase"]) in ("Succeeded", "Failed") and found,
            seconds,
        )
        return phase, self.cluster.text("GET", f"{path}/log")

    def ready(self) -> int:
        """Scorers that are ready, once the Deployment has what it asks for."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/limaml-scorer-ptap"

        def settled() -> int:
            found = self.cluster.call("GET", path)
            status = found["status"]
            whole = status.get("replicas") == status.get("updatedReplicas") == status.get("readyReplicas")
            return status["readyReplicas"] if whole and status["readyReplicas"] == found["spec"]["replicas"] else 0

        return until("the scorers", settled)

    def left(self) -> set[str]:
        """What the cluster still has of the release, as kind/name."""
        found = set()
        for root in (
            "/api/v1",
            "/apis/apps/v1",
            "/apis/batch/v1",
            "/apis/policy/v1",
            "/apis/networking.k8s.io/v1",
            "/apis/rbac.authorization.k8s.io/v1",
        ):
            for kind in self.cluster.call("GET", root)["resources"]:
                if kind["namespaced"] and "/" not in kind["name"] and "list" in kind["verbs"]:
                    path = f"{root}/namespaces/{self.namespace}/{kind['name']}"
                    items = self.cluster.call("GET", path, labelSelector="app.kubernetes.io/instance=limaml")["items"]
                    found |= {
                        f"{kind['kind']}/{each['metadata']['name']}"
                        for each in items
                        if kind["name"] not in ("events", "endpoints")
                    }
        return found


@pytest.fixture(scope="module")
def story(cluster: Cluster, image: str) -> Iterator[Story]:
    """The namespace with Kubeflow Pipelines' API in it, before the install."""
    with new_namespace(cluster) as namespace:
        story = Story(cluster, namespace, image)
        source = Path(tests.pipelines.fake_kubeflow.__file__).read_text()
        body = {"metadata": {"name": "kubeflow"}, "data": {"fake_kubeflow.py": source}}
        cluster.core.create_namespaced_config_map(namespace, body)
        story.pod(
            "ml-pipeline",
            ["python3", "-c", SERVE],
            labels={"app": "ml-pipeline"},
            mounts={"source": "/etc/kubeflow"},
            volumes=[{"name": "source", "configMap": {"name": "kubeflow"}}],
        )
        service = {"selector": {"app": "ml-pipeline"}, "ports": [{"port": 8888}]}
        cluster.core.create_namespaced_service(namespace, {"metadata": {"name": "ml-pipeline"}, "spec": service})
        until("Kubeflow Pipelines' API", lambda: _answers(story, "ml-pipeline:8888", "/apis/v2beta1/healthz"), 120)
        yield story


def _answers(story: Story, service: str, path: str) -> bool:
    try:
        story.through(service, path)
    except ApiException:
        return False
    return True


def test_install(story: Story) -> None:
    story.helm.install(CHART, "limaml", story.values(), timeout=15 * MINUTES, wait="watcher")
    assert {each["display_name"] for each in story.kubeflow("pipelines")} == {
        f"{application}-{kind}"
        for application in ("ptap", "pclick-user")
        for kind in ("train", "refresh", "monitor", "ab-report", "backfill")
    }
    assert story.enabled() == ["0 30 2 * * *"]
    assert not [each for each in story.left() if each.startswith("Job/")]


def test_helm_test_says_there_is_no_release_yet(story: Story) -> None:
    logs = story.helm.test("limaml", timeout=5 * MINUTES, logs=True)["logs"]
    for application in ("ptap", "pclick_user"):
        assert re.search(rf"{application}: lives at .*no release is loaded yet", logs), logs
    assert "schedule refresh: in sync" in logs


def test_the_doctor_looks_from_outside(story: Story, tmp_path: Path) -> None:
    file = tmp_path / "ptap.yaml"
    file.write_text(yaml.safe_dump(story.application()))
    command = [
        LIMAML,
        "doctor",
        "--app",
        file,
        "--namespace",
        story.namespace,
        "--json",
        "--host",
        "http://127.0.0.1:1",
    ]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "KUBECONFIG": story.cluster.kubeconfig}
    )
    found = {each["check"]: each for each in json.loads(ended.stdout)["checks"]}
    assert ended.returncode == 8
    assert found["kubernetes"]["state"] == "ok"
    assert found["kubernetes"]["found"].startswith("v1.")
    # On any node that has room for a trial.
    assert found["nodes"]["state"] == "ok", found["nodes"]
    assert found["secret limaml-redis"]["state"] == found["secret limaml-mlflow"]["state"] == "ok"
    assert found["volume limaml-workspace"]["found"].startswith("bound")
    assert (
        found["kubeflow pipelines"]["do"]
        == "check --host and that it runs (`kubectl -n kubeflow get pods`), or port-forward again"
    )


def test_the_doctors_pod_of_the_docs_finds_everything(story: Story) -> None:
    (text,) = re.findall(r"```yaml\n(apiVersion.*?)```", (ROOT / "docs/doctor.md").read_text(), re.DOTALL)
    body = yaml.safe_load(text.replace("ml-pipeline.kubeflow.svc", f"ml-pipeline.{story.namespace}.svc"))
    container = body["spec"]["containers"][0]
    container["image"] = story.image
    container["command"][-1] += " --json"
    story.cluster.core.create_namespaced_pod(story.namespace, body)
    _, log = story.ended("doctor", 120)
    said = json.loads(next(line for line in log.splitlines() if line.startswith("{")))
    found = {each["check"]: each for each in said["checks"]}
    assert said["asked_from"] == "a pod"
    for check in ("kubeflow pipelines", "workspace", "data", "online store", "mlflow", "kubernetes"):
        # There is data and no release yet.
        assert found[check]["state"] in ("ok", "warning"), found[check]
    # The default account may not look at these.
    for check in ("nodes", "secret limaml-redis", "volume limaml-workspace"):
        assert "cannot" in found[check]["found"], found[check]


def test_a_training_and_a_score(story: Story) -> None:
    mounts = {"applications": "/etc/limaml/applications", "workspace": "/var/lib/limaml"}
    volumes = [
        {"name": "applications", "configMap": {"name": "limaml-applications"}},
        {"name": "workspace", "persistentVolumeClaim": {"claimName": "limaml-workspace"}},
    ]
    root = "file:///var/lib/limaml"
    places = [f"--workspace={root}", f"--data={root}/ptap/data"]
    command = ["limaml", "run", "train", "--app", "/etc/limaml/applications/ptap.yaml", *places, "--json"]
    # As the steps' pods have them from the application's `cluster` section.
    login = [
        {"name": each["variable"], "valueFrom": {"secretKeyRef": {"name": each["secret"], "key": each["key"]}}}
        for each in story.application()["cluster"]["secrets"]
    ]
    plain = [{"name": key, "value": value} for key, value in story.application()["cluster"]["environment"].items()]
    story.pod("training", command, mounts=mounts, volumes=volumes, container={"env": plain + login})
    phase, log = story.ended("training", 15 * MINUTES)
    assert phase == "Succeeded", log
    scored = until("an answer of the release", lambda: _score(story), 120)
    assert len(scored["candidates"]) == 2, scored
    assert "serves model" in story.helm.test("limaml", timeout=5 * MINUTES, logs=True)["logs"]


@contextmanager
def asked(story: Story) -> Iterator[list[str]]:
    """Requests one after another while the block runs, and what became of each."""
    answers: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.2):
            try:
                answers.append("answered" if _score(story) else "503")
            except ApiException as error:
                answers.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def _score(story: Story) -> Any:
    """The answer to a request; None while there is no release."""
    try:
        return story.through("limaml-scorer-ptap:80", "/v1/score", REQUEST)
    except ApiException as error:
        if error.status == 503:
            return None
        raise


def test_an_upgrade_serves_all_the_while(story: Story) -> None:
    before = {each.metadata.name for each in story.cluster.core.list_namespaced_pod(story.namespace).items}
    with asked(story) as answers:
        values = story.values(cron="0 0 4 * * *", replicas=2)
        story.helm.upgrade(CHART, "limaml", values, timeout=15 * MINUTES, wait="watcher")
    assert story.enabled() == ["0 0 4 * * *"]
    after = {each.metadata.name for each in story.cluster.core.list_namespaced_pod(story.namespace).items}
    # The store and the registry go on: their passwords are those of the first install.
    assert {name for name in before if "redis" in name or "mlflow" in name} <= after
    assert story.ready() == 2
    assert len(answers) > 5
    assert set(answers) == {"answered"}


def test_an_upgrade_that_kubeflow_does_not_take_fails_and_says_why(story: Story) -> None:
    values = story.values(cron="0 0 5 * * *")
    values["kubeflow"] |= {"endpoint": "http://nowhere.invalid:8888", "retries": 0}
    with pytest.raises(HelmReleaseError):
        story.helm.upgrade(CHART, "limaml", values, timeout=15 * MINUTES)
    pods = story.cluster.core.list_namespaced_pod(story.namespace, label_selector="job-name=limaml-apply").items
    assert "there is no such host" in story.cluster.text("GET", f"{story.root}/pods/{pods[0].metadata.name}/log")
    assert story.enabled() == ["0 0 4 * * *"]


def test_a_rollback_brings_the_schedules_back(story: Story) -> None:
    story.helm.rollback("limaml", version=1, timeout=15 * MINUTES, wait="watcher")
    assert story.enabled() == ["0 30 2 * * *"]
    assert story.ready() == 1
    assert _score(story)
    assert "schedule refresh: in sync" in story.helm.test("limaml", timeout=5 * MINUTES, logs=True)["logs"]


def test_an_uninstall_leaves_the_data_alone(story: Story) -> None:
    story.helm.uninstall("limaml", timeout=15 * MINUTES, wait="watcher")
    assert story.kubeflow("pipelines") == []
    assert story.kubeflow("recurringRuns") == []
    until("what is left to be the data", lambda: story.left() == {"PersistentVolumeClaim/limaml-workspace"}, 120)
