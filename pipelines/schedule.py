"""An application's recurring runs: what its YAML says, made true in Kubeflow.

A recurring run can't be changed in place, so its name ends in a hash of everything it is made of, and a change is a
new one. The new one is there, enabled, before the old one is disabled: dying in between leaves two, which the next
apply mends and the lease of a date keeps apart, and never none, which nobody would see before the embeddings are
stale. A recurring run is deleted only when none of its runs goes on, since Kubernetes would take those along.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from limaml.cluster_sections import Schedule
from limaml.config import Application
from limaml.errors import KubeflowError
from limaml.manifest import canonical_json
from pipelines.compile import pipeline_name
from pipelines.cron import next_time
from pipelines.kubeflow import Kubeflow
from pipelines.kubeflow_errors import Refusal
from pipelines.submit import ENDED
from pipelines.uploads import Compiled, compiled, experiment, upload

log = logging.getLogger(__name__)

KINDS = tuple(Schedule.model_fields)
# How often it is looked again whether Kubeflow agrees, while others apply at the same time.
ROUNDS = 6


@dataclass(frozen=True)
class Wanted:
    """The recurring run that an application's YAML asks for."""

    text: Compiled
    cron: str
    enabled: bool
    parameters: dict[str, str]
    service_account: str

    @property
    def name(self) -> str:
        """`ptap-refresh-` and 8 digits over pipeline, parameters and cron: equal names are equal recurring runs."""
        made_of = [self.text.version, self.cron, self.parameters, self.service_account]
        return f"{self.text.name}-{hashlib.sha256(canonical_json({'made_of': made_of})).hexdigest()[:8]}"


@dataclass(frozen=True)
class Recurring:
    """A recurring run that Kubeflow holds."""

    identity: str
    name: str
    created_at: str
    enabled: bool
    cron: str

    @property
    def age(self) -> tuple[str, str]:
        """Sorts the oldest first, the same for everybody who looks."""
        return self.created_at, self.identity


def wanted(application: Application, kind: str, given: dict[str, str], image: str = "") -> Wanted | None:
    """What the YAML asks for a kind of pipeline; None where it asks for no schedule.

    Args:
        application: whose.
        kind: train, refresh or monitor.
        given: parameters of its runs; empty ones are left to the pipeline's defaults.
        image: as for `uploads.compiled`.

    Raises:
        ConfigError: parameters the pipeline does not take, or no workspace.
    """
    timetable = getattr(application.schedule, kind)
    if timetable is None:
        return None
    text = compiled(kind, application, image)
    parameters = text.arguments(given | {"run_date": _run_date(application)})
    return Wanted(text, timetable.cron, timetable.enabled, parameters, application.cluster.service_account)


def _run_date(application: Application) -> str:
    """Kubeflow writes the scheduled time here, in UTC; where logical days begin at another hour, with the hour."""
    hour = "T15:04:05" if application.windows.utc_offset_hours else ""
    return f"[[ScheduledTime.2006-01-02{hour}]]"


def recurring(kubeflow: Kubeflow, application: str, kind: str) -> list[Recurring]:
    """An application's recurring runs of a kind, oldest first."""
    prefix = pipeline_name(kind, application)
    listing = kubeflow.recurring_runs.recurring_run_service_list_recurring_runs
    given: dict[str, Any] = {"filter": _filter("display_name", 9, f"{prefix}-"), "namespace": kubeflow.namespace}
    found = [
        Recurring(
            identity=each["recurring_run_id"],
            name=each["display_name"],
            created_at=str(each.get("created_at") or ""),
            enabled=(each.get("status") or each.get("mode")) in ("ENABLED", "ENABLE"),
            cron=((each.get("trigger") or {}).get("cron_schedule") or {}).get("cron") or "",
        )
        for each in kubeflow.each("list recurring runs", listing, "recurringRuns", **given)
        if re.fullmatch(re.escape(prefix) + "-[0-9a-f]{8}", each.get("display_name") or "")
    ]
    return sorted(found, key=lambda each: each.age)


def apply(kubeflow: Kubeflow, application: Application, given: dict[str, str], image: str = "") -> list[dict[str, Any]]:
    """Make Kubeflow's recurring runs what the YAML says: for each kind, what was done. Safe to repeat, and at once.

    Raises:
        ConfigError: parameters that the pipelines don't take, or no workspace; nothing is changed then.
        KubeflowError: Kubeflow can't be asked or refuses.
    """
    plans = {kind: wanted(application, kind, given, image) for kind in KINDS}
    return [_converge(kubeflow, application, kind, plan) for kind, plan in plans.items()]


