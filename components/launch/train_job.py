"""θ training as a Kubeflow Trainer TrainJob: torchrun in as many pods as `cluster.nodes` says."""

import os
from collections.abc import Mapping
from typing import Any

from components.launch.api import Api, connect
from components.launch.job import Kind, State, environment, object_name, own_image, tolerations, volumes
from components.launch.watch import Launch, Limits, labelled
from limaml.cluster_sections import StepResources
from limaml.config import Application
from limaml.manifest import canonical_json

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
# What a runtime calls the pods that train, and the container in them.
NODE = "node"
USER = 10001
# What Kubeflow tells a step about its MLflow run.
MLFLOW = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")


def _state(body: Mapping[str, Any]) -> tuple[State, str]:
    conditions = {each["type"]: each for each in body.get("status", {}).get("conditions") or []}
    true = {name for name, each in conditions.items() if each["status"] == "True"}
    states: dict[str, State] = {"Failed": "failed", "Complete": "done", "Suspended": "queued"}
    for name, state in states.items():
        if name in true:
            said = conditions[name]
            return state, f"{said.get('reason', '')}: {said.get('message', '')}".strip(": ")
    return "running", ""


TRAIN_JOB = Kind(
    title="TrainJob",
    operator="Kubeflow Trainer 2",
    group=GROUP,
    version=VERSION,
    plural="trainjobs",
    pods="jobset.sigs.k8s.io/jobset-name",
    speaks=lambda pod: True,
    state=_state,
)


def train(application: Application, fingerprint: str, arguments: list[str], limits: Limits | None = None) -> None:
    """Have a TrainJob run `limaml train` with these arguments, and wait for it.

    Raises:
        KubeflowError: see `Launch.run`.
    """
    api = connect()
    limits = limits or limits_of(application, application.cluster.steps.train_theta)
    launch(api, application, fingerprint, arguments, limits).run()


def launch(api: Api, application: Application, fingerprint: str, arguments: list[str], limits: Limits) -> Launch:
    """The TrainJob of some work, not launched yet."""
    image = own_image(api)
    new, old = (
        train_job(application, fingerprint, image, arguments, patched)
        for patched in ("runtimePatches", "podTemplateOverrides")
    )
    return Launch(api, TRAIN_JOB, new, limits, old)


def limits_of(application: Application, step: StepResources) -> Limits:
    """How long a launched object may wait and last."""
    return Limits(pending=60 * application.cluster.pending_minutes, total=60 * step.timeout_minutes)


def train_job(
    application: Application, fingerprint: str, image: str, arguments: list[str], patched: str = "runtimePatches"
) -> dict[str, Any]:
    """The TrainJob as Kubernetes takes it; `patched` names how pods are changed: Trainer renamed it in version 2.2."""
    cluster = application.cluster
    step = cluster.steps.train_theta
    devices = {step.gpu_type: str(step.gpus)} if step.gpus else {}
    known = {each["name"] for each in environment(cluster)}
    injected = [
        {"name": name, "value": os.environ[name]} for name in MLFLOW if name in os.environ and name not in known
    ]
    text = canonical_json(application.model_dump(mode="json")).decode()
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": object_name(application.name, "train", fingerprint)},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": cluster.training_runtime},
            "trainer": {
                "image": image,
                "command": ["python", "-m", "torch.distributed.run", "--no-python", "limaml", "train"],
                "args": ["--app", text, *arguments],
                "env": [*environment(cluster), *injected],
                "numNodes": cluster.nodes,
                "numProcPerNode": cluster.processes_per_node,
                "resourcesPerNode": {
                    "requests": {"cpu": step.cpu, "memory": step.memory, **devices},
                    "limits": {"memory": step.memory, **devices},
                },
            },
            patched: [_patch(application, patched)],
        },
    }
    return labelled(body, application.name)


def _patch(application: Application, patched: str) -> dict[str, Any]:
    cluster = application.cluster
    step = cluster.steps.train_theta
    made, mounts = volumes(cluster, step)
    container: dict[str, Any] = {"name": NODE, "volumeMounts": mounts}
    pod: dict[str, Any] = {"volumes": made, "containers": [container]}
    if cluster.service_account:
        pod["serviceAccountName"] = cluster.service_account
    if step.node_selector:
        pod["nodeSelector"] = step.node_selector
    if step.tolerations:
        pod["tolerations"] = tolerations(step)
    if cluster.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in cluster.image_pull_secrets]
    if patched == "podTemplateOverrides":
        return {"targetJobs": [{"name": NODE}], "spec": pod}
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    job = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
    return {"manager": "limaml.io/step", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}
