"""A Kubeflow Pipelines server in this process, and nothing of the machine the tests run on."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import cli, kubeflow
from tests.pipelines.fake_kubeflow import FakeKubeflow


@pytest.fixture
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No endpoint, token or pod around; what fails is not tried again for long."""
    for name in ("ENDPOINT", "TOKEN", "UI_ENDPOINT", "NAMESPACE", "CA"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.delenv("LIMAML_IMAGE", raising=False)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(kubeflow, "POD_ACCOUNT", tmp_path / "no-pod")
    monkeypatch.setattr(kubeflow, "REPEAT_SECONDS", 2.0)


@pytest.fixture
def server(nothing_around: None) -> Iterator[FakeKubeflow]:
    """An empty Kubeflow Pipelines."""
    with FakeKubeflow().running() as fake:
        yield fake


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def limaml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """The `limaml` command in this process: exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["limaml", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    before = list(logging.getLogger().handlers)
    yield run
    logging.getLogger().handlers[:] = before  # the command's own writes to a standard error that is gone by now