def delete(kubeflow: Kubeflow, application: Application, kinds: tuple[str, ...] = KINDS) -> list[dict[str, Any]]:
    """Remove recurring runs: for each kind, what was done."""
    return [_converge(kubeflow, application, kind, None) for kind in kinds]


def pause(kubeflow: Kubeflow, application: Application, kinds: tuple[str, ...] = KINDS) -> list[dict[str, Any]]:
    """Start no new runs until somebody resumes or applies; for each kind, what was done."""
    return [_switch(kubeflow, kind, recurring(kubeflow, application.name, kind), on=False) for kind in kinds]


def resume(
    kubeflow: Kubeflow,
    application: Application,
    given: dict[str, str],
    image: str = "",
    kinds: tuple[str, ...] = KINDS,
) -> list[dict[str, Any]]:
    """Let recurring runs go on that are what the YAML says; for each kind, what was done.

    Raises:
        KubeflowError: one is not what the YAML says.
    """
    done = []
    for kind in kinds:
        plan, found = wanted(application, kind, given, image), recurring(kubeflow, application.name, kind)
        fitting = [each for each in found if plan and each.name == plan.name]
        if found and not fitting:
            raise KubeflowError(
                f"{found[-1].name} at {kubeflow.endpoint} is not what the YAML of {application.name} says: "
                "`limaml schedule apply` replaces it"
            )
        done.append(_switch(kubeflow, kind, fitting[:1], on=True))
    return done


def status(
    kubeflow: Kubeflow, application: Application, given: dict[str, str], image: str = "", now: datetime | None = None
) -> list[dict[str, Any]]:
    """For each kind: whether Kubeflow agrees with the YAML, when it runs next, and how the last run went."""
    rows = []
    for kind in KINDS:
        plan, found = wanted(application, kind, given, image), recurring(kubeflow, application.name, kind)
        fitting = [each for each in found if plan and each.name == plan.name]
        live = [each for each in found if each.enabled] or fitting
        row: dict[str, Any] = {"kind": kind, "state": _state(plan, fitting, found)}
        row |= {"name": plan.name if plan else None, "cron": plan.cron if plan else None}
        row["found"] = [{"name": each.name, "enabled": each.enabled, "cron": each.cron} for each in found]
        times = [next_time(each.cron, now or datetime.now(UTC)) for each in found if each.enabled and each.cron]
        row["next_run"] = min((moment.isoformat() for moment in times if moment), default=None)
        row["last_run"] = _last_run(kubeflow, (live or found)[-1].identity) if found else None
        rows.append(row)
    return rows


def _state(plan: Wanted | None, fitting: list[Recurring], found: list[Recurring]) -> str:
    """`in sync`, `differs`, `absent` (wanted, not there) or `none` (neither); disabled leftovers don't count."""
    others = [each for each in found if each not in fitting[:1] and each.enabled]
    if plan is None:
        return "differs" if others else "none"
    if not fitting:
        return "differs" if others else "absent"
    return "differs" if others or fitting[0].enabled != plan.enabled else "in sync"


def _converge(kubeflow: Kubeflow, application: Application, kind: str, plan: Wanted | None) -> dict[str, Any]:
    """Look, act, look again, until Kubeflow agrees; two that do so at once end with the same recurring run.

    Of equal ones all keep the oldest. Others are removed if they were there at the first look or are older than ours:
    one that appears later is the work of somebody who applied another YAML after us, and theirs to keep.
    """
    known: set[str] | None = None
    actions: list[str] = []
    removed: list[str] = []
    for _ in range(ROUNDS):
        found = recurring(kubeflow, application.name, kind)
        known = {each.identity for each in found} if known is None else known
        equal = [each for each in found if plan is not None and each.name == plan.name]
        others = [each for each in found if each not in equal]
        if plan is not None and not equal:
            if "created" in actions and any(each.identity not in known for each in others):
                theirs = others[-1].name
                raise KubeflowError(f"{plan.name} was replaced by {theirs} meanwhile: somebody applied another YAML")
            _create(kubeflow, application, kind, plan)
            actions.append("created")
            continue
        keep = equal[0] if equal else None
        if keep and plan and keep.enabled != plan.enabled:
            _enable(kubeflow, keep, plan.enabled)
            actions.append("resumed" if plan.enabled else "paused")
        old = equal[1:] + [each for each in others if each.identity in known or (keep and each.age < keep.age)]
        waiting = [each for each in old if not _retire(kubeflow, each)]
        removed += [each.name for each in old if each not in waiting]
        if len(waiting) == len(old):
            break
    else:
        raise KubeflowError(f"the schedules of {application.name} change all the time: who else applies them?")
    return {
        "kind": kind,
        "action": _summary(actions, removed),
        "name": plan.name if plan else None,
        "recurring_run_id": keep.identity if keep else None,
        "enabled": plan.enabled if plan else None,
        "removed": removed,
        "waiting": [each.name for each in waiting],
    }


