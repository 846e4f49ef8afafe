"""The gate: may this pair (model, generated embeddings) replace the champion?

An un-adapted LiMAML network is worse than its baseline (the paper's Table 3: −0.43 %), so what is judged is the pair
that would be served, on test rows after everything either was made from.
"""

import json
import logging
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from limaml import storage
from limaml.config import Application, Gate
from limaml.data import layout
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.member_cohorts import cohorts_of_tasks
from limaml.data.tasks import TaskSet
from limaml.errors import GateRefused, IntegrityError
from limaml.manifest import Manifest, read_manifest
from limaml.model import load_model, schema_changes
from limaml.stage import Stage, entries
from limaml.training.evaluation import CHAMPION, INTERCEPT, LIMAML, VANILLA, Scored, score_test, tune_controls
from limaml.training.gate_page import decision_page, roc_points
from limaml.training.metrics import relative_gain
from limaml.training.slices import ALL, WITH_SUPPORT, Figure, figures
from limaml.training.truth import truth_of
from limaml.windows import TaskSplit

log = logging.getLogger(__name__)

PAGE = "decision.html"


@dataclass(frozen=True)
class Check:
    """One condition of promotion: what was measured, what is asked, and whether it holds."""

    name: str
    value: float | None
    threshold: float
    passed: bool
    text: str


def judge(
    model: str,
    embeddings: str,
    validation: str,
    test: str,
    output: str,
    application: Application,
    tracking_uri: str,
    as_of: date,
    data: str | None = None,
    raise_on_refusal: bool = True,
) -> Manifest:
    """Judge a pair, write the decision with its reasons, and move MLflow's aliases.

    Args:
        model, embeddings: URIs of the pair; the embeddings must be this model's.
        validation, test: URIs of the task sets; controls are tuned on the first, everything is scored on the second.
        output: where the decision is written.
        application: the configuration.
        tracking_uri: MLflow's; its `champion` alias names the model to beat, where it was trained on the same schema.
        as_of: the run's logical date.
        data: data root with `truth/`, `visits/` and `signups/`, each used where it exists.
        raise_on_refusal: end a refusal with GateRefused, after everything is written.

    Raises:
        GateRefused: not promoted; the champion is unchanged.
        IntegrityError: the embeddings were made by another model.
    """
    from limaml.training.registry import CHAMPION as CHAMPION_ALIAS
    from limaml.training.registry import PREVIOUS, Registry

    challenger = load_model(model, application)
    files = EmbeddingFiles(embeddings)
    if files.manifest.details["model_digest"] != challenger.digest:
        raise IntegrityError(
            f"{embeddings} were made by model {files.manifest.details['model_version']}, not by {challenger.version}: "
            "generate them again"
        )
    validation_set, test_set = TaskSet.open(validation), TaskSet.open(test)
    split = TaskSplit.model_validate(test_set.manifest.details["split"])
    registry = Registry(tracking_uri, application.name)
    run_id = registry.run_of(_model_fingerprint(model))
    version = registry.register(challenger.version, model, run_id)
    incumbent = registry.by_alias(CHAMPION_ALIAS)
    if incumbent is not None and incumbent.model_version == challenger.version:
        # Judged again after its promotion, a model meets the one it replaced then.
        incumbent = registry.by_alias(PREVIOUS)
    champion = None if incumbent is None else load_model(incumbent.uri)
    inputs = {
        "champion": None if champion is None else champion.digest,
        "data": _listing(data),
        "model": challenger.digest,
        "embeddings": files.manifest.digest,
        "validation": validation_set.manifest.digest,
        "test": test_set.manifest.digest,
    }
    stage = Stage("decision", output, application, ("gate", "embeddings", "store"), inputs)

    def build(directory: Path) -> Manifest:
        vanilla = load_model(model, application, algorithm="vanilla")
        tuned = tune_controls(vanilla, validation_set, application.embeddings.finetune_steps)
        comparable = None if champion is None or schema_changes(champion.application, application) else champion
        truth = truth_of(application, data, split)
        scored = score_test(challenger, vanilla, files, test_set, tuned, application.store.dtype, comparable, truth)
        cohorts = cohorts_of_tasks(application, scored.task_ids, data, split.boundary_time or split.window.start_time)
        table = figures(scored, cohorts)
        checks = _checks(table, scored, application.gate)
        if champion is not None and comparable is None:
            text = f"champion {champion.version} not compared: trained on other task keys or features"
            checks.append(Check("the champion", None, -application.gate.maximum_drop_to_champion, True, text))
        promoted = all(check.passed for check in checks)
        details = {
            "promoted": promoted,
            "model_version": challenger.version,
            "embeddings_digest": files.manifest.digest,
            "champion": comparable.version if comparable is not None else None,
            "as_of": as_of.isoformat(),
            "checks": [vars(check) for check in checks],
            "reasons": [check.text for check in checks if not check.passed] or [check.text for check in checks],
            "tuned": vars(tuned),
            "table": [
                {"slice": f.slice, "algorithm": f.algorithm, "gain": f.gain, **f.metrics.as_dict()} for f in table
            ],
            "roc": {name: roc_points(scored.label, scored.scores[name]) for name in (VANILLA, LIMAML)},
        }
        page = decision_page(application, challenger.version, promoted, checks, table, scored)
        (directory / PAGE).write_text(page.html())
        (directory / "decision.json").write_text(json.dumps(details, indent=1) + "\n")
        counts = {"rows": len(scored.label), "tasks": test_set.tasks, "embeddings": files.tasks}
        return stage.manifest(entries(directory), counts, details)

    manifest = stage.run(build)
    details = manifest.details
    measured = {f"test.{f['algorithm']}.{f['slice']}.auc": f["auc"] for f in details["table"] if f["auc"] is not None}
    decision = json.dumps({name: details[name] for name in ("promoted", "reasons", "checks", "table")}, indent=1)
    registry.decide(version, details["promoted"], measured, decision)
    verdict = "promoted" if details["promoted"] else "refused"
    log.info("gate: model %s %s: %s", challenger.version, verdict, "; ".join(details["reasons"]))
    if raise_on_refusal and not details["promoted"]:
        raise GateRefused(
            f"model {challenger.version} stays a challenger: {'; '.join(details['reasons'])}; see {output}/{PAGE}"
        )
    return manifest


