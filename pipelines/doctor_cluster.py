"""The doctor's questions to the Kubernetes cluster."""

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import yaml

from components.launch import train_job
from limaml.cluster_sections import StepResources, Toleration
from limaml.config import Application
from limaml.errors import KubeflowError
from pipelines.doctor import Check, Outcome
from pipelines.kubernetes_api import Denied, KubernetesApi

KUBEFLOW = "kubeflow"
# A strategic merge patch on every workflow that Kubeflow makes of a pipeline.
PATCH = "COMPILED_PIPELINE_SPEC_PATCH"
_UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTP", start=1)}


def checks(connect: Callable[[], KubernetesApi], application: Application | None, namespace: str) -> list[Check]:
    """Kubernetes itself, custom resources, nodes that fit the steps, and the objects that the YAML names."""
    api = _once(connect)
    found = [
        Check("kubernetes", partial(_reachable, api)),
        *(Check(f"crd {kind}", partial(_crd, api, *about)) for kind, about in _kinds(application).items()),
    ]
    if application is None:
        return found
    cluster = application.cluster
    found.append(Check("retries", partial(_retries, api)))
    found.append(Check("nodes", partial(_nodes, api, application, gpus=False)))
    found.append(Check("gpu nodes", partial(_nodes, api, application, gpus=True)))
    keys: dict[str, dict[str, bool]] = {}
    for each in cluster.secrets:
        keys.setdefault(each.secret, {})[each.key] = each.optional
    for secret, wanted in {**{name: {} for name in cluster.image_pull_secrets}, **keys}.items():
        found.append(Check(f"secret {secret}", partial(_secret, api, namespace, secret, wanted)))
    if cluster.train_on == "trainjob":
        found.append(Check("training runtime", partial(_runtime, api, cluster.training_runtime)))
    accounts = {"service account": cluster.service_account}
    if application.grouping.engine == "spark":
        accounts["spark's service account"] = cluster.spark.service_account
    for what, account in accounts.items():
        if account:
            found.append(Check(what, partial(_account, api, namespace, account)))
    found += [Check(f"volume {each.claim}", partial(_claim, api, namespace, each.claim)) for each in cluster.volumes]
    return found


def _once(connect: Callable[[], KubernetesApi]) -> Callable[[], KubernetesApi]:
    """A connection for all checks, or the same error for each."""

    @cache
    def attempt() -> KubernetesApi | KubeflowError:
        try:
            api = connect()
            api.version()
        except KubeflowError as error:
            return error
        return api

    def api() -> KubernetesApi:
        result = attempt()
        if isinstance(result, KubeflowError):
            raise result
        return result

    return api


