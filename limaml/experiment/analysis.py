"""From the logs of an A/B test to its report: check the split, compare the arms by cohort, write what was found."""

import logging
from collections.abc import Mapping
from pathlib import Path

from limaml import storage
from limaml.cohorts import COHORTS
from limaml.config import Application
from limaml.errors import ConfigError
from limaml.experiment import statistics
from limaml.experiment.assignment import ARMS, CONTROL, TREATMENT
from limaml.experiment.exposures import OUTCOMES, SIGNUPS, VISITS, exposure_columns, open_log
from limaml.experiment.metrics import CTR, EVERYONE, METRICS, Measured, Sums, measure
from limaml.experiment.page import page
from limaml.experiment.report import ABReport, Comparison, SplitCheck
from limaml.manifest import Manifest, find_manifest
from limaml.online_sections import Trial
from limaml.stage import Stage, entries
from limaml.windows import Window

log = logging.getLogger(__name__)


def analyze(
    exposures: str,
    visits: str,
    signups: str,
    output: str,
    application: Application,
    window: Window,
    outcomes: str = "",
    test: str = "",
) -> Manifest:
    """Analyze an A/B test and write `report.json`, `report.html` and `cohorts.csv`.

    Args:
        exposures: folder of `date=D` parquet, one row an exposure with its outcome, or, with `outcomes`, as the scorer
            service records them.
        visits: folder of `date=D` parquet; days before the window decide the cohorts, days inside are WAU.
        signups: folder of parquet.
        output: URI of the report.
        application: its `experiment` section gives salt, fraction and confidence.
        window: logical days of the experiment.
        outcomes: folder of parquet that says which exposed items were shown, and which of them were clicked.
        test: name of one of the application's tests; by default, the first.

    Raises:
        ConfigError: there is no such test.
        DataError: a log breaks its contract (missing day, column or outcome; duplicates; an unknown variant).
    """
    trial = find_trial(application, test)
    inputs = {"exposures": exposures, "visits": visits, "signups": signups}
    inputs |= {"outcomes": outcomes} if outcomes else {}
    stage = Stage(
        "ab_report",
        output,
        application,
        ("experiment",),
        {name: _identity(uri) for name, uri in inputs.items()}
        | {"window": window.model_dump(mode="json"), "test": trial.name},
    )

    def build(directory: Path) -> Manifest:
        measured = measure(
            open_log(exposures, exposure_columns(), window.days),
            open_log(visits, VISITS, window.days, earlier=True),
            open_log(signups, SIGNUPS),
            window,
            trial.name,
            open_log(outcomes, OUTCOMES) if outcomes else None,
        )
        report = conclude(measured, application, window, trial)
        for text in report.conclusions():
            log.info("ab_report: %s", text)
        (directory / "report.json").write_text(report.model_dump_json(indent=2) + "\n")
        (directory / "report.html").write_text(page(report).html())
        (directory / "cohorts.csv").write_text(report.to_csv())
        counts = {
            "members": report.split.control + report.split.treatment,
            "impressions": report.impressions,
            "tests": len(report.tested),
        }
        details = report.model_dump(mode="json") | {"conclusions": report.conclusions()}
        return stage.manifest(entries(directory), counts, details)

    return stage.run(build)


def find_trial(application: Application, name: str) -> Trial:
    """A test of the application by its name; without one, the first.

    Raises:
        ConfigError: there is none of that name.
    """
    trials = {trial.name: trial for trial in application.experiment.trials}
    if name and name not in trials:
        raise ConfigError(f"experiment: no test {name!r}; there are {', '.join(trials)}")
    return trials[name or application.experiment.name]


def conclude(measured: Measured, application: Application, window: Window, trial: Trial) -> ABReport:
    """The report of what was measured; no comparison is made where the split is broken."""
    experiment = application.experiment
    split = check_split(measured, trial, experiment.split_check_alpha)
    return ABReport(
        application=application.name,
        title=application.title,
        start=str(window.days[0]),
        end=str(window.days[-1]),
        experiment=trial.name,
        salt=trial.salt,
        confidence=experiment.confidence,
        impressions=measured.impressions,
        weeks=measured.weeks,
        week_days=measured.week_days,
        split=split,
        comparisons=compare_cohorts(measured.sums, experiment.confidence, split.passed),
        reasons=dict(measured.reasons),
    )


def check_split(measured: Measured, trial: Trial, alpha: float) -> SplitCheck:
    """Whether members were split as configured, and each into one arm only."""
    control, treatment = (_members(measured.sums.get((EVERYONE, arm, CTR))) for arm in ARMS)
    p_value = statistics.split_p_value(control, treatment, trial.treatment_fraction)
    return SplitCheck(
        control=control,
        treatment=treatment,
        treatment_fraction=trial.treatment_fraction,
        p_value=p_value,
        in_both_arms=measured.in_both_arms,
        passed=p_value >= alpha and not measured.in_both_arms,
    )


def compare_cohorts(
    sums: Mapping[tuple[str, str, str], Sums], confidence: float, split_passed: bool = True
) -> list[Comparison]:
    """Every cohort and metric with somebody exposed; p-values adjusted over all tests made."""
    alpha = 1 - confidence
    rows: list[Comparison] = []
    effects: dict[int, statistics.Effect] = {}
    for cohort in (EVERYONE, *COHORTS):
        for metric in METRICS:
            control, treatment = (sums.get((cohort, arm, metric)) for arm in (CONTROL, TREATMENT))
            if control is None and treatment is None:
                continue
            note = "the split is broken" if not split_passed else statistics.untestable(control, treatment)
            if not note and control and treatment:
                effects[len(rows)] = statistics.compare(control, treatment, confidence)
            rows.append(
                Comparison(
                    cohort=cohort,
                    metric=metric,
                    control_members=_members(control),
                    treatment_members=_members(treatment),
                    note=note,
                )
            )
    adjusted = statistics.holm([effect.p_value for effect in effects.values()])
    for (index, effect), p_adjusted in zip(effects.items(), adjusted, strict=True):
        moved = "up" if effect.lift > 0 else "down"
        alone = effect.p_value < alpha <= p_adjusted
        rows[index] = rows[index].model_copy(
            update={
                "control": effect.control,
                "treatment": effect.treatment,
                "lift": effect.lift,
                "lift_low": effect.lift_low,
                "lift_high": effect.lift_high,
                "p_value": effect.p_value,
                "p_adjusted": p_adjusted,
                "minimum_detectable": effect.minimum_detectable(alpha / len(effects)),
                "verdict": moved if p_adjusted < alpha else "no evidence",
                "note": f"alone it would count; among {len(effects)} tests it does not" if alone else "",
            }
        )
    return rows


def _members(sums: Sums | None) -> int:
    return 0 if sums is None else sums.members


def _identity(uri: str) -> dict[str, object]:
    """What an input is: its manifest's digest where it has one, else the names, sizes and times of its files."""
    manifest = find_manifest(uri)
    if manifest is not None:
        return {"uri": storage.normalize(uri), "digest": manifest.digest}
    files = storage.list_files(uri, ".parquet")
    return {"uri": storage.normalize(uri), "files": [[info.path, info.size, info.mtime_ns] for info in files]}
