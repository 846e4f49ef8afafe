"""`limaml group`: the stage by its command, and its exit codes."""

import json
from datetime import date
from pathlib import Path

import pytest
import typer

from limaml.cli import common, group
from limaml.windows import Window, refresh_split, training_splits
from tests.limaml.data.test_tasks import application, log_rows, slow_group, write_validated

DATE = date(2026, 3, 6)
COVERED = Window(start=date(2026, 1, 1), end=date(2027, 1, 1))


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    app = application()
    (tmp_path / "app.yaml").write_text(app.model_dump_json())
    validated = write_validated(tmp_path / "validated", log_rows(), app, window=COVERED)
    return ["--app", str(tmp_path / "app.yaml"), "--validated", validated, "--output", str(tmp_path / "out"), "--json"]


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)
    group.register(app)
    monkeypatch.setattr("sys.argv", ["limaml", "group", *arguments])
    return common.run(app)


@pytest.mark.parametrize("name", ["train", "validation", "test", "recent"])
def test_each_split_of_a_date_is_grouped(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run([*arguments, "--date", str(DATE), "--split", name], monkeypatch) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    windows = application().windows
    split = {**training_splits(windows, DATE), "recent": refresh_split(windows, DATE)}[name]
    expected = slow_group(log_rows(), application(), split)
    assert (result["tasks"], result["rows"]) == (len(expected), sum(map(len, expected.values())))


def test_a_date_without_data_exits_3(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run([*arguments, "--date", "2027-01-01", "--split", "recent"], monkeypatch) == 3
    assert "the days 2026-02-28 to 2026-03-06" in capsys.readouterr().err
