"""The launchers against a real API server, with the rights the chart gives steps; we play the operator.

What is needed of Kubeflow Trainer and the Spark Operator is their custom resources; where they run as well, they act on
these objects too, so do not run these tests beside them.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from components.launch.spark_application import SPARK_APPLICATION, spark_application
from components.launch.train_job import TRAIN_JOB, launch
from components.launch.watch import Launch, Limits
from limaml.config import parse_application
from limaml.errors import KubeflowError, LimamlError
from tests.charts.rendering import objects, scenario
from tests.cluster.conftest import Cluster, until
from tests.conftest import SMALL

pytestmark = pytest.mark.cluster
SOON = Limits(pending=5, grace=5, total=120, lost=30, poll=0.5)
KINDS = {"trainjob": TRAIN_JOB, "spark": SPARK_APPLICATION}


@pytest.fixture
def steps(cluster: Cluster, namespace: str) -> str:
    """A namespace where steps have the chart's rights; skipped where the cluster lacks the custom resources."""
    for kind in KINDS.values():
        probe = {"apiVersion": f"{kind.group}/{kind.version}", "kind": kind.title, "metadata": {"namespace": namespace}}
        if not cluster.path(probe):
            pytest.skip(f"this cluster knows no {kind.resource}")
    for each in objects(scenario("everything"), "runs/"):
        for subject in each.get("subjects", ()):
            subject["namespace"] = namespace
        cluster.create(each | {"metadata": each["metadata"] | {"namespace": namespace}})
    return namespace


def job(cluster: Cluster, namespace: str, what: str, limits: Limits = SOON) -> Launch:
    """What a step launches, as the steps' account."""
    application = parse_application(
        SMALL | {"cluster": {"service_account": "limaml-runs", "spark": {"image": "limaml:1"}}}, "tests"
    )
    api = cluster.as_account(namespace, "limaml-runs")
    if what == "trainjob":
        return launch(api, application, "0123456789abcdef", ["--date", "2026-02-01"], limits)
    body = spark_application(application, "0123456789abcdef", "limaml:1", ["--date", "2026-02-01"])
    return Launch(api, SPARK_APPLICATION, body, limits)


class Operator:
    """What the operator would do to the launched object."""

    def __init__(self, cluster: Cluster, namespace: str, launched: Launch) -> None:
        self.cluster, self.namespace, self.launched = cluster, namespace, launched
        self.path = launched.kind.path(namespace, launched.name)

    def found(self) -> Any:
        try:
            return self.cluster.call("GET", self.path)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def says(self, state: str, words: str = "") -> None:
        """Write the status as the operator of this kind does; the server holds it against the kind's schema."""
        if self.launched.kind is TRAIN_JOB:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            said = {"type": state, "status": "True", "reason": "Jobs", "message": words, "lastTransitionTime": now}
            status: dict[str, Any] = {"conditions": [said]}
        else:
            of_spark = {"Complete": "COMPLETED", "Failed": "FAILED"}[state]
            status = {
                "applicationState": {"state": of_spark, "errorMessage": words},
                "driverInfo": {},
                "lastSubmissionAttemptTime": None,
                "terminationTime": None,
            }
        self.cluster.call("PATCH", f"{self.path}/status", {"status": status}, "application/merge-patch+json")

    def pod(self, name: str, **spec: Any) -> None:
        """A pod of the object."""
        body = {
            "metadata": {
                "name": f"{self.launched.name}-{name}",
                "labels": {self.launched.kind.pods: self.launched.name, "spark-role": "driver"},
            },
            "spec": RESTRICTED_POD | spec,
        }
        self.cluster.core.create_namespaced_pod(self.namespace, body)


RESTRICTED_POD: dict[str, Any] = {
    "restartPolicy": "Never",
    "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
}
RESTRICTED_CONTAINER: dict[str, Any] = {
    "name": "node",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}


@contextmanager
def running(launched: Launch) -> Iterator[list[LimamlError | None]]:
    """The launch in a thread; how it ended, once it has."""
    ended: list[LimamlError | None] = []

    def run() -> None:
        try:
            launched.run()
            ended.append(None)
        except LimamlError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield ended
    thread.join(120)
    assert ended, "it does not end"


def outcome(
    cluster: Cluster, namespace: str, launched: Launch, act: Callable[[Operator], None]
) -> tuple[Operator, str]:
    """Launch, act once the object is there; the error it ended with."""
    operator = Operator(cluster, namespace, launched)
    with running(launched) as ended:
        until("the object", lambda: ended or operator.found(), 30)
        assert not ended, ended
        act(operator)
    assert ended[0] is None or isinstance(ended[0], KubeflowError), ended[0]
    return operator, str(ended[0] or "")


