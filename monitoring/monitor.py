"""The monitoring stage: is what is served fresh, whole and of one model, and does the world still look as in training?

An alarm does not raise: monitoring reports, and whoever reads the report decides.
"""

import json
import logging
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from limaml.config import Application
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.tasks import TaskSet
from limaml.errors import ConfigError, DataError
from limaml.manifest import Manifest, fingerprint, read_manifest
from limaml.model import Model, load_model
from limaml.online.canary import Canary, compare_with_store, scores_as_served
from limaml.online.overlay import open_generation
from limaml.online.store import Reader, open_store
from limaml.stage import Stage, entries
from limaml.windows import day_start
from monitoring import drift, staleness
from monitoring.checks import Check, alarms, at_most, missing
from monitoring.drift import Drift
from monitoring.embedding_drift import EmbeddingSummary, compare, embedding_checks
from monitoring.page import monitoring_page
from monitoring.sample import TaskSample
from monitoring.served import Coverage, scores_at_training

log = logging.getLogger(__name__)

PAGE = "monitoring.html"
# Sorts after our own page, which is the one to open first.
EVIDENTLY = "monitoring_evidently.html"
RESULT = "monitoring.json"

_TASKS_PER_BATCH = 4096


def monitor(
    recent: str,
    reference: str,
    embeddings: str,
    previous_embeddings: str | None,
    model: str,
    store_url: str,
    output: str,
    application: Application,
    as_of: date,
    now: datetime | None = None,
) -> Manifest:
    """Write `monitoring.json`, `monitoring.html` and Evidently's page on a day's release.

    Args:
        recent: task set the embeddings were made from.
        reference: task set the model was trained on.
        embeddings: the generation that should be served.
        previous_embeddings: the one before it; None on the first day.
        model: the model that made them.
        store_url: the online store whose current release is looked at.
        output: URI of the directory to write.
        application: the configuration; its `monitoring` section holds the thresholds.
        as_of: the logical date.
        now: the instant ages are measured at, UTC; None is the start of `as_of`, so that a rerun gives the same result.

    Returns:
        Manifest "monitoring"; details: `healthy`, `alarms` (name, value, threshold, what_to_do), and every figure.

    Raises:
        ConfigError: the model does not fit the configuration, or `now` is naive.
        DataError: an input is missing, of another kind, or `embeddings` were not made from `recent` by `model`.
        IntegrityError: a file differs from its manifest.
        StoreError: the store can't be read.
    """
    if now is not None and now.tzinfo is None:
        raise ConfigError(f"now {now}: give it a time zone")
    store = open_store(store_url, application.name)
    release = store.current()
    stage = Stage(
        "monitoring",
        output,
        application,
        ("monitoring", "features"),
        {
            "recent": read_manifest(recent, "task_set").digest,
            "reference": read_manifest(reference, "task_set").digest,
            "embeddings": read_manifest(embeddings, "embeddings").digest,
            "previous": read_manifest(previous_embeddings, "embeddings").digest if previous_embeddings else None,
            "model": read_manifest(model, "model").digest,
            "release": None if release is None else [release.number, release.generation],
            "as_of": as_of.isoformat(),
            "now": None if now is None else now.isoformat(),
        },
    )
    moment = now or day_start(as_of, application.windows.utc_offset_hours)

    def build(directory: Path) -> Manifest:
        network = load_model(model, application)
        look = _Look(application, network, TaskSet.open(recent), TaskSet.open(reference), EmbeddingFiles(embeddings))
        look.check_lineage()
        before = _summary(EmbeddingFiles(previous_embeddings), network) if previous_embeddings else None
        now_embeddings = _summary(look.files, network)
        assert now_embeddings is not None
        effects = compare(before, now_embeddings) if before else None
        limits = application.monitoring
        checks: list[Check] = []
        if release is None:
            checks.append(missing("release", "Current release", "nothing is published: run the train pipeline"))
            features, figures = look.drift(None, directory)
        elif release.as_of > as_of:
            # A day made up for later: what serves is of a later day, and says nothing about this one.
            features, figures = look.drift(None, directory)
        else:
            digest = look.files.manifest.digest
            checks += staleness.release_checks(release, network.version, network.digest, digest)
            checks += staleness.age_checks(release, moment, limits)
            with closing(open_generation(store, release.generation)) as reader:
                features, figures = look.drift(reader, directory)
            served = figures["served"]
            checks.append(staleness.coverage_check(served["found_tasks"], served["active_tasks"], limits))
            checks.append(staleness.canary_check(figures["canary"]))
        checks += embedding_checks(effects, now_embeddings.zero_share, limits.embedding_shift)
        checks += _drift_checks(features, figures["score"], application)
        details = {
            "healthy": not alarms(checks),
            "alarms": alarms(checks),
            "checks": [asdict(check) for check in checks],
            "as_of": as_of.isoformat(),
            "now": moment.isoformat(),
            "release": None if release is None else release.model_dump(mode="json"),
            "model_version": network.version,
            "served": figures["served"],
            "canary": asdict(figures["canary"]),
            "features": {each.name: {"psi": each.psi, "sampling": each.sampling} for each in features},
            "scores": figures["scores"],
            "embeddings": {
                "tasks": now_embeddings.count,
                "mean_norm": now_embeddings.mean_norm,
                "spread": now_embeddings.spread,
                "zero_ratio": now_embeddings.zero_share,
                "against_previous": effects,
            },
        }
        (directory / RESULT).write_text(json.dumps(details, indent=2, sort_keys=True) + "\n")
        page = monitoring_page(application, details, checks, features, now_embeddings, before)
        (directory / PAGE).write_text(page.html())
        for check in checks:
            if not check.passed:
                log.warning("alarm: %s is %s, should be %s", check.title, check.shown, check.allowed)
        counts = {
            "checks": len(checks),
            "alarms": len(details["alarms"]),
            "tasks": look.recent.tasks,
            "rows": look.recent.rows,
            "reference_rows": look.reference.rows,
        }
        return stage.manifest(entries(directory), counts, details)

    return stage.run(build)


