"""What the chart's accounts may do, and what they must not, asked of the API server's own authorizer."""

import pytest

from tests.charts.rendering import objects, scenario
from tests.cluster.conftest import Cluster

pytestmark = pytest.mark.cluster

STEPS = [
    *((verb, "trainjobs.trainer.kubeflow.org") for verb in ("get", "create", "patch", "delete")),
    *((verb, "sparkapplications.sparkoperator.k8s.io") for verb in ("get", "create", "patch", "delete")),
    ("get", "pods"),
    ("list", "pods"),
    ("get", "pods/log"),
    ("list", "events"),
]
# Kubeflow's own, which its executor asks for in every step: the account is the steps' only one.
EXECUTOR = [
    ("create", "workflowtaskresults.argoproj.io"),
    ("patch", "workflowtaskresults.argoproj.io"),
    ("get", "workflows.argoproj.io"),
    ("patch", "pods"),
]
NEVER = [
    *((verb, "secrets") for verb in ("get", "list", "create")),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "pods/exec"),
    ("create", "serviceaccounts/token"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("escalate", "roles.rbac.authorization.k8s.io"),
    ("list", "nodes"),
    ("list", "configmaps"),
    ("update", "deployments.apps"),
    ("list", "trainjobs.trainer.kubeflow.org"),
]
KUBEFLOW = [
    *((verb, "pipelines.pipelines.kubeflow.org") for verb in ("get", "list", "create", "delete")),
    *((verb, "pipelines/versions.pipelines.kubeflow.org") for verb in ("get", "list", "create", "delete")),
    *((verb, "experiments.pipelines.kubeflow.org") for verb in ("get", "list", "create")),
    *((verb, "jobs.pipelines.kubeflow.org") for verb in ("get", "list", "create", "enable", "disable", "delete")),
    *((verb, "runs.pipelines.kubeflow.org") for verb in ("get", "list")),
]


@pytest.fixture
def accounts(cluster: Cluster, namespace: str) -> str:
    """The namespace with the accounts and roles of the fullest scenario."""
    for each in objects(scenario("everything")):
        if each["kind"] in ("ServiceAccount", "Role", "RoleBinding"):
            for subject in each.get("subjects", ()):
                subject["namespace"] = namespace
            cluster.create(each | {"metadata": each["metadata"] | {"namespace": namespace}})
    return namespace


def test_steps_may_launch_and_watch_and_no_more(cluster: Cluster, accounts: str) -> None:
    may = [
        (verb, resource)
        for verb, resource in STEPS + EXECUTOR + NEVER
        if cluster.may(accounts, "limaml-runs", verb, resource)
    ]
    assert may == STEPS + EXECUTOR
    assert cluster.may(accounts, "limaml-runs", "get", "configmaps", "kfp-launcher")
    assert cluster.may(accounts, "limaml-runs", "get", "secrets", "mlpipeline-minio-artifact")
    assert not cluster.may(accounts, "limaml-runs", "get", "secrets", "limaml-redis")


def test_jobs_may_ask_kubeflow_and_nothing_of_kubernetes(cluster: Cluster, accounts: str) -> None:
    asked = KUBEFLOW + STEPS + EXECUTOR + NEVER + [("create", "runs.pipelines.kubeflow.org")]
    assert [each for each in asked if cluster.may(accounts, "limaml-kubeflow", *each)] == KUBEFLOW


def test_scorers_may_nothing(cluster: Cluster, accounts: str) -> None:
    assert not [each for each in STEPS + EXECUTOR + NEVER + KUBEFLOW if cluster.may(accounts, "limaml-scorer", *each)]
