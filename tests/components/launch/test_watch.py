"""A launched object from its making to its end, against an API server over HTTP."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.launch.job import MANAGER
from components.launch.train_job import launch
from components.launch.watch import Launch, Limits
from limaml.config import Application
from limaml.errors import ConfigError, DataError, KubeflowError
from tests.components.launch.cluster import NAMESPACE, Cluster, api, pod, running

SOON = Limits(pending=0.3, grace=0.3, total=10.0, lost=1.0, poll=0.02)
JOB = "small-train-0123456789"
PATH = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs/{JOB}"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    with running(cluster) as where:
        yield where


@pytest.fixture
def job(url: str, application: Application) -> Launch:
    return launch(api(url), application, "0123456789abcdef", ["--date", "2026-02-01"], SOON)


def ends(body: dict[str, Any], kind: str, message: str = "") -> None:
    body["status"] = {"conditions": [{"type": kind, "status": "True", "reason": "Jobs", "message": message}]}


def after(looks: int, what: Any) -> Any:
    """An operator that does something at the n-th look."""
    return lambda cluster, body: what(cluster, body) if cluster.looks >= looks else None


def failure(job: Launch) -> str:
    with pytest.raises(KubeflowError) as caught:
        job.run()
    return str(caught.value)


def test_a_job_that_succeeds_stays_for_people_to_look_at(cluster: Cluster, job: Launch) -> None:
    cluster.pods = [pod("node-0-0-x", JOB)]
    cluster.act = after(3, lambda _, body: ends(body, "Complete"))
    job.run()
    (made,) = cluster.made()
    assert made["metadata"]["name"] == JOB
    assert not cluster.deleted()


def test_its_logs_are_passed_on_once_each(cluster: Cluster, job: Launch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "components")
    cluster.pods = [pod(f"node-0-{number}-x", JOB) for number in range(2)]
    first, second = (f"{JOB}-node-0-{number}-x" for number in range(2))
    cluster.logs = {first: ["2026-02-01T00:00:00.5Z epoch 1"], second: ["2026-02-01T00:00:00Z a warning"]}

    def act(cluster: Cluster, body: dict[str, Any]) -> None:
        lines = cluster.logs[first]
        if len(lines) < 4:
            lines.append(f"2026-02-01T00:00:00.50000000{len(lines)}Z epoch {len(lines) + 1}")
            cluster.breaks = ["", "", "half"]
        else:
            ends(body, "Complete")

    cluster.act = act
    job.run()
    said = [
        each.getMessage() for each in caplog.records if "epoch" in each.getMessage() or "a warning" in each.getMessage()
    ]
    assert sorted(said) == [
        "[node-0-0-x] epoch 1",
        *(f"[node-0-0-x] epoch {n}" for n in (2, 3, 4)),
        "[node-0-1-x] a warning",
    ]
    assert [line for line in said if "epoch" in line] == sorted(line for line in said if "epoch" in line)


def test_the_error_of_its_code_is_the_steps_error(cluster: Cluster, job: Launch) -> None:
    end = {"exitCode": 3, "reason": "Error", "message": "ERROR DataError: no rows\n"}
    cluster.pods = [
        pod("node-0-0-x", JOB, "Failed", containerStatuses=[{"name": "node", "state": {"terminated": end}}])
    ]
    cluster.act = after(2, lambda _, body: ends(body, "Failed", "a job failed"))
    with pytest.raises(DataError, match=r"^no rows$"):
        job.run()
    assert cluster.deleted() == [PATH]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            {"containerStatuses": [{"name": "n", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
            "OOMKilled, exit code 137",
        ),
        ({"reason": "Evicted", "message": "The node was low on resource"}, "Evicted: The node was low on resource"),
    ],
)
def test_a_failed_pod_says_how(cluster: Cluster, job: Launch, status: dict[str, Any], reason: str) -> None:
    cluster.pods = [pod("node-0-0-x", JOB, "Failed", **status)]
    cluster.act = after(2, lambda _, body: ends(body, "Failed", "jobset failed"))
    message = failure(job)
    assert f"pod {JOB}-node-0-0-x: {reason}" in message
    assert "jobset failed" in message


def test_a_gpu_that_no_node_has_is_said_in_the_schedulers_words(cluster: Cluster, job: Launch) -> None:
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    cluster.pods = [pod("node-0-0-x", JOB, "Pending", conditions=[condition], containerStatuses=None)]
    started = time.monotonic()
    assert words in failure(job)
    assert 0.3 <= time.monotonic() - started < 5
    assert cluster.deleted() == [PATH]


def test_a_node_that_comes_in_time_is_waited_for(cluster: Cluster, url: str, application: Application) -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}
    cluster.pods = [pod("node-0-0-x", JOB, "Pending", conditions=[condition], containerStatuses=None)]

    def act(cluster: Cluster, body: dict[str, Any]) -> None:
        if cluster.looks > 5:
            cluster.pods = [pod("node-0-0-x", JOB)]
        if cluster.looks > 10:
            ends(body, "Complete")

    cluster.act = act
    patient = Limits(pending=60, grace=60, total=60, lost=10, poll=0.02)
    launch(api(url), application, "0123456789abcdef", [], patient).run()


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"]
)
def test_an_image_that_is_not_there_ends_it_after_a_moment(cluster: Cluster, job: Launch, reason: str) -> None:
    state = {"waiting": {"reason": reason, "message": "not found"}}
    cluster.pods = [
        pod("node-0-0-x", JOB, "Pending", containerStatuses=[{"name": "node", "image": "no:1", "state": state}])
    ]
    assert f"{reason}: not found (image no:1)" in failure(job)
    assert cluster.deleted() == [PATH]


def test_no_pods_at_all_name_the_operator_and_the_events(cluster: Cluster, job: Launch) -> None:
    cluster.events = [{"message": "exceeded quota: gpus"}]
    message = failure(job)
    assert "is Kubeflow Trainer 2 running? exceeded quota: gpus" in message


def test_a_pod_that_never_starts_is_said_with_its_events(cluster: Cluster, job: Launch) -> None:
    """A volume that can't be mounted: the pod has a node, its container waits, and only events say why."""
    words = 'MountVolume.SetUp failed for volume "volume-0"'
    cluster.pods = [pending(pod("node-0-0-x", JOB))]
    cluster.events = [
        {"message": words, "lastTimestamp": "2026-02-01T00:00:09Z"},
        {"message": "older", "lastTimestamp": "2026-02-01T00:00:01Z"},
    ]
    started = time.monotonic()
    assert f"pod {JOB}-node-0-0-x does not start on node one older; {words}" in failure(job)
    assert time.monotonic() - started >= SOON.pending
    assert cluster.deleted() == [PATH]


