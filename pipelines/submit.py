"""One run on Kubeflow: started, and watched to its end."""

import logging
import re
import time
from datetime import UTC, date, datetime
from typing import Any

from components.launch.pods import preparing, stuck, waiting, warnings
from components.outcome import reason_of
from limaml import storage
from limaml.cluster_sections import Steps
from limaml.config import Application
from limaml.errors import KubeflowError, StorageError
from limaml.workspace import Workspace
from pipelines.kubeflow import Kubeflow
from pipelines.kubernetes_api import KubernetesApi
from pipelines.setup import SHARED
from pipelines.uploads import compiled, experiment, upload

log = logging.getLogger(__name__)

ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
POLL_SECONDS = 5.0
# How long a lost connection is waited for while a run goes on without us.
LOST_SECONDS = 300.0
# How long a run may stand still before its pods are looked at.
STILL_SECONDS = 120.0
# What a run may still take to end after Kubeflow's own limit on it.
GRACE_MINUTES = 15
# Kubeflow lists the nodes of Argo's workflow: our steps by their components' names, with a number where there are
# several of one, and around each its driver, its executor, its attempts `(0)`, and the groups they lie in.
_STEP = re.compile(rf"({'|'.join(name.replace('_', '-') for name in (*Steps.model_fields, *SHARED))})(-\d+)?")


def submit(
    kubeflow: Kubeflow,
    application: Application,
    kind: str,
    arguments: dict[str, str],
    run_date: date | None = None,
    image: str = "",
) -> dict[str, Any]:
    """Start a run of a pipeline, uploading the pipeline as it is now where it is not there yet.

    Args:
        kubeflow: where.
        application: whose pipeline.
        kind: train, refresh, …
        arguments: the run's own values of the pipeline's parameters; empty ones are left to its defaults.
        run_date: the logical date; none: today (UTC), or what the pipeline does without one.
        image: of every step; empty: the application's pipelines' own.

    Raises:
        ConfigError: there is no such pipeline, or it does not take these arguments.
        KubeflowError: it could not be started.
    """
    text = compiled(kind, application, image)
    given = text.arguments(arguments | ({"run_date": run_date.isoformat()} if run_date else {}))
    version = upload(kubeflow, text)
    when = run_date.isoformat() if run_date else f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    body: dict[str, Any] = {
        "display_name": f"{version.pipeline} {when}",
        "description": f"started by `limaml submit`; version {version.version}",
        "experiment_id": experiment(kubeflow, application),
        "pipeline_version_reference": version.reference,
        "runtime_config": {"parameters": given},
    }
    if application.cluster.service_account:
        body["service_account"] = application.cluster.service_account
    action = f"start a run of {version.pipeline}"
    run = kubeflow.call(action, kubeflow.runs.run_service_create_run, safe=False, run=body)
    result = {
        "application": application.name,
        "kind": kind,
        "pipeline": version.pipeline,
        "version": version.version,
        "uploaded": version.uploaded,
        "arguments": given,
        "run_id": run["run_id"],
        "state": run.get("state") or "PENDING",
        "link": kubeflow.link("runs", "details", run["run_id"]),
    }
    log.info("open %s", result["link"])
    return result


def watch(kubeflow: Kubeflow, run_id: str, limit_minutes: float) -> dict[str, Any]:
    """Follow a run to its end: its state, the reason for it, and the steps that failed.

    Raises:
        KubeflowError: the connection stays lost, the run is gone, or it has no end within the limit.
    """
    ends, seen = time.monotonic() + 60 * limit_minutes, ""
    moved = time.monotonic()
    while True:
        action = f"follow run {run_id}"
        run = kubeflow.call(action, kubeflow.runs.run_service_get_run, patience=LOST_SECONDS, run_id=run_id)
        state = str(run.get("state") or "PENDING")
        now = _progress(run, state)
        if now != seen:
            log.info("run %s: %s", run_id, now)
            seen, moved = now, time.monotonic()
        elif time.monotonic() - moved > STILL_SECONDS:
            _look_at_pods(kubeflow, run_id)
            moved = time.monotonic()
        if state in ENDED:
            return {"state": state, "reason": reason(run), "failed_steps": _failed(run)}
        if time.monotonic() > ends:
            raise KubeflowError(
                f"run {run_id} is still {state} after {limit_minutes:.0f} minutes ({now}); look why its pods don't "
                f"end: {kubeflow.link('runs', 'details', run_id)}"
            )
        time.sleep(POLL_SECONDS)


def _look_at_pods(kubeflow: Kubeflow, run_id: str) -> None:
    """Log why pods of a run don't start, as far as this account may look: Kubeflow itself does not say."""
    namespace = kubeflow.namespace or "kubeflow"
    try:
        api = KubernetesApi()
        path = f"/api/v1/namespaces/{namespace}/pods"
        found = api.get(path, labelSelector=f"pipeline/runid={run_id}") or {}
    except KubeflowError as error:
        log.info("run %s does not move; its pods, `kubectl -n %s get pods`, say why (%s)", run_id, namespace, error)
        return
    pods = found.get("items") or []
    for pod, why in (waiting(pods) | stuck(pods)).items():
        log.warning("run %s: pod %s can't start: %s", run_id, pod, why)
    for pod, node in preparing(pods).items():
        if why := warnings(lambda path, query: api.get(path, **query), namespace, pod):
            log.warning("run %s: pod %s does not start on node %s: %s", run_id, pod, node, why)


def limit_minutes(application: Application) -> float:
    """How long a run of an application is followed: as long as Kubeflow lets it run, and a little."""
    return application.cluster.run_timeout_minutes + GRACE_MINUTES


def reason(run: dict[str, Any]) -> str:
    """Why a run ended as it did, in one line, as far as Kubeflow says: as a rule, only which steps failed."""
    said = next(filter(None, map(_said, [run, *reversed(run.get("state_history") or ())])), "")
    steps = [f"{each['step']}: {each['message']}" if each["message"] else each["step"] for each in _failed(run)]
    return "; ".join([*([said] if said else []), *steps])


def closing_words(application: Application, started: dict[str, Any]) -> str:
    """Why a run ended as it did, as its closing step has written into the workspace; empty where nobody can say.

    Args:
        application: whose run.
        started: what `submit` gave.
    """
    root = started["arguments"].get("workspace") or application.cluster.workspace
    try:
        place = Workspace(storage.normalize(root), application.name)
        return reason_of(place, started["kind"], started["run_id"])
    except (StorageError, ValueError) as error:
        log.info("why run %s failed is in its workspace, which this machine can't read: %s", started["run_id"], error)
        return ""


def _said(what: dict[str, Any]) -> str:
    return " ".join(((what.get("error") or {}).get("message") or "").split())


def _steps(run: dict[str, Any], state: str) -> dict[str, str]:
    """Our steps that are in a state, by name, each with what Kubeflow says of it."""
    tasks = (run.get("run_details") or {}).get("task_details") or []
    named = {str(task.get("display_name")): _said(task) for task in tasks if task.get("state") == state}
    # A driver prepares its step's pod; that it works is nothing to tell, that it failed is.
    part = "-driver" if state == "FAILED" else ""
    return {name: named[name] for name in sorted(named) if _STEP.fullmatch(name.removesuffix(part))}


def _failed(run: dict[str, Any]) -> list[dict[str, str]]:
    return [{"step": step, "message": message} for step, message in _steps(run, "FAILED").items()]


def _progress(run: dict[str, Any], state: str) -> str:
    running = ", ".join(_steps(run, "RUNNING"))
    return f"{state}, running: {running}" if running and state not in ENDED else state
