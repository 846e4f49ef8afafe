"""Task grouping as a SparkApplication of the Spark Operator: `limaml group` as its driver."""

from collections.abc import Mapping
from typing import Any

from components.launch.api import connect
from components.launch.job import Kind, State, environment, object_name, own_image, tolerations, volumes
from components.launch.train_job import limits_of
from components.launch.watch import Launch, Limits, labelled
from limaml.config import Application
from limaml.manifest import canonical_json

GROUP, VERSION = "sparkoperator.k8s.io", "v1beta2"
# A field that the operator wants; the image decides.
SPARK_VERSION = "4.1.0"
_STATES: dict[str, State] = {
    "COMPLETED": "done",
    "FAILED": "failed",
    "SUBMISSION_FAILED": "failed",
    "SUSPENDED": "queued",
}


def _state(body: Mapping[str, Any]) -> tuple[State, str]:
    said = body.get("status", {}).get("applicationState") or {}
    state = _STATES.get(said.get("state", ""), "running")
    return state, said.get("errorMessage", "") if state == "failed" else said.get("state", "").lower()


SPARK_APPLICATION = Kind(
    title="SparkApplication",
    operator="the Spark Operator",
    group=GROUP,
    version=VERSION,
    plural="sparkapplications",
    pods="sparkoperator.k8s.io/app-name",
    speaks=lambda pod: pod["metadata"].get("labels", {}).get("spark-role") == "driver",
    state=_state,
)


def group(application: Application, fingerprint: str, arguments: list[str], limits: Limits | None = None) -> None:
    """Have a SparkApplication run `limaml group` with these arguments, and wait for it.

    Raises:
        KubeflowError: see `Launch.run`.
    """
    api = connect()
    image = application.cluster.spark.image or own_image(api)
    body = spark_application(application, fingerprint, image, arguments)
    limits = limits or limits_of(application, application.cluster.steps.group_tasks)
    Launch(api, SPARK_APPLICATION, body, limits).run()


def spark_application(application: Application, fingerprint: str, image: str, arguments: list[str]) -> dict[str, Any]:
    """The SparkApplication as Kubernetes takes it."""
    cluster = application.cluster
    spark, step = cluster.spark, cluster.steps.group_tasks
    made, mounts = volumes(cluster, step)
    pod: dict[str, Any] = {"env": environment(cluster), "volumeMounts": mounts}
    if step.node_selector:
        pod["nodeSelector"] = step.node_selector
    if step.tolerations:
        pod["tolerations"] = tolerations(step)
    driver = {"cores": 1, "memory": spark.driver_memory, "serviceAccount": spark.service_account}
    executor: dict[str, Any] = {
        "instances": spark.executors,
        "cores": spark.executor_cores,
        "memory": spark.executor_memory,
        "memoryOverhead": spark.python_memory,
    }
    if cluster.service_account:
        executor["serviceAccount"] = cluster.service_account
    spec: dict[str, Any] = {
        "type": "Python",
        "pythonVersion": "3",
        "mode": "cluster",
        "sparkVersion": SPARK_VERSION,
        "image": image,
        "imagePullPolicy": cluster.image_pull_policy,
        "mainApplicationFile": spark.main_file,
        "arguments": ["group", "--app", canonical_json(application.model_dump(mode="json")).decode(), *arguments],
        "sparkConf": dict(spark.configuration),
        "restartPolicy": {"type": "Never"},
        "volumes": made,
        "driver": pod | driver,
        "executor": pod | executor,
    }
    if cluster.image_pull_secrets:
        spec["imagePullSecrets"] = list(cluster.image_pull_secrets)
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SparkApplication",
        "metadata": {"name": object_name(application.name, "group", fingerprint)},
        "spec": spec,
    }
    return labelled(body, application.name)
