"""A Kubeflow Pipelines server in this process, and nothing of the machine the tests run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import kubeflow
from tests.pipelines.fake_kubeflow import FakeKubeflow


@pytest.fixture
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No endpoint, token or pod around; waits are short."""
    for name in ("ENDPOINT", "TOKEN", "UI_ENDPOINT", "NAMESPACE", "CA"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.delenv("LIMAML_IMAGE", raising=False)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(kubeflow, "POD_ACCOUNT", tmp_path / "no-pod")
    monkeypatch.setattr(kubeflow, "REPEAT_SECONDS", 2.0)
    monkeypatch.setattr(kubeflow, "ANSWER_SECONDS", 1)


@pytest.fixture
def server(nothing_around: None) -> Iterator[FakeKubeflow]:
    """An empty Kubeflow Pipelines."""
    with FakeKubeflow().running() as fake:
        yield fake
