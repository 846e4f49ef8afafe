"""Alerts and dashboards ask for metrics that exist; each alert has its runbook heading and fires when it should."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from limaml.serve.metrics import Metrics
from monitoring.dashboards import build

ROOT = Path(__file__).resolve().parents[2]
RULES = [
    rule for group in yaml.safe_load((ROOT / "monitoring/alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
NAMES = re.compile(r"\b(?:limaml|request)_[a-z_]+\b")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Names of every series a scorer has."""
    families = text_string_to_metric_families(Metrics("ptap").text().decode())
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_over_known_metrics_and_has_a_heading(rule: dict, known: set[str]) -> None:
    asked = set(NAMES.findall(rule["expr"]))
    assert asked
    assert asked <= known
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert rule["alert"] in headings
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_runbook_has_no_alert_that_is_not_there() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in RULES)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_alerts_fire_when_they_should() -> None:
    test = ROOT / "tests/monitoring/alerts_test.yaml"
    run = subprocess.run(["promtool", "test", "rules", str(test)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_is_made_to_fire_by_a_test() -> None:
    tests = yaml.safe_load((ROOT / "tests/monitoring/alerts_test.yaml").read_text())["tests"]
    fired = {each["alertname"] for test in tests for each in test["alert_rule_test"] if each.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in RULES}


def test_dashboards_are_what_their_source_makes() -> None:
    made = build.outputs()
    assert set(made) == set((ROOT / "monitoring/dashboards").glob("*.json"))
    for path, content in made.items():
        assert path.read_text() == content, "run python -m monitoring.dashboards.build, then python -m charts.generate"


def test_dashboards_ask_for_known_metrics_and_only_what_was_chosen(known: set[str]) -> None:
    for path in build.outputs():
        page = json.loads(path.read_text())
        queries = [target["expr"] for panel in page["panels"] for target in panel["targets"]]
        assert queries
        for query in queries:
            assert set(NAMES.findall(query)) <= known
            assert query.count(build.CHOSEN) == len(NAMES.findall(query))
