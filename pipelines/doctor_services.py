"""The doctor's questions to what lies outside of Kubernetes: Kubeflow Pipelines, workspace, data, store, MLflow."""

import json
import os
import uuid
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from limaml import storage
from limaml.config import Application
from limaml.data.layout import days_of
from limaml.errors import ConfigError, StoreError
from limaml.store_urls import store_scheme
from limaml.workspace import Workspace
from pipelines.doctor import Check, Outcome
from pipelines.kubeflow import MINIMUM_VERSION, POD_ACCOUNT, Access, connect

_BUCKET = "check the bucket's name, the role or key of these pods, AWS_REGION and AWS_ENDPOINT_URL"
SECONDS = urllib3.Timeout(connect=5, read=10)


def checks(access: Access, application: Application | None, workspace: str, data: str) -> list[Check]:
    """Kubeflow Pipelines, and with an application what its steps read and write."""
    found = [Check("kubeflow pipelines", partial(_kubeflow, access))]
    if application is None:
        return found
    root = workspace or application.cluster.workspace
    data = data or application.cluster.data or (storage.join(root, application.name, "data") if root else "")
    return [
        *found,
        Check("workspace", partial(_workspace, root), _BUCKET),
        Check("data", partial(_data, data), _BUCKET),
        Check("online store", partial(_store, application, root), "set store.url in the application's YAML"),
        Check("mlflow", partial(_mlflow, application, root)),
    ]


def _kubeflow(access: Access) -> Outcome:
    kubeflow = connect(access)
    about = "one namespace a team" if kubeflow.multi_user else "one team"
    if kubeflow.version_number is None:
        least = ".".join(map(str, MINIMUM_VERSION))
        what = f"{kubeflow.endpoint} does not know its version ({kubeflow.version or 'none'})"
        return Outcome(
            "warning", what, f"make sure that it is {least} or newer: older ones don't expand scheduled dates"
        )
    kubeflow.call(
        "list pipelines", kubeflow.pipelines.pipeline_service_list_pipelines, page_size=1, namespace=kubeflow.namespace
    )
    return Outcome("ok", f"{kubeflow.version} at {kubeflow.endpoint}, {about}")


def _workspace(root: str) -> Outcome:
    if not root:
        return Outcome("failed", "no workspace", "set cluster.workspace in the application's YAML, or give --workspace")
    if away := _on_a_volume(root):
        return away
    probe = storage.join(root, f".limaml-doctor-{uuid.uuid4().hex}")
    storage.write_bytes(probe, b"limaml doctor")
    try:
        if storage.read_bytes(probe) != b"limaml doctor":
            return Outcome("failed", f"{root} gave back something else than was written", "look at what is in between")
    finally:
        storage.delete(probe)
    return Outcome("ok", f"{root}: written, read, deleted")


def _data(root: str) -> Outcome:
    if not root:
        return Outcome("skipped", "no workspace, so no data root", "see the check workspace")
    if away := _on_a_volume(root):
        return away
    days = days_of(root)
    if not days:
        do = "write interactions/date=YYYY-MM-DD there, or correct cluster.data"
        return Outcome("warning", f"{root} holds no interactions", do)
    return Outcome("ok", f"{root}: {len(days)} days, the newest {days[-1]}")


def _on_a_volume(uri: str) -> Outcome | None:
    """An answer for what lies on a volume that is not here."""
    if not storage.is_local(uri) or POD_ACCOUNT.is_dir() or _existing_parent(storage.local_path(uri)):
        return None
    what = f"{uri} is on a volume of the cluster's, not on this machine"
    return Outcome("skipped", what, "run the doctor in a pod that mounts it")


def _existing_parent(path: Path) -> bool:
    return path.exists() or (path.parent.exists() and path.parent != Path("/"))


def _store(application: Application, root: str) -> Outcome:
    from limaml.online.store import open_store

    if not root and not application.store.url:
        return Outcome("skipped", "no workspace, and no store.url", "see the check workspace")
    url = Workspace(root or "/", application.name).store_url(application)
    if store_scheme(url) == "lmdb" and (away := _on_a_volume("file://" + urlsplit(url).path)):
        return away
    try:
        release = open_store(url, application.name).current()
    except StoreError as error:
        return _away(urlsplit(url).hostname, Outcome("failed", str(error), "check store.url and network policies"))
    if release is None:
        return Outcome("warning", f"{url}: no release of {application.name} yet", "run the pipeline train")
    return Outcome("ok", f"{url}: release {release.number}, model {release.model_version}, as of {release.as_of}")


def _away(host: str | None, otherwise: Outcome) -> Outcome:
    """Skipped where a host is a service's name that only pods know; else what was found."""
    inside = host is not None and (host.endswith((".svc", ".cluster.local")) or "." not in host) and host != "localhost"
    if inside and not POD_ACCOUNT.is_dir():
        return Outcome("skipped", f"{host} is known inside the cluster only", "run the doctor in a pod for this")
    return otherwise


def _mlflow(application: Application, root: str) -> Outcome:
    if not root and not os.environ.get("MLFLOW_TRACKING_URI"):
        return Outcome("skipped", "no workspace, and no MLFLOW_TRACKING_URI", "see the check workspace")
    try:
        uri = Workspace(root, application.name).tracking_uri() if root else os.environ["MLFLOW_TRACKING_URI"]
    except ConfigError as error:
        return Outcome("failed", str(error), "set it in cluster.environment, such as http://mlflow.team-a.svc:5000")
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return Outcome("ok", f"{parts.scheme}: no server")
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{what}", "") for what in ("USERNAME", "PASSWORD"))
    headers = urllib3.make_headers(basic_auth=f"{user}:{password}") if user else {}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers = {"Authorization": f"Bearer {token}"}
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        pool = urllib3.PoolManager(headers=headers, timeout=SECONDS, retries=False)
        answer = pool.request("GET", uri.rstrip("/") + path)
    except urllib3.exceptions.HTTPError as error:
        what = f"MLflow at {uri} does not answer: {error}"
        return _away(parts.hostname, Outcome("failed", what, "check MLFLOW_TRACKING_URI and network policies"))
    return _mlflow_said(uri, answer.status, answer.data)


def _mlflow_said(uri: str, status: int, body: bytes) -> Outcome:
    text = " ".join(body.decode(errors="replace").split())[:200]
    if status == 403 and "host" in text.lower():
        host = urlsplit(uri).netloc
        do = f"start `mlflow server` with --allowed-hosts that names {host}"
        return Outcome("failed", f"MLflow at {uri} refuses the name it is called by: {text}", do)
    if status in (401, 403):
        do = "give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD by cluster.secrets"
        return Outcome("failed", f"MLflow at {uri} does not let us in ({status}): {text}", do)
    try:
        good = status == 200 and isinstance(json.loads(body), dict)
    except ValueError:
        good = False
    if not good:
        return Outcome(
            "failed", f"{uri} does not answer as MLflow does ({status}): {text}", "check MLFLOW_TRACKING_URI"
        )
    return Outcome("ok", uri)
