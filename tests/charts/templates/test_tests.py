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
        ptap = subprocess.run([*command, f"ptap={url}"], capture_output=True, text=True, check=False)
        both = [f"pclick_user={url}", f"ptap={url}"]
        other = subprocess.run([*command, *both], capture_output=True, text=True, check=False)
    assert (ptap.returncode, "no release is loaded yet" in ptap.stdout) == (0, True), ptap.stderr
    assert other.returncode == 1
    assert "pclick_user: WRONG" in other.stdout
    # One that is wrong does not keep the others from being looked at.
    assert "ptap: lives" in other.stdout
    assert "not as they should be: pclick_user" in other.stderr


def test_pods_are_hooks_of_the_test_alone() -> None:
    for pod in objects({"applications": {"second": {"config": {"extends": "pclick_user"}}}}, "tests/"):
        assert pod["kind"] == "Pod"
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert pod["spec"]["restartPolicy"] == "Never"
        # Helm reads no log of a pod that has several.
        assert len(pod["spec"]["containers"]) == 1
        assert pod["spec"]["activeDeadlineSeconds"] <= 300
