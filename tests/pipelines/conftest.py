"""A Kubeflow Pipelines server in this process, and nothing of the machine the tests run on."""

import json
import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from limaml.config import Application, parse_application
from pipelines import cli, kubeflow, uploads
from pipelines.compile import compile_pipeline
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


@cache
def _compile(kind: str, text: str, image: str) -> str:
    return compile_pipeline(kind, parse_application(json.loads(text), "tests"), image=image)


@pytest.fixture
def compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile equal pipelines once for all tests: Kubeflow's compiler takes its time, and one thread at a time."""

    def compile_cached(kind: str, application: Application, *, image: str = "") -> str:
        return _compile(kind, application.model_dump_json(), image)

    monkeypatch.setattr(uploads, "compile_pipeline", compile_cached)


@pytest.fixture
def server(nothing_around: None, compile_once: None) -> Iterator[FakeKubeflow]:
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
