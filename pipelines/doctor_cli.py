"""`limaml doctor`: is everything there?"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from limaml.cli.common import Json, emit
from limaml.errors import KubeflowError
from pipelines.cluster_cli import Data, Workspace, on_kubeflow

if TYPE_CHECKING:
    from pipelines.kubeflow import Access

AppIfAny = Annotated[str, typer.Option("--app", help="An application, by name or path; none: the cluster alone.")]
Namespace = Annotated[
    str,
    typer.Option("--namespace", help="Where the pipelines' pods run; else --kfp-namespace, the pod's own, kubeflow."),
]
Context = Annotated[str, typer.Option("--context", help="Of the kubeconfig; none: its current one.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds until a check without an answer has failed.")]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("doctor")(doctor)


@on_kubeflow
def doctor(
    access: "Access",
    app: AppIfAny = "",
    workspace: Workspace = "",
    data: Data = "",
    namespace: Namespace = "",
    context: Context = "",
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Check Kubeflow, Kubernetes, and all that an application's YAML names; exit code 8 where something failed."""
    from limaml.config import load_application
    from pipelines import doctor_cluster, doctor_services
    from pipelines.doctor import as_in_a_pod, run
    from pipelines.kubeflow import POD_ACCOUNT, pod_namespace
    from pipelines.kubernetes_api import KubernetesApi

    application = load_application(app) if app else None
    place = namespace or access.namespace or pod_namespace() or "kubeflow"
    checks = [
        *doctor_services.checks(access, application, workspace, data),
        *doctor_cluster.checks(lambda: KubernetesApi(context), application, place),
    ]
    with as_in_a_pod(application):
        rows = run(checks, timeout)
    failed = [row["check"] for row in rows if row["state"] == "failed"]
    where = "a pod" if POD_ACCOUNT.is_dir() else "this machine"
    result = {"healthy": not failed, "failed": failed, "asked_from": where, "namespace": place, "checks": rows}
    if as_json:
        emit(result, as_json)
    else:
        width = max(22, *(len(row["check"]) + 1 for row in rows))  # a claim's name may be long
        for row in rows:
            do = f"\n{'':9}{'':{width}}→ {row['do']}" if row["do"] and row["state"] != "ok" else ""
            sys.stdout.write(f"{row['state']:<9}{row['check']:<{width}}{row['found']}{do}\n")
    if failed:
        raise KubeflowError(f"{len(failed)} of {len(rows)} checks failed: {', '.join(failed)}")
