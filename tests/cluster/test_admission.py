"""Every object of every scenario is taken by a real API server, and every pod by Pod Security `restricted`."""

from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from tests.charts.rendering import SCENARIOS, objects, pod_labels, pod_specs, scenario
from tests.cluster.conftest import Cluster

pytestmark = pytest.mark.cluster


def refusal(cluster: Cluster, body: dict[str, Any]) -> str:
    """Why the server would not take an object; empty where it would."""
    try:
        cluster.create(body, dryRun="All")
    except ApiException as error:
        return f"{body['kind']} {body['metadata']['name']}: {error.body}"
    return ""


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_server_takes_every_object(cluster: Cluster, namespace: str, name: str) -> None:
    found = [each | {"metadata": each["metadata"] | {"namespace": namespace}} for each in objects(scenario(name))]
    # Pods need their account first: they are the next test's.
    known = [each for each in found if cluster.path(each) and each["kind"] != "Pod"]
    assert not list(filter(None, (refusal(cluster, each) for each in known)))
    if unknown := {each["kind"] for each in found if not cluster.path(each)}:
        pytest.skip(f"all were taken but {', '.join(sorted(unknown))}, which this cluster does not know")


@pytest.mark.parametrize("name", SCENARIOS)
def test_pod_security_takes_every_pod(cluster: Cluster, namespace: str, name: str) -> None:
    """A Deployment whose pods are refused is taken all the same: the pods themselves are asked for."""
    found = objects(scenario(name))
    for account in ({spec.get("serviceAccountName", "default") for _, spec in pod_specs(found)}) - {"default"}:
        cluster.core.create_namespaced_service_account(namespace, {"metadata": {"name": account}})
    for (owner, spec), labels in zip(pod_specs(found), pod_labels(found), strict=True):
        # A priority class is the cluster's own; KServe's fields beside the pod's are no pod's.
        fields = {key: value for key, value in spec.items() if key not in KSERVE | {"priorityClassName"}}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": owner, "namespace": namespace, "labels": labels},
            "spec": fields,
        }
        assert not refusal(cluster, body)


KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "labels", "annotations"}


def test_what_is_not_restricted_is_refused_here(cluster: Cluster, namespace: str) -> None:
    """Else the tests above would pass anywhere."""
    (_, spec), *_ = pod_specs(objects(scenario("trial"), "tests/scorers"))
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose", "namespace": namespace}}
    loose = [each | {"securityContext": {}} for each in spec["containers"]]
    assert "violates PodSecurity" in refusal(cluster, body | {"spec": spec | {"containers": loose}})
    assert "unknown field" in refusal(cluster, body | {"spec": spec | {"nonsense": 1}})
