"""What a finished run says: the figures behind `--json` and the pages to open."""

from datetime import date
from typing import Any

from components import support
from limaml.config import Application
from limaml.manifest import Manifest
from limaml.storage import is_local, local_path
from limaml.windows import Window, refresh_split, training_window
from limaml.workspace import Workspace


def of_train(
    application: Application, run_date: date, place: Workspace, manifests: dict[str, Manifest]
) -> dict[str, Any]:
    """Figures of a training run; what a failed run did not reach is left out."""
    result: dict[str, Any] = _validated(place, training_window(application.windows, run_date), manifests)
    if model := manifests.get("train-theta"):
        result["model_version"] = model.details["model_version"]
        result["pages"] += pages(model.details["uri"])
    if decision := manifests.get("gate-theta"):
        details = decision.details
        result |= {"promoted": details["promoted"], "reasons": details["reasons"], "figures": figures(decision)}
        result["pages"] += pages(place.decision(result["model_version"]))
    return result | _embeddings(manifests) | _release(place, application, manifests)


def of_refresh(
    application: Application, run_date: date, place: Workspace, manifests: dict[str, Manifest]
) -> dict[str, Any]:
    """Figures of a daily refresh; what a failed run did not reach is left out."""
    window = refresh_split(application.windows, run_date).window
    result: dict[str, Any] = _validated(place, window, manifests)
    result |= _embeddings(manifests) | _release(place, application, manifests)
    if monitored := manifests.get("monitor"):
        details = monitored.details
        result["monitoring"] = {"healthy": details["healthy"], "alarms": details["alarms"]}
        result["pages"] += pages(place.monitoring(run_date))
    return result


def of_ab_report(window: Window, test: str, place: Workspace, manifests: dict[str, Manifest]) -> dict[str, Any]:
    """Conclusions of an A/B test."""
    report = manifests.get("analyze-ab")
    if report is None:
        return {"pages": []}
    return {
        "conclusions": report.details["conclusions"],
        "split": report.details["split"],
        "comparisons": report.details["comparisons"],
        "pages": pages(place.experiment(window, test)),
    }


def figures(decision: Manifest) -> dict[str, dict[str, dict[str, float | None]]]:
    """slice → algorithm → AUC and GAUC, for all rows and for rows of tasks with samples to adapt on."""
    found: dict[str, dict[str, dict[str, float | None]]] = {"all": {}, "with_support": {}}
    for row in decision.details["table"]:
        if row["slice"] in found:
            found[row["slice"]][row["algorithm"]] = {name: row[name] for name in ("auc", "gauc")}
    return found


def pages(uri: str) -> list[str]:
    """The HTML pages of an output: paths where they are on this machine, URIs elsewhere."""
    return [str(local_path(page)) if is_local(page) else page for page in support.pages(uri)]


def _validated(place: Workspace, window: Window, manifests: dict[str, Manifest]) -> dict[str, Any]:
    validated = manifests.get("validate-data")
    if validated is None:
        return {"pages": []}
    grouped = {m.details["split"]["name"]: m.counts for m in manifests.values() if m.kind == "task_set"}
    return {"validated": validated.counts, "tasks": grouped, "pages": pages(place.validated(window))}


def _embeddings(manifests: dict[str, Manifest]) -> dict[str, Any]:
    embeddings = manifests.get("generate-embeddings")
    return {} if embeddings is None else {"embeddings": embeddings.counts}


def _release(place: Workspace, application: Application, manifests: dict[str, Manifest]) -> dict[str, Any]:
    if "push-embeddings" not in manifests:
        return {}
    from limaml.online.store import open_store

    release = open_store(place.store_url(application), application.name).current()
    return {} if release is None else {"release": {"name": release.name, **release.model_dump(mode="json")}}
