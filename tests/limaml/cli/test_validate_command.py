"""`limaml validate`: one JSON line for a good window, exit code 3 and one error for a bad one."""

import json
from pathlib import Path

import pytest
import typer
import yaml

from limaml.cli import common, validate
from tests.limaml.data.validation_data import DAYS, ROWS, make_application, write_clean


def _run(data: Path, output: Path, monkeypatch: pytest.MonkeyPatch, start: str = str(DAYS[0])) -> int:
    config = data.parent / "tiny.yaml"
    config.write_text(yaml.safe_dump(make_application().model_dump(mode="json")))
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)  # one command alone would swallow its own name
    validate.register(app)
    arguments = ["--app", config, "--data", data, "--output", output, "--start", start, "--end", "2026-03-04", "--json"]
    monkeypatch.setattr("sys.argv", ["limaml", "validate", *map(str, arguments)])
    return common.run(app)


def test_a_good_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(write_clean(tmp_path / "data"), tmp_path / "out", monkeypatch) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert (result["passed"], result["rows"], result["quarantined"]) == (True, 3 * ROWS, 0)
    assert Path(result["page"].removeprefix("file://")).is_file()


def test_a_bad_window_exits_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(write_clean(tmp_path / "data"), tmp_path / "out", monkeypatch, start="2026-02-28") == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ERROR DataError" in captured.err
    assert "day_present: 2026-02-28 (" in captured.err


def test_a_window_that_ends_before_it_starts_exits_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run(tmp_path / "data", tmp_path / "out", monkeypatch, start="2026-03-04") == 2
