"""checkov finds nothing in what the chart renders but what charts/checkov.yaml says why."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from charts.generate import HERE
from tests.charts.rendering import SCENARIOS, objects, scenario, text

CONFIG = HERE / "checkov.yaml"


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("checkov") is None, reason="checkov is not installed (in an environment of its own)")
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_check_fails(name: str, tmp_path: Path) -> None:
    rendered = [content for path, content in text(scenario(name)).items() if path.endswith(".yaml") and content.strip()]
    (tmp_path / "manifests.yaml").write_text("\n---\n".join(rendered))
    command = ["checkov", "--config-file", str(CONFIG), "-d", str(tmp_path), "--quiet", "--compact", "-o", "json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    result = json.loads(run.stdout)
    assert [(each["check_id"], each["resource"]) for each in result["results"]["failed_checks"]] == []
    assert result["summary"]["passed"] > 100


def test_probes_are_left_out_of_tests_alone() -> None:
    """What is skipped for all objects holds for all but those it is skipped for."""
    for name in SCENARIOS:
        for each in objects(scenario(name)):
            if each["kind"] == "Deployment":
                for container in each["spec"]["template"]["spec"]["containers"]:
                    assert {"livenessProbe", "readinessProbe"} <= container.keys()


def test_every_skipped_check_has_its_reason() -> None:
    lines = CONFIG.read_text().splitlines()
    skipped = [number for number, line in enumerate(lines) if line.startswith("  - CKV")]
    assert len(skipped) == len(yaml.safe_load(CONFIG.read_text())["skip-check"])
    for number in skipped:
        above = lines[number - 1]
        assert above.startswith(("  #", "  - CKV"))