@pytest.mark.parametrize("what", KINDS)
def test_what_succeeds_stays(cluster: Cluster, steps: str, what: str) -> None:
    operator, error = outcome(cluster, steps, job(cluster, steps, what), lambda operator: operator.says("Complete"))
    assert error == ""
    assert operator.found()["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "limaml"


@pytest.mark.parametrize("what", KINDS)
def test_what_fails_says_why_and_goes(cluster: Cluster, steps: str, what: str) -> None:
    launched = job(cluster, steps, what)
    operator, error = outcome(cluster, steps, launched, lambda operator: operator.says("Failed", "out of luck"))
    assert "out of luck" in error
    until("its deletion", lambda: operator.found() is None, 30)


@pytest.mark.parametrize("what", KINDS)
def test_deleted_by_somebody(cluster: Cluster, steps: str, what: str) -> None:
    launched = job(cluster, steps, what)
    _, error = outcome(cluster, steps, launched, lambda operator: cluster.call("DELETE", operator.path))
    assert "somebody deleted it while it ran" in error


def test_a_retry_replaces_what_ended(cluster: Cluster, steps: str) -> None:
    first, _ = outcome(cluster, steps, job(cluster, steps, "trainjob"), lambda operator: operator.says("Complete"))
    before = first.found()["metadata"]["uid"]
    again = job(cluster, steps, "trainjob")
    operator = Operator(cluster, steps, again)
    with running(again) as ended:
        until(
            "a new object",
            lambda: ended or (operator.found() or first.found() or {}).get("metadata", {}).get("uid", before) != before,
            30,
        )
        operator.says("Complete")
    assert ended == [None]


def test_a_second_attempt_joins(cluster: Cluster, steps: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "components")
    first, second = job(cluster, steps, "trainjob"), job(cluster, steps, "trainjob")
    operator = Operator(cluster, steps, first)
    with running(first) as one:
        until("the object", operator.found, 30)
        with running(second) as two:
            until("the second to join", lambda: "is there already; joined" in caplog.text, 30)
            operator.says("Complete")
    assert one == two == [None]


@pytest.mark.parametrize("what", KINDS)
def test_a_gpu_that_no_node_has_is_said_by_the_scheduler(cluster: Cluster, steps: str, what: str) -> None:
    greedy = RESTRICTED_CONTAINER | {"image": "limaml:1", "resources": {"limits": {"nvidia.com/gpu": "64"}}}
    began = time.monotonic()
    operator, error = outcome(
        cluster, steps, job(cluster, steps, what), lambda operator: operator.pod("node-0", containers=[greedy])
    )
    assert "no node takes pod" in error
    assert "are available" in error
    assert time.monotonic() - began < 60
    until("its deletion", lambda: operator.found() is None, 30)


@pytest.mark.usefixtures("nodes")
def test_an_image_that_is_nowhere_is_said_by_the_kubelet(cluster: Cluster, steps: str) -> None:
    container = RESTRICTED_CONTAINER | {"image": "registry.invalid/limaml:none"}
    _, error = outcome(
        cluster, steps, job(cluster, steps, "trainjob"), lambda operator: operator.pod("node-0", containers=[container])
    )
    assert "can't start" in error
    assert "registry.invalid/limaml:none" in error


@pytest.mark.usefixtures("nodes")
def test_a_volume_that_can_not_be_mounted_is_said_by_events(cluster: Cluster, steps: str, image: str) -> None:
    container = RESTRICTED_CONTAINER | {"image": image, "volumeMounts": [{"name": "files", "mountPath": "/files"}]}
    volumes = [{"name": "files", "configMap": {"name": "nowhere"}}]

    def act(operator: Operator) -> None:
        operator.pod("node-0", containers=[container], volumes=volumes)

    _, error = outcome(cluster, steps, job(cluster, steps, "trainjob"), act)
    assert "does not start on node" in error
    assert 'configmap "nowhere" not found' in error


@pytest.mark.usefixtures("nodes")
def test_a_pods_log_and_last_words_are_passed_on(
    cluster: Cluster, steps: str, image: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "components")
    script = "for n in 1 2 3 4; do echo line $n; sleep 1; done; echo 'ERROR KubeflowError: worn out'; exit 8"
    container = RESTRICTED_CONTAINER | {
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }

    def act(operator: Operator) -> None:
        operator.pod("node-0", containers=[container])
        path = f"/api/v1/namespaces/{steps}/pods/{operator.launched.name}-node-0"
        until("the pod's end", lambda: cluster.call("GET", path)["status"].get("phase") == "Failed", 120)
        time.sleep(2)
        operator.says("Failed", "jobset failed")

    _, error = outcome(cluster, steps, job(cluster, steps, "trainjob"), act)
    assert "worn out" in error
    said = [each.getMessage() for each in caplog.records if "line " in each.getMessage()]
    assert said == [f"line {number}" for number in (1, 2, 3, 4)]


def test_without_the_right_it_says_which(cluster: Cluster, steps: str) -> None:
    launched = job(cluster, steps, "trainjob")
    launched.api = cluster.as_account(steps, "default")
    with pytest.raises(
        KubeflowError, match=r"cannot get resource .*trainjobs.*give the step's service account this right"
    ):
        launched.run()
