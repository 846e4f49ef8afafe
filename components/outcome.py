"""How a run ended and what it has to say: the figures behind `--json`, and the pages to open.

Two files below the workspace's `runs/<date>_<kind>`: `summary.json`, the same for every run that did the same work, and
`state.json`, how this one went: its id, state, reason and steps. Whoever closes the run writes them, on a machine as in
a cluster.
"""

import json
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

from components import support
from limaml import journal, lease, storage
from limaml.config import Application
from limaml.errors import StorageError
from limaml.journal import Entry
from limaml.manifest import Manifest, find_manifest
from limaml.storage import is_local, local_path
from limaml.workspace import Workspace

SUMMARY = "summary.json"
STATE = "state.json"
# What Kubeflow and its local runner call an end that was good.
WELL = ("SUCCEEDED", "COMPLETE", "CACHED")
# The step without which a run of a kind has not done its work.
LAST = {"train": "push_embeddings", "refresh": "monitor", "monitor": "monitor", "ab_report": "analyze_ab"}


def close_run(
    application: Application, place: Workspace, run_id: str, kind: str, kubeflow_state: str
) -> list[dict[str, Any]]:
    """Write down how a run ended, for each date it worked on, and release its leases; gives the states, oldest first.

    A run that does not hold its date does not touch what is written there. Closing again changes nothing. Kubeflow's
    own word counts only where no step has left one: then its first step never ran, or had nothing to do.

    Raises:
        StorageError: the workspace can't be read or written.
    """
    by_date: dict[date | None, list[Entry]] = {}
    for entry in journal.read(place, run_id):
        by_date.setdefault(entry.run_date, []).append(entry)
    if not by_date and kubeflow_state not in WELL:
        by_date[None] = []
    states = []
    for as_of, entries in sorted(by_date.items(), key=lambda pair: str(pair[0] or "")):
        summary = _summary(application, kind, as_of, entries)
        state = _state(run_id, kind, entries)
        target = place.turned_away(run_id)
        if as_of is not None and _holds(place, as_of, kind, run_id, entries[0].lease):
            target = place.run(as_of, kind)
        _write(storage.join(target, SUMMARY), summary)
        _write(storage.join(target, STATE), state)
        if as_of is not None:
            lease.release(entries[0].lease, run_id)
        states.append(state | {"run_date": summary["run_date"], "summary": summary})
    if all(state["state"] == "succeeded" for state in states):
        # Of a run that failed it stays: Kubeflow can retry that one from the step that failed.
        storage.delete(place.journal(run_id))
    return states


def _holds(place: Workspace, as_of: date, kind: str, run_id: str, uri: str) -> bool:
    """Whether a run holds its date, or did when it was closed before."""
    if lease.held_by(uri, run_id):
        return True
    written = read_outcome(place, as_of, kind)
    return written is not None and written[1]["run_id"] == run_id