def _summary(actions: list[str], gone: list[str]) -> str:
    """What was done, in one word."""
    if "created" in actions:
        return "replaced" if gone else "created"
    return actions[0] if actions else "removed" if gone else "kept"


def _create(kubeflow: Kubeflow, application: Application, kind: str, plan: Wanted) -> None:
    version = upload(kubeflow, plan.text)
    body: dict[str, Any] = {
        "display_name": plan.name,
        "description": (
            f"Made by `limaml schedule apply` from the YAML of application {application.name}: {kind} at cron "
            f"'{plan.cron}' (UTC), pipeline version {version.version}, configuration {application.config_hash[:12]}. "
            "Change the YAML and apply it again; what is changed here by hand is undone then."
        ),
        "experiment_id": experiment(kubeflow, application),
        "pipeline_version_reference": version.reference,
        "runtime_config": {"parameters": plan.parameters},
        "trigger": {"cron_schedule": {"cron": plan.cron}},
        "mode": "ENABLE" if plan.enabled else "DISABLE",
        "max_concurrency": "1",
        "no_catchup": True,
    }
    if plan.service_account:
        body["service_account"] = plan.service_account
    request = kubeflow.recurring_runs.recurring_run_service_create_recurring_run
    kubeflow.call(f"create recurring run {plan.name}", request, safe=False, recurring_run=body)
    log.info("created recurring run %s: %s", plan.name, plan.cron)


def _switch(kubeflow: Kubeflow, kind: str, found: list[Recurring], on: bool) -> dict[str, Any]:
    changed = [each for each in found if each.enabled != on]
    for each in changed:
        _enable(kubeflow, each, on)
    action = ("resumed" if on else "paused") if changed else "kept"
    return {"kind": kind, "action": action, "changed": [each.name for each in changed]}


def _enable(kubeflow: Kubeflow, each: Recurring, on: bool) -> None:
    service = kubeflow.recurring_runs
    verb = "enable" if on else "disable"
    request = getattr(service, f"recurring_run_service_{verb}_recurring_run")
    kubeflow.call(f"{verb} recurring run {each.name}", request, recurring_run_id=each.identity)
    log.info("%sd recurring run %s", verb, each.name)


def _retire(kubeflow: Kubeflow, each: Recurring) -> bool:
    """Disable a recurring run and delete it; False where one of its runs goes on, so that it stays, disabled."""
    try:
        if each.enabled:
            _enable(kubeflow, each, on=False)
        if runs := [run["run_id"] for run in _runs(kubeflow, each.identity) if str(run.get("state")) not in ENDED]:
            log.warning("%s is disabled, and stays until run %s has ended: repeat this then", each.name, runs[0])
            return False
        request = kubeflow.recurring_runs.recurring_run_service_delete_recurring_run
        given: dict[str, Any] = {"recurring_run_id": each.identity, "propagation_policy": "ORPHAN"}
        kubeflow.call(f"delete recurring run {each.name}", request, **given)
        log.info("deleted recurring run %s", each.name)
    except Refusal as refusal:
        if refusal.status != 404:  # somebody else was faster
            raise
    return True


def _runs(kubeflow: Kubeflow, identity: str) -> Iterator[dict[str, Any]]:
    """Runs of a recurring run, newest first, asked for page by page."""
    given: dict[str, Any] = {"filter": _filter("recurring_run_id", 1, identity), "namespace": kubeflow.namespace}
    listing = kubeflow.runs.run_service_list_runs
    found = kubeflow.each("list runs", listing, "runs", sort_by="created_at desc", **given)
    return (run for run in found if run.get("recurring_run_id") == identity)


def _last_run(kubeflow: Kubeflow, identity: str) -> dict[str, Any] | None:
    run = next(_runs(kubeflow, identity), None)
    if run is None:
        return None
    link = kubeflow.link("runs", "details", run["run_id"])
    when = run.get("scheduled_at") or run.get("created_at")
    return {"run_id": run["run_id"], "state": run.get("state"), "scheduled_at": when, "link": link}


def _filter(key: str, operation: int, value: str) -> str:
    return canonical_json({"predicates": [{"operation": operation, "key": key, "stringValue": value}]}).decode()