@dataclass(frozen=True)
class _Look:
    """The opened inputs of one run."""

    application: Application
    model: Model
    recent: TaskSet
    reference: TaskSet
    files: EmbeddingFiles

    def check_lineage(self) -> None:
        """Refuse to compare what does not belong together: figures would be true and mean nothing."""
        made = self.files.manifest
        if made.details["model_digest"] != self.model.digest:
            raise DataError(
                f"{self.files.uri}: made by model {made.details['model_version']}, not by the files of "
                f"{self.model.version} given here; give the model that made them"
            )
        if made.inputs.get("tasks") != fingerprint(value=self.recent.manifest.digest):
            raise DataError(
                f"{self.files.uri}: not made from {self.recent.uri}; give the task set that the embeddings were made "
                "from, or generate them again"
            )

    def drift(self, reader: Reader | None, directory: Path) -> tuple[list[Drift], dict[str, Any]]:
        """Feature drift over all rows, what the store answers for every active task, and scores on a sample.

        The figures: `served`, `canary`, `score` (a Drift or None), `scores` (their means) .
        """
        columns = drift.feature_columns(self.application.features)
        sample_rows = self.application.monitoring.sample_rows
        reference_sample, recent_sample = TaskSample(sample_rows), TaskSample(sample_rows)
        for batch in self.reference.batches(_TASKS_PER_BATCH):
            reference_sample.add(batch)
        assert reference_sample.tasks is not None, "a task set has tasks"
        histograms = drift.Histograms(columns, reference_sample.tasks)
        before, now = histograms.empty(), histograms.empty()
        for batch in self.reference.batches(_TASKS_PER_BATCH):
            histograms.add(before, batch)
        served = Coverage()
        for batch in self.recent.batches(_TASKS_PER_BATCH):
            histograms.add(now, batch)
            recent_sample.add(batch)
            served.add(batch, None if reader is None else reader.get(batch.task_ids))
        features = histograms.drifts(before, now)
        figures: dict[str, Any] = {"served": served.figures, "canary": Canary(0, 0, 0.0)}
        figures |= {"score": None, "scores": None}
        if reader is None:
            return features, figures
        recent, reference = recent_sample.tasks, reference_sample.tasks
        assert recent is not None, "a task set has tasks"
        made = self.files.manifest.details
        how = (made["finetune_steps"], made["pooling"])
        figures["canary"] = compare_with_store(self.model, recent, reader, *how)
        score, _ = scores_as_served(self.model, recent, reader)
        usual = scores_at_training(self.model, reference, *how)
        tasks = [drift.effective_tasks(batch.lengths) for batch in (reference, recent)]
        figures["score"] = drift.score_drift(usual, score, *tasks)
        figures["scores"] = {
            "psi": figures["score"].psi,
            "sampling": figures["score"].sampling,
            "mean_recent": float(score.mean()),
            "mean_reference": float(usual.mean()),
            "label_rate_recent": float(recent.label.mean()),
            "label_rate_reference": float(reference.label.mean()),
        }
        threshold = self.application.monitoring.feature_psi
        moved = sorted(zip(features, columns, strict=True), key=lambda pair: -pair[0].excess(threshold))
        shown = [column for _, column in moved[: drift.REPORTED_COLUMNS]]
        drift.write_evidently(directory / EVIDENTLY, shown, (reference, usual), (recent, score), threshold)
        return features, figures


def _summary(files: EmbeddingFiles, model: Model) -> EmbeddingSummary | None:
    """Moments of a generation; None where another model made it, since its coordinates mean something else."""
    if files.manifest.details["model_digest"] != model.digest:
        log.info("embeddings of the day before are of another model: not compared")
        return None
    summary = EmbeddingSummary()
    for shard in files.shards():
        summary.add(shard.task_ids, shard.vectors)
    return summary


def _drift_checks(features: list[Drift], score: Drift | None, application: Application) -> list[Check]:
    limits = application.monitoring
    upstream = "look at what fills this column upstream; if the world has moved for good, train again"
    retrain = "compare with the alarms on features and embeddings; without any, train again"
    checks = []
    if score is not None:
        allowed = score.limit(limits.prediction_psi)
        checks.append(at_most("prediction_psi", "PSI of the scores", score.psi, allowed, retrain))
    for each in features:
        name, title = f"feature_psi:{each.name}", f"PSI of {each.name}"
        checks.append(at_most(name, title, each.psi, each.limit(limits.feature_psi), upstream))
    return checks