def read_outcome(place: Workspace, as_of: date, kind: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Summary and state of the last run of a kind that held a date; None where none has ended.

    Raises:
        StorageError: they are there and can't be read.
    """
    found = [storage.join(place.run(as_of, kind), name) for name in (SUMMARY, STATE)]
    if not all(storage.exists(uri) for uri in found):
        return None
    try:
        summary, state = (json.loads(storage.read_bytes(uri)) for uri in found)
    except ValueError as error:
        raise StorageError(f"{place.run(as_of, kind)}: not what a run leaves: {error}; delete it") from error
    return summary, state


def history(place: Workspace) -> list[dict[str, Any]]:
    """How the last run of every kind for every date ended, the newest date first.

    Raises:
        StorageError: what runs left can't be read.
    """
    found = []
    for name in sorted(storage.list_directories(place.runs), reverse=True):
        day, _, kind = name.partition("_")
        if kind not in LAST:
            continue
        if outcome := read_outcome(place, date.fromisoformat(day), kind):
            state = outcome[1]
            facts = {key: state[key] for key in ("state", "reason", "run_id", "started_at", "ended_at")}
            found.append({"run_date": day, "kind": kind, **facts})
    return found


def reason_of(place: Workspace, kind: str, run_id: str) -> str:
    """Why a run ended as it did, in the words of the step that closed it; empty where it left none.

    Raises:
        StorageError: what runs left can't be read.
    """
    folders = [place.turned_away(run_id)]
    names = sorted(storage.list_directories(place.runs), reverse=True)
    folders += [storage.join(place.runs, name) for name in names if name.partition("_")[2] == kind]
    for folder in folders:
        uri = storage.join(folder, STATE)
        if storage.exists(uri) and (state := json.loads(storage.read_bytes(uri)))["run_id"] == run_id:
            return state["reason"]
    return ""


def unfinished(place: Workspace, kind: str, dates: Iterable[date]) -> list[date]:
    """Those dates, in their order, for which no run of a kind has succeeded."""
    outcomes = ((as_of, read_outcome(place, as_of, kind)) for as_of in dates)
    return [as_of for as_of, found in outcomes if found is None or found[1]["state"] != "succeeded"]


def _write(uri: str, content: dict[str, Any]) -> None:
    storage.write_bytes(uri, json.dumps(content, indent=2, default=str).encode() + b"\n")


def _state(run_id: str, kind: str, entries: list[Entry]) -> dict[str, Any]:
    failed = next((entry for entry in entries if entry.state == "failed"), None)
    silent = next((entry for entry in entries if entry.state == "running"), None)
    if any(entry.step == LAST[kind] and entry.state == "succeeded" for entry in entries):
        state, reason = "succeeded", ""
    elif failed is not None:
        state, reason = "failed", f"{failed.step}: {failed.error}: {failed.message}"
    elif silent is not None:
        state = "failed"
        reason = (
            f"{silent.step}: ended without a word: killed for its memory or its time, evicted, or the run was "
            "terminated; its pod's status says which"
        )
    else:
        state, reason = "failed", _never_began(entries)
    return {
        "run_id": run_id,
        "state": state,
        "reason": reason,
        "started_at": entries[0].started_at.isoformat() if entries else None,
        "ended_at": datetime.now(UTC).isoformat(),
        "steps": [
            {
                "step": entry.step,
                "state": entry.state,
                "error": entry.error,
                "seconds": None if entry.ended_at is None else (entry.ended_at - entry.started_at).total_seconds(),
                "output": entry.output,
            }
            for entry in entries
        ],
    }


def _never_began(entries: list[Entry]) -> str:
    last = entries[-1].step if entries else None
    began = f"the step after {last}" if last else "the first step"
    # Kubeflow uploads a step's artifacts after its end, in its pod, and fails the step if that can't be done.
    stored = f"what {last} wrote could not be uploaded to Kubeflow's bucket, " if last else ""
    return (
        f"{began} never began: its pod found no node (GPU, memory, taints), image or secret within the step's time, "
        f"{stored}or the run was terminated; the pods' events and logs say which"
    )


def _summary(application: Application, kind: str, as_of: date | None, entries: list[Entry]) -> dict[str, Any]:
    result: dict[str, Any] = {"application": application.name, "run": kind}
    result |= {"run_date": None if as_of is None else as_of.isoformat()} | _says(entries)
    failed = next((entry for entry in entries if entry.state == "failed"), None)
    return result if failed is None else result | {"error": failed.error, "message": failed.message}


def _says(entries: list[Entry]) -> dict[str, Any]:
    """Figures of a run; what it did not reach is left out."""
    result: dict[str, Any] = {"pages": []}
    tasks = {}
    for entry in entries:
        manifest = find_manifest(entry.output) if entry.output else None
        if manifest is None:
            continue
        details = manifest.details
        result["pages"] += [page for page in _pages(entry.output) if page not in result["pages"]]
        if manifest.kind == "validated":
            result["validated"] = manifest.counts
        elif manifest.kind == "task_set":
            tasks[details["split"]["name"]] = manifest.counts
        elif manifest.kind == "model":
            result["model_version"] = details["model_version"]
        elif manifest.kind == "decision":
            result |= {"promoted": details["promoted"], "reasons": details["reasons"], "figures": figures(manifest)}
        elif manifest.kind == "embeddings":
            result["embeddings"] = manifest.counts
        elif manifest.kind == "monitoring":
            result["monitoring"] = {"healthy": details["healthy"], "alarms": details["alarms"]}
        elif manifest.kind == "ab_report":
            result |= {name: details[name] for name in ("conclusions", "split", "comparisons")}
        result |= entry.figures
    return result | ({"tasks": tasks} if tasks else {})


def markdown(application: Application, kind: str, run_id: str, states: list[dict[str, Any]]) -> str:
    """What a person reads in the Kubeflow UI when a run has ended."""
    lines = [f"# {application.title}: {kind.replace('_', ' ')}", "", f"Run `{run_id}`."]
    if not states:
        lines += ["", "Nothing had to be done: every date was finished before."]
    for state in states:
        summary = state["summary"]
        lines += ["", f"## {state['run_date'] or 'No date'}: {state['state']}", ""]
        if state["reason"]:
            lines += ["> " + state["reason"].replace("\n", "\n> "), ""]
        lines += ["| | |", "|---|---|"]
        lines += [f"| {name} | {text} |" for name, text in _facts(summary)]
        lines += ["", "| step | state | seconds |", "|---|---|--:|"]
        for step in state["steps"]:
            seconds = "" if step["seconds"] is None else f"{step['seconds']:.0f}"
            lines.append(f"| {step['step']} | {step['state']} {step['error']} | {seconds} |")
        if summary["pages"]:
            lines += ["", "Pages, also among the steps' artifacts:", "", *(f"- `{page}`" for page in summary["pages"])]
    return "\n".join(lines) + "\n"


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if validated := summary.get("validated"):
        facts.append(("rows", ", ".join(f"{count:,} {name}" for name, count in validated.items())))
    for split, counts in summary.get("tasks", {}).items():
        facts.append((f"{split} tasks", f"{counts['tasks']:,} of {counts['rows']:,} rows"))
    if "model_version" in summary:
        facts.append(("model", summary["model_version"]))
    if "promoted" in summary:
        facts.append(("gate", "promoted" if summary["promoted"] else "refused"))
        facts += [("", reason) for reason in summary["reasons"]]
    if embeddings := summary.get("embeddings"):
        facts.append(
            ("embeddings", ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in embeddings.items()))
        )
    if release := summary.get("release"):
        facts.append(("release", f"{release['name']}, model {release['model_version']}, as of {release['as_of']}"))
        facts.append(("tasks served", f"{release['tasks']:,}"))
        facts += [(f"verified: {name.replace('_', ' ')}", f"{value}") for name, value in release["verified"].items()]
    if monitoring := summary.get("monitoring"):
        alarms = ", ".join(alarm["name"] for alarm in monitoring["alarms"])
        facts.append(("monitoring", "healthy" if monitoring["healthy"] else f"alarms: {alarms}"))
    for conclusion in summary.get("conclusions", []):
        facts.append(("conclusion", str(conclusion)))
    return facts


def figures(decision: Manifest) -> dict[str, dict[str, dict[str, float | None]]]:
    """slice → algorithm → AUC and GAUC, for all rows and for rows of tasks with samples to adapt on."""
    found: dict[str, dict[str, dict[str, float | None]]] = {"all": {}, "with_support": {}}
    for row in decision.details["table"]:
        if row["slice"] in found:
            found[row["slice"]][row["algorithm"]] = {name: row[name] for name in ("auc", "gauc")}
    return found


def _pages(uri: str) -> list[str]:
    """The HTML pages of an output: paths where they are on this machine, URIs elsewhere."""
    return [str(local_path(page)) if is_local(page) else page for page in support.pages(uri)]