def _model_fingerprint(model: str) -> str:
    return read_manifest(model, kind="model").fingerprint


def _listing(data: str | None) -> list[list[Any]]:
    """What lies in the side logs that figures are sliced by: paths below the data root, and sizes."""
    if data is None:
        return []
    base = len(storage.filesystem(data)[1])
    return [
        [info.path[base:], info.size]
        for folder in (layout.TRUTH, layout.VISITS, layout.SIGNUPS)
        for info in storage.list_files(storage.join(data, folder), ".parquet")
    ]


def _checks(table: list[Figure], scored: Scored, gate: Gate) -> list[Check]:
    found = {(figure.slice, figure.algorithm): figure for figure in table}
    vanilla, limaml = found[ALL, VANILLA].metrics, found[ALL, LIMAML].metrics
    rows = len(scored.label)
    checks = [
        Check("test rows", rows, gate.minimum_rows, rows >= gate.minimum_rows, f"{rows:,} test rows"),
        _gain("vanilla, all rows", limaml.auc, vanilla.auc, gate.minimum_gain_over_vanilla),
    ]
    with_support = found[WITH_SUPPORT, LIMAML].metrics.auc, found[WITH_SUPPORT, INTERCEPT].metrics.auc
    if np.any(scored.samples > 0):
        checks.append(
            _gain("one intercept per task, rows with support", *with_support, gate.minimum_gain_over_intercept)
        )
    if (ALL, CHAMPION) in found:
        champion = found[ALL, CHAMPION].metrics.auc
        checks.append(_gain("the champion, all rows", limaml.auc, champion, -gate.maximum_drop_to_champion))
    error = None if limaml.calibration is None else abs(limaml.calibration - 1)
    allowed = gate.maximum_calibration_error
    text = (
        "no positive test rows to calibrate on" if error is None else f"mean score off by {error:.1%} of the label rate"
    )
    checks.append(Check("calibration", error, allowed, error is not None and error <= allowed, text))
    return checks


def _gain(against: str, value: float | None, base: float | None, threshold: float) -> Check:
    gain = relative_gain(value, base)
    if gain is None:
        return Check(f"AUC against {against}", None, threshold, False, f"no AUC against {against}: one class only")
    text = f"AUC {value:.4f} is {gain:+.2%} against {against} ({base:.4f}); asked for {threshold:+.2%}"
    return Check(f"AUC against {against}", gain, threshold, gain >= threshold, text)
