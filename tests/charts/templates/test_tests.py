"""templates/tests: `helm test`, its scripts run against the real service; Kubeflow's half is in test_kubeflow."""

import subprocess
import sys
from pathlib import Path

from limaml.config import load_application
from limaml.online.store import open_store
from tests.charts.rendering import objects
from tests.limaml.serve.conftest import running


def test_a_scorer_without_a_release_lives_and_one_of_another_application_does_not_pass(tmp_path: Path) -> None:
    (pod,) = objects({}, "tests/scorers")
    (container,) = pod["spec"]["containers"]
    command = [sys.executable, "-c", container["args"][0]]
    with running(load_application("ptap"), open_store(f"lmdb://{tmp_path}/store", "ptap")) as client:
        url = f"http://127.0.0.1:{client.port}"
        ptap = subprocess.run([*command, "ptap", url], capture_output=True, text=True, check=False)
        other = subprocess.run([*command, "pclick_user", url], capture_output=True, text=True, check=False)
    assert (ptap.returncode, "no release is loaded yet" in ptap.stdout) == (0, True), ptap.stderr
    assert other.returncode == 1


def test_pods_are_hooks_of_the_test_alone() -> None:
    for pod in objects({}, "tests/"):
        assert pod["kind"] == "Pod"
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert pod["spec"]["restartPolicy"] == "Never"
        assert pod["spec"]["activeDeadlineSeconds"] <= 300
