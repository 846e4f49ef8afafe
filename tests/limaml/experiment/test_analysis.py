"""The whole analysis on experiments whose truth is known, and the page that tells it."""

import csv
import dataclasses
import re
from html import unescape

import pyarrow.compute as pc
import pytest

from limaml.config import load_application
from limaml.errors import ConfigError, DataError
from limaml.experiment.analysis import analyze, conclude
from limaml.experiment.metrics import CTR, EVERYONE, WAU, Measured, Sums
from limaml.experiment.report import ABReport, Comparison, percent, sentence
from limaml.manifest import read_manifest, verify_files

from .worlds import Logs, make_logs, write_logs

PTAP = load_application("ptap")


def run(logs: Logs, root) -> ABReport:
    output = root / "report"
    manifest = analyze(**write_logs(logs, root), output=str(output), application=PTAP, window=logs.window)
    verify_files(str(output), manifest)
    return ABReport.model_validate_json((output / "report.json").read_text())


def text_of(root) -> str:
    page = (root / "report" / "report.html").read_text()
    assert not re.search(r"<script|https?://(?!www\.w3\.org|purl\.org|creativecommons\.org|matplotlib\.org)", page)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", page, flags=re.S)))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    logs = make_logs(members=6000, days=14, lift=0.25, seed=1)
    return run(logs, root), root, logs


def test_a_planted_effect_is_found_and_its_size_is_covered(planted):
    report, _, _ = planted
    ctr, wau = report.find(EVERYONE, CTR), report.find(EVERYONE, WAU)
    assert ctr is not None
    assert wau is not None
    assert ctr.verdict == "up"
    assert ctr.lift_low is not None
    assert ctr.lift_high is not None
    assert ctr.lift_low < 0.25 < ctr.lift_high
    assert wau.verdict == "no evidence"
    assert wau.minimum_detectable is not None
    assert report.split.passed
    assert {c.cohort for c in report.comparisons} == {EVERYONE, "C3", "C1", "C2", "other"}
    assert sum(c.control_members for c in report.comparisons if c.metric == CTR and c.cohort != EVERYONE) == (
        report.split.control
    )


def test_the_page_says_what_to_conclude_before_anything_else(planted):
    report, root, _ = planted
    text = text_of(root)
    verdict, table = text.index("CTR is up by"), text.index("relative lift")
    assert verdict < text.index("Is the split sound?") < table
    assert "WAU: no evidence of a change" in text
    assert "smallest effect we could have seen:" in text
    assert "What these numbers do not say" in text
    assert "zero_shot" in text
    assert "delta-method" in text[text.index("For analysts") :]
    assert "<svg" in (root / "report" / "report.html").read_text()
    assert report.conclusions()[0] in text


