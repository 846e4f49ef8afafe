"""The task-definition advisor: which key tuple is worth a task, before anything is trained.

A features-only model is fitted on the earliest rows, per-task effects on the middle ones, and the last rows decide.
Cheap stand-ins for LiMAML (an intercept, and slopes over a few directions of item features) show whether there is
anything to adapt to; they bound what a trained network reaches neither from above nor from below.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from limaml.config import Application
from limaml.console import progress
from limaml.data.layout import refuse_foreign
from limaml.errors import ConfigError, DataError
from limaml.manifest import Manifest
from limaml.stage import Stage, entries
from limaml.training.advisor_baseline import MINIMUM_DAYS, Parts, features_only
from limaml.training.advisor_candidates import (
    FEW_VALUES,
    Candidate,
    cost,
    given,
    proposed,
    prune,
    sizes,
)
from limaml.training.advisor_options import Options
from limaml.training.advisor_page import page
from limaml.training.advisor_sample import Log, Sample, open_log, read_sample
from limaml.training.advisor_signal import Ground, Measured, measure, refine
from limaml.training.advisor_words import Advice, CandidateAdvice, Verdict, conclude, recommend

log = logging.getLogger(__name__)

KIND = "advice"
PAGE, JSON = "advice.html", "advice.json"
CONFIDENCE = 0.95
DEFAULTS = Options()
_EPOCH = date(1970, 1, 1)
_USES = {
    "fit": "fit the features-only model",
    "stop": "stop its training",
    "early": "try effects",
    "late": "choose their shrinkage",
    "test": "judge them",
}


def advise(
    data: str, application: Application, keys: Sequence[Sequence[str]] = (), options: Options = DEFAULTS
) -> Advice:
    """Advise on the task definition of a data root.

    Args:
        data: URI of the data root.
        application: its features are what the features-only model sees.
        keys: candidate key tuples; none: proposed from the application.
        options: how to look, and what counts.

    Raises:
        ConfigError: a key that is not in the log, or can't be one.
        DataError: columns missing, too many unusable rows, too few days, or a part of the log with one class only.
    """
    source = open_log(data, application)
    candidates = given(application, source.columns, keys) if keys else proposed(application, source.columns)
    sample = _read(source, application, candidates, bool(keys), options)
    if not keys:
        candidates = prune(candidates, application, sample)
    return advise_sample(sample, application, candidates, source.rows, options)


def advise_sample(
    sample: Sample, application: Application, candidates: Sequence[Candidate], rows: int, options: Options = DEFAULTS
) -> Advice:
    """Advise on a sample that was read before; `rows` is the size of the log it is from.

    Raises:
        DataError: too few days, or a part of the log with one class only.
    """
    days = len(np.unique(sample.day))
    if days < MINIMUM_DAYS:
        raise DataError(f"{days} days with interactions: advice needs at least {MINIMUM_DAYS}; give a longer log")
    parts = Parts.of(sample.day)
    _check_classes(sample, parts)
    ordered = sorted(candidates, key=lambda one: len(one.keys))
    pairs = [(finer, coarser) for finer in ordered for coarser in ordered if _comparable(sample, finer, coarser)]
    # Of each candidate the whole gain and its slopes are judged, and every refinement.
    level = 1 - (1 - CONFIDENCE) / (2 * len(ordered) + len(pairs))
    kinds = _kinds(sample, ordered)
    with progress() as bar:
        bar_task = bar.add_task("advise", total=1 + len(ordered) + len(pairs), note="features alone")
        logit = features_only(sample, parts, application, kinds, options.seed)
        bar.advance(bar_task)
        ground = Ground(application, sample, parts, logit, kinds, level)
        measured: dict[Candidate, Measured] = {}
        found: dict[tuple[str, ...], CandidateAdvice] = {}
        for candidate in ordered:
            bar.update(bar_task, note=candidate.name)
            one = measured[candidate] = measure(ground, candidate)
            bar.advance(bar_task)
            refinements = []
            for coarser in (coarser for finer, coarser in pairs if finer is candidate):
                refinements.append(refine(ground, one, measured[coarser]))
                bar.advance(bar_task)
            standing: dict[tuple[str, ...], Verdict] = {keys: advice.verdict for keys, advice in found.items()}
            verdict, text = conclude(one.signal, refinements, standing, options.minimum_gain)
            task = one.task[one.rows]
            found[candidate.keys] = CandidateAdvice(
                keys=candidate.keys,
                sizes=sizes(task, sample.fraction),
                cost=cost(task, sample.day[one.rows], sample.fraction, application, options),
                signal=one.signal,
                refinements=tuple(refinements),
                verdict=verdict,
                text=text,
            )
            log.info("advise: %s: %s", candidate.name, verdict)
    recommended, recommendation = recommend(list(found.values()))
    return Advice(
        application=application.name,
        title=application.title,
        recommended=recommended,
        recommendation=recommendation,
        minimum_gain=options.minimum_gain,
        confidence=CONFIDENCE,
        interval_level=level,
        rows=rows,
        skipped_rows=sample.skipped,
        sampled_fraction=sample.fraction,
        features_until=_day(parts.fit_until),
        effects_until=_day(parts.middle_until),
        test_until=_day(parts.test_until),
        gap_days=parts.gap_days,
        seed=options.seed,
        candidates=tuple(found.values()),
    )


def write_advice(
    data: str, output: str, application: Application, keys: Sequence[Sequence[str]] = (), options: Options = DEFAULTS
) -> Manifest:
    """Advise, and write `advice.json` and the page `advice.html`; the arguments are those of `advise`.

    Raises:
        ConfigError: the output holds something else.
        ConfigError, DataError: as `advise`.
    """
    refuse_foreign(output, KIND)
    listed = [[file.name, file.bytes] for file in open_log(data, application).files]
    inputs = {"files": listed, "keys": [list(one) for one in keys], "options": asdict(options)}
    read = ("task", "data", "features", "windows", "validation", "network", "training", "store")
    stage = Stage(KIND, output, application, read, inputs)

    def build(directory: Path) -> Manifest:
        advice = advise(data, application, keys, options)
        (directory / JSON).write_text(advice.model_dump_json(indent=1) + "\n")
        (directory / PAGE).write_text(page(advice).html())
        counts = {"rows": advice.rows, "candidates": len(advice.candidates)}
        return stage.manifest(entries(directory), counts, {"recommended": advice.recommended})

    return stage.run(build)


def _read(source: Log, application: Application, candidates: list[Candidate], asked: bool, options: Options) -> Sample:
    data = application.data
    required = dict.fromkeys([data.member_column, *(key for one in candidates for key in one.keys)])
    if not asked:
        whole = {data.member_column, data.item_column, *application.task.keys}
        required = dict.fromkeys(key for key in required if key in whole)
    optional = dict.fromkeys(key for one in candidates for key in one.keys if key not in required)
    entities = dict.fromkeys(one.entity for one in candidates)
    missing = [name for name in required if name not in source.columns]
    if missing:
        raise ConfigError(f"no column {', '.join(missing)} in the log; it has {', '.join(sorted(source.columns))}")
    return read_sample(source, application, list(required), list(optional), list(entities), options)


def _kinds(sample: Sample, candidates: Sequence[Candidate]) -> list[str]:
    """Key columns of few values, such as a type: everybody's effect of a value is a feature, not a task's signal."""
    names = sorted({key for one in candidates for key in one.keys} - set(sample.kept))
    return [name for name in names if len(np.unique(sample.keys[name])) <= FEW_VALUES]


def _comparable(sample: Sample, finer: Candidate, coarser: Candidate) -> bool:
    """Whether one refines the other on the same rows: sampled by different entities they share too few."""
    return finer.refines(coarser) and (finer.entity == coarser.entity or sample.fraction == 1)


def _check_classes(sample: Sample, parts: Parts) -> None:
    for entity, kept in sample.kept.items():
        for name in ("fit", "stop", "early", "late", "test"):
            label = sample.label[getattr(parts, name) & kept]
            if not 0 < label.sum() < len(label):
                raise DataError(
                    f"sampled by {entity}, the part of the log used to {_USES[name]} has {len(label):,} rows, "
                    "all of one class; give a longer log, or more --rows"
                )


def _day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).isoformat()