def test_waiting_for_a_node_does_not_count_against_the_start(
    cluster: Cluster, url: str, application: Application
) -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}
    unscheduled = pod("node-0-0-x", JOB, "Pending", conditions=[condition], containerStatuses=None)
    began = time.monotonic()

    def act(cluster: Cluster, body: dict[str, Any]) -> None:
        passed = time.monotonic() - began
        cluster.pods = [unscheduled if passed < 0.7 else pending(pod("node-0-0-x", JOB))]
        if passed > 1.4:
            ends(body, "Complete")

    cluster.act = act
    launch(api(url), application, "0123456789abcdef", [], Limits(1.0, 1.0, 10.0, 1.0, 0.02)).run()


def pending(body: dict[str, Any]) -> dict[str, Any]:
    """A pod that a node has taken and not started."""
    creating = {"name": "node", "state": {"waiting": {"reason": "ContainerCreating"}}}
    status = {"phase": "Pending", "containerStatuses": [creating]}
    return body | {"spec": body["spec"] | {"nodeName": "one"}, "status": status}


def test_a_suspended_job_waits_in_its_queue(cluster: Cluster, job: Launch) -> None:
    def act(cluster: Cluster, body: dict[str, Any]) -> None:
        ends(body, "Suspended" if cluster.looks < 30 else "Complete")

    cluster.act = act
    job.run()


def test_deleted_from_outside_is_an_error(cluster: Cluster, job: Launch) -> None:
    cluster.pods = [pod("node-0-0-x", JOB)]
    cluster.act = after(3, lambda cluster, _: cluster.objects.clear())
    assert "somebody deleted it while it ran" in failure(job)


@pytest.mark.parametrize("how", ["closed", "half", "busy"])
def test_lost_connections_are_asked_again(cluster: Cluster, job: Launch, how: str) -> None:
    cluster.pods = [pod("node-0-0-x", JOB)]
    cluster.breaks = [how, "", how, "", "", how, how]
    cluster.act = after(4, lambda _, body: ends(body, "Complete"))
    job.run()
    assert len({body["metadata"]["name"] for body in cluster.made()}) == 1
    assert not cluster.deleted()


def test_a_cluster_that_stays_away_leaves_the_job_for_the_next_attempt(cluster: Cluster, job: Launch) -> None:
    cluster.pods = [pod("node-0-0-x", JOB)]
    cluster.act = after(3, lambda cluster, _: cluster.breaks.extend(["closed"] * 10_000))
    message = failure(job)
    assert "gave no answer for 1 s" in message
    assert "run the step again to join it" in message
    assert PATH in cluster.objects