def _skips(ask: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Skipped where Kubernetes does not answer, since its own check says so; a warning where one may not look."""

    def asked(api: Callable[[], KubernetesApi], *given: Any, **named: Any) -> Outcome:
        try:
            reached = api()
        except KubeflowError:
            return Outcome("skipped", "Kubernetes can't be asked", "see the check kubernetes")
        try:
            return ask(reached, *given, **named)
        except Denied as error:
            what, _, do = str(error).rpartition("; ")
            return Outcome("warning", what, do)

    return asked


def _reachable(api: Callable[[], KubernetesApi]) -> Outcome:
    reached = api()
    return Outcome("ok", f"{reached.version()} at {reached.endpoint}")


def _kinds(application: Application | None) -> dict[str, tuple[str, str, str, bool]]:
    """Kind → its group, itself, what needs it, and whether this application does."""
    trains = application is not None and application.cluster.train_on == "trainjob"
    spark = application is not None and application.grouping.engine == "spark"
    rows = [
        ("argoproj.io", "Workflow", "every run; install Kubeflow Pipelines, which brings Argo Workflows", True),
        ("kubeflow.org", "ScheduledWorkflow", "schedules; install Kubeflow Pipelines", True),
        ("trainer.kubeflow.org", "TrainJob", "cluster.train_on: trainjob; install Kubeflow Trainer 2", trains),
        ("sparkoperator.k8s.io", "SparkApplication", "grouping.engine: spark; install the Spark Operator", spark),
        ("serving.kserve.io", "InferenceService", "a scorer by KServe; install KServe", False),
        ("monitoring.coreos.com", "ServiceMonitor", "the chart's metrics; install the Prometheus Operator", False),
    ]
    return {row[1]: row for row in rows}


@_skips
def _crd(api: KubernetesApi, group: str, kind: str, needed_by: str, required: bool) -> Outcome:
    if api.serves(group, kind):
        return Outcome("ok", f"{kind} of {group}")
    what, _, do = needed_by.partition("; ")
    if required:
        return Outcome("failed", f"no {kind} of {group}, which is for {what}", do)
    return Outcome("skipped", f"no {kind} of {group}; only for {what}", do)


@_skips
def _retries(api: KubernetesApi) -> Outcome:
    """Whether Argo, as Kubeflow has set it up, tries a step again that has failed."""
    try:
        config = api.namespaced(KUBEFLOW, "configmaps", "workflow-controller-configmap")
        server = api.get(f"/apis/apps/v1/namespaces/{KUBEFLOW}/deployments/ml-pipeline")
    except Denied:
        config, server = None, None
    if config is None:
        return Outcome("skipped", f"Argo's ConfigMap in namespace {KUBEFLOW} can't be seen")
    data = config.get("data") or {}
    # Argo takes its settings as keys of their own, or all of them below `config`.
    text = data.get("workflowDefaults") or (yaml.safe_load(data.get("config") or "") or {}).get("workflowDefaults")
    defaults: Any = yaml.safe_load(text) if isinstance(text, str) else text
    for part in ("spec", "templateDefaults", "retryStrategy"):
        defaults = (defaults or {}).get(part)
    policy = (defaults or {}).get("retryPolicy") or "OnFailure"
    pods = ((server or {}).get("spec") or {}).get("template", {}).get("spec", {}).get("containers") or ()
    patches = [each.get("value") for pod in pods for each in pod.get("env") or () if each["name"] == PATCH]
    if policy != "OnError" or any("retryPolicy" in (patch or "") for patch in patches):
        return Outcome("ok", "steps that fail are tried again")
    return Outcome(
        "warning",
        "Argo tries no step again that fails, only one whose pod is lost: retryPolicy is OnError, Kubeflow 2.17's own",
        "take templateDefaults out of Argo's workflowDefaults: docs/pipelines.md, What is tried again",
    )


@_skips
def _runtime(api: KubernetesApi, name: str) -> Outcome:
    if api.get(f"/apis/{train_job.GROUP}/{train_job.VERSION}/clustertrainingruntimes/{name}") is None:
        do = "install Kubeflow Trainer's runtimes, or correct cluster.training_runtime"
        return Outcome("failed", f"there is no ClusterTrainingRuntime {name}", do)
    return Outcome("ok", name)


@_skips
def _nodes(api: KubernetesApi, application: Application, gpus: bool) -> Outcome:
    steps = {name: step for name, step in application.cluster.steps if bool(step.gpus) == gpus}
    if not steps:
        return Outcome("skipped", "no step asks for GPUs" if gpus else "every step asks for GPUs")
    nodes, wrong = api.nodes(), []
    for name, step in steps.items():
        misses = [_miss(node, step) for node in nodes]
        if all(misses):
            reasons = {miss: misses.count(miss) for miss in misses}
            said = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            wrong.append(f"{name} ({_asks(step)}): of {len(nodes)} nodes {said or 'none'}")
    if wrong:
        do = "add such a node or correct cluster.steps; where an autoscaler brings nodes on demand, never mind"
        return Outcome("failed", "no node fits " + "; ".join(wrong), do)
    return Outcome("ok", f"{', '.join(steps)}: each fits one of {len(nodes)} nodes")


def _asks(step: StepResources) -> str:
    gpus = [f"{step.gpus} {step.gpu_type}"] if step.gpus else []
    labels = [f"{label}={value}" for label, value in step.node_selector.items()]
    return ", ".join([f"cpu {step.cpu}", f"memory {step.memory}", *gpus, *labels])


def _miss(node: dict[str, Any], step: StepResources) -> str:
    """Why a step can't run on a node, whatever runs there now; empty where it can."""
    labels = node["metadata"].get("labels") or {}
    has = (node.get("status") or {}).get("allocatable") or {}
    spec = node.get("spec") or {}
    if any(labels.get(label) != value for label, value in step.node_selector.items()):
        return "without the labels"
    if step.gpus and amount(has.get(step.gpu_type, "0")) < step.gpus:
        return f"without {step.gpus} {step.gpu_type}"
    if amount(has.get("cpu", "0")) < amount(step.cpu):
        return "with too little CPU"
    if amount(has.get("memory", "0")) < amount(step.memory):
        return "with too little memory"
    for taint in spec.get("taints") or ():
        if taint.get("effect") != "PreferNoSchedule" and not any(_tolerates(each, taint) for each in step.tolerations):
            return f"with the taint {taint.get('key')}"
    return "closed for new pods" if spec.get("unschedulable") else ""


def _tolerates(toleration: Toleration, taint: dict[str, Any]) -> bool:
    if toleration.effect and toleration.effect != taint.get("effect"):
        return False
    if toleration.operator == "Exists":
        return toleration.key in ("", taint.get("key"))
    return toleration.key == taint.get("key") and toleration.value == (taint.get("value") or "")


def amount(quantity: str) -> float:
    """A Kubernetes quantity as a number: `500m` is 0.5, `1Gi` is 2³⁰."""
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", quantity)
    return float(found[1]) * _UNITS.get(found[2], 0.0) if found else 0.0


@_skips
def _secret(api: KubernetesApi, namespace: str, name: str, keys: dict[str, bool]) -> Outcome:
    secret, needed = api.namespaced(namespace, "secrets", name), [key for key, optional in keys.items() if not optional]
    do = f"make it: kubectl -n {namespace} create secret generic {name} --from-literal=KEY=…"
    if secret is None:
        optional = bool(keys) and not needed
        return Outcome("warning" if optional else "failed", f"there is no secret {name} in namespace {namespace}", do)
    there = secret.get("data") or {}
    if missing := [key for key in needed if key not in there]:
        return Outcome(
            "failed", f"secret {name} has no key {', '.join(missing)}", f"add it to the secret in {namespace}"
        )
    if absent := [key for key in keys if key not in there]:
        return Outcome(
            "warning", f"secret {name} has no key {', '.join(absent)}, which is optional", "add it if it is needed"
        )
    return Outcome("ok", f"{len(keys)} keys" if keys else "it is there")


@_skips
def _account(api: KubernetesApi, namespace: str, name: str) -> Outcome:
    if api.namespaced(namespace, "serviceaccounts", name) is None:
        do = f"install the chart there, or kubectl -n {namespace} create serviceaccount {name}"
        return Outcome("failed", f"there is no service account {name} in namespace {namespace}", do)
    return Outcome("ok", f"{name} in {namespace}")


@_skips
def _claim(api: KubernetesApi, namespace: str, name: str) -> Outcome:
    claim = api.namespaced(namespace, "persistentvolumeclaims", name)
    if claim is None:
        return Outcome(
            "failed",
            f"there is no volume claim {name} in namespace {namespace}",
            "create it, or correct cluster.volumes",
        )
    phase = (claim.get("status") or {}).get("phase")
    if phase != "Bound":
        do = "fine where its class waits for the first pod; else look at `kubectl describe pvc`"
        return Outcome("warning", f"volume claim {name} is {phase}", do)
    modes = ", ".join((claim.get("spec") or {}).get("accessModes") or ())
    return Outcome("ok", f"bound, {modes}")