def test_csv_has_every_comparison(planted):
    report, root, _ = planted
    with (root / "report" / "cohorts.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(r["cohort"], r["metric"]) for r in rows] == [(c.cohort, c.metric) for c in report.comparisons]
    assert float(rows[0]["lift"]) == report.comparisons[0].lift


def test_running_again_changes_nothing_and_new_logs_do(planted, tmp_path):
    _, root, logs = planted
    output = root / "report"
    before = read_manifest(str(output), "ab_report")
    uris = {name: str(root / name) for name in ("exposures", "visits", "signups")}
    again = analyze(**uris, output=str(output), application=PTAP, window=logs.window)
    assert again == before
    narrower = logs.window.model_copy(update={"end": logs.window.days[-1]})
    assert analyze(**uris, output=str(tmp_path), application=PTAP, window=narrower).digest != before.digest


def test_another_test_of_the_application_is_found_by_its_name(planted, tmp_path):
    _, root, logs = planted
    uris = {name: str(root / name) for name in ("exposures", "visits", "signups")}
    with pytest.raises(ConfigError, match="no test 'spring'; there are limaml"):
        analyze(**uris, output=str(tmp_path), application=PTAP, window=logs.window, test="spring")


def test_a_broken_split_shows_no_lift(tmp_path):
    logs = make_logs(members=4000, days=7, lift=0.5, seed=2)
    exposures = logs.exposures
    # What a logging fault looks like: a third of the treated members left no trace.
    lost = pc.and_(  # type: ignore[attr-defined]
        pc.equal(exposures["variant"], "treatment"),  # type: ignore[attr-defined]
        pc.less(pc.bit_wise_and(exposures["member_id"], 31), 10),  # type: ignore[attr-defined]
    )
    report = run(dataclasses.replace(logs, exposures=exposures.filter(pc.invert(lost))), tmp_path)  # type: ignore[attr-defined]
    assert not report.split.passed
    assert report.split.p_value < 0.001
    assert not report.tested
    assert all(c.lift is None and c.control is None for c in report.comparisons)
    text = text_of(tmp_path)
    assert "The split is broken" in text
    assert "relative lift" not in text
    assert "find the cause" in text


def test_one_member_in_both_arms_breaks_the_split():
    sums = {(EVERYONE, arm, CTR): Sums(1000, 100, 1000, 200, 1200, 150) for arm in ("control", "treatment")}
    report = conclude(Measured(sums, 2000, 1, {}, 1, 7), PTAP, make_logs(10).window, PTAP.experiment)
    assert not report.split.passed
    assert "1 members were served both variants" in report.conclusions()[0]


def test_a_cohort_too_small_is_listed_but_not_tested_and_not_counted_by_holm():
    large, small = Sums(1000, 100, 1000, 200, 1200, 150), Sums(12, 3, 12, 4, 14, 4)
    better = dataclasses.replace(large, x=150, xx=260)
    sums = {
        (EVERYONE, "control", CTR): large,
        (EVERYONE, "treatment", CTR): better,
        ("C3", "control", CTR): small,
        ("C3", "treatment", CTR): small,
    }
    report = conclude(Measured(sums, 2000, 0, {}, 1, 7), PTAP, make_logs(10).window, PTAP.experiment)
    tested, listed = report.comparisons
    assert tested.p_adjusted == tested.p_value
    assert listed.verdict == "not tested"
    assert "only 12 members" in listed.note


def test_an_interval_without_zero_but_no_verdict_is_explained():
    control = Sums(5000, 500, 5000, 700, 5200, 560)
    treated = {"weak": dataclasses.replace(control, x=578, xx=790), "none": control}
    sums = {}
    for cohort, arm in ((EVERYONE, "weak"), ("C1", "none"), ("C2", "none")):
        sums[cohort, "control", CTR], sums[cohort, "treatment", CTR] = control, treated[arm]
    report = conclude(Measured(sums, 30_000, 0, {}, 1, 7), PTAP, make_logs(10).window, PTAP.experiment)
    weak = report.comparisons[0]
    assert weak.p_value is not None
    assert weak.p_adjusted is not None
    assert weak.p_value < 0.05 < weak.p_adjusted
    assert weak.verdict == "no evidence"
    assert weak.note == "alone it would count; among 3 tests it does not"


def test_words_for_figures():
    assert percent(0.1234) == "+12.3 %"
    assert percent(-0.00421) == "−0.42 %"
    assert percent(None) == "–"
    shared = {"cohort": EVERYONE, "control_members": 50, "treatment_members": 50, "control": 0.1, "treatment": 0.08}
    down = Comparison(
        metric=CTR, lift=-0.2, lift_low=-0.3, lift_high=-0.1, p_value=0, p_adjusted=0, verdict="down", **shared
    )
    assert sentence(down, 0.95) == "CTR is down by 20.0 % (95 % interval −30.0 % to −10.0 %)."
    unbounded = down.model_copy(update={"lift_low": None, "lift_high": None, "verdict": "no evidence"})
    assert "unbounded" in sentence(unbounded, 0.95)


def test_a_day_without_exposures_is_an_error_and_writes_nothing(tmp_path):
    logs = make_logs(members=200, days=7)
    uris = write_logs(logs, tmp_path)
    longer = logs.window.model_copy(update={"end": logs.window.end.replace(day=12)})
    with pytest.raises(DataError, match=r"exposures: no parquet file in date=2026-03-09 \(3 of 10 days"):
        analyze(**uris, output=str(tmp_path / "report"), application=PTAP, window=longer)
    assert not (tmp_path / "report").exists()