def test_a_retry_joins_what_is_there_and_another_process_does_not_take_it_away(
    cluster: Cluster, url: str, application: Application
) -> None:
    """Two at once: one job, and the one that came last may clear it away."""
    cluster.pods = [pod("node-0-0-x", JOB)]
    both = [launch(api(url), application, "0123456789abcdef", [], SOON) for _ in range(2)]
    finish = threading.Event()
    cluster.act = lambda _, body: ends(body, "Complete") if finish.is_set() else None
    threads = [threading.Thread(target=each.run) for each in both]
    for thread in threads:
        thread.start()
    while sum(each.begun for each in both) < 2:
        time.sleep(0.01)
    assert len(cluster.objects) == 1
    holders = cluster.objects[PATH]["metadata"]["annotations"][MANAGER]
    first = next(each for each in both if each.holder != holders)
    first._clear(1.0)
    assert PATH in cluster.objects
    finish.set()
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("left", ["Failed", "Complete"])
def test_what_an_earlier_attempt_left_is_made_anew(cluster: Cluster, job: Launch, left: str) -> None:
    old: dict[str, Any] = {"metadata": {"name": JOB}, "spec": {}}
    ends(old, left)
    cluster.objects[PATH] = old
    cluster.pods = [pod("node-0-0-x", JOB)]
    cluster.act = lambda cluster, body: ends(body, "Complete") if cluster.looks > 5 else None
    job.run()
    assert cluster.deleted() == [PATH]
    assert len(cluster.made()) == 1


def test_a_missing_operator_is_named(cluster: Cluster, job: Launch) -> None:
    cluster.kinds = set()
    message = failure(job)
    assert "knows no trainjobs.trainer.kubeflow.org" in message
    assert "install Kubeflow Trainer 2" in message
    assert not cluster.deleted()


def test_a_missing_right_is_named(cluster: Cluster, job: Launch) -> None:
    cluster.denied = ["/trainjobs"]
    message = failure(job)
    assert "cannot GET" in message
    assert "give the step's service account this right" in message


def test_a_server_that_has_just_started_knows_no_rights_yet(cluster: Cluster, job: Launch) -> None:
    """Its first answers deny what it allowed before: the job goes on, and is not deleted."""
    cluster.pods = [pod("node-0-0-x", JOB)]

    def act(cluster: Cluster, body: dict[str, Any]) -> None:
        if cluster.looks == 3:
            cluster.denied = ["/trainjobs", "/pods"]
            threading.Timer(0.1, cluster.denied.clear).start()
        if cluster.looks > 6:
            ends(body, "Complete")

    cluster.act = act
    job.run()
    assert not cluster.deleted()


def test_a_right_that_stays_missing_is_an_error(cluster: Cluster, job: Launch) -> None:
    cluster.pods = [pod("node-0-0-x", JOB)]
    cluster.act = after(3, lambda cluster, _: cluster.denied.append("/pods"))
    assert "give the step's service account this right" in failure(job)
    asked = [request for request in cluster.requests if request.path.endswith("/pods")]
    assert len(asked) > 5, "three looks, and a few more until it is clear that the right is gone"
    assert cluster.deleted() == [PATH]


def test_what_an_admission_webhook_says_is_passed_on(cluster: Cluster, job: Launch) -> None:
    cluster.admission = 'ClusterTrainingRuntime "torch-distributed" not found'
    assert 'ClusterTrainingRuntime "torch-distributed" not found' in failure(job)


def test_an_older_trainer_is_given_the_fields_it_knows(cluster: Cluster, job: Launch) -> None:
    cluster.unknown_fields = {"runtimePatches"}
    cluster.pods = [pod("node-0-0-x", JOB)]
    cluster.act = after(3, lambda _, body: ends(body, "Complete"))
    job.run()
    assert "podTemplateOverrides" in cluster.objects[PATH]["spec"]


def test_a_job_that_takes_too_long_is_ended(cluster: Cluster, url: str, application: Application) -> None:
    cluster.pods = [pod("node-0-0-x", JOB)]
    limits = Limits(pending=9, grace=9, total=0.2, lost=1, poll=0.02)
    message = failure(launch(api(url), application, "0123456789abcdef", [], limits))
    assert "not done after" in message
    assert cluster.deleted() == [PATH]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_step_that_is_told_to_end_takes_its_job_along(
    cluster: Cluster, url: str, tmp_path: Path, number: int
) -> None:
    cluster.pods = [pod("node-0-0-x", JOB)]
    program = textwrap.dedent(f"""
        from components.launch.train_job import launch
        from components.launch.watch import Limits
        from limaml.config import parse_application
        from tests.components.launch.cluster import api
        from tests.conftest import SMALL
        launch(api({url!r}), parse_application(SMALL, "t"), "0123456789abcdef", [], Limits(poll=0.05)).run()
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, env=os.environ)
    while cluster.looks < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) == 143
    assert cluster.deleted() == [PATH]


def test_two_nodes_without_a_trainjob_are_refused() -> None:
    from limaml.config import parse_application
    from tests.conftest import SMALL

    with pytest.raises(ConfigError, match="nodes: 2, but a step has one pod"):
        parse_application(SMALL | {"cluster": {"nodes": 2}}, "tests")
    steps = {"train_theta": {"gpus": 1}}
    with pytest.raises(ConfigError, match=r"steps\.train_theta\.gpus is 1"):
        parse_application(SMALL | {"cluster": {"processes_per_node": 2, "steps": steps}}, "tests")
