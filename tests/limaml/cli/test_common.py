import json

import pytest
import typer

from limaml import errors
from limaml.cli.common import emit, run

KINDS = {
    kind.__name__: kind
    for kind in (
        errors.ConfigError,
        errors.DataError,
        errors.IntegrityError,
        errors.GateRefused,
        errors.StorageError,
        errors.ReleaseConflict,
        errors.LeaseHeld,
    )
}


def command(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    app = typer.Typer()

    @app.command()
    def fail(kind: str, count: int = 0) -> None:
        raise KINDS[kind](f"row {count}: [not markup] is wrong")

    @app.command()
    def good(code: int = 0) -> None:
        emit({"value": 1}, as_json=True)
        if code:
            raise typer.Exit(code)

    @app.command()
    def stop() -> None:
        raise KeyboardInterrupt

    @app.command()
    def bug() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("sys.argv", ["limaml", *argv])
    return run(app)


@pytest.mark.parametrize("name", KINDS)
def test_an_error_is_one_line_on_stderr_and_its_exit_code(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(["fail", name], monkeypatch) == KINDS[name].exit_code
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"ERROR {name}: row 0: [not markup] is wrong\n"


@pytest.mark.parametrize("argv", [["fail"], ["nonsense"], ["fail", "DataError", "--count", "x"], ["good", "--unknown"]])
def test_wrong_usage_is_exit_code_2(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(argv, monkeypatch) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Usage" in err


def test_success_help_exit_and_interruption(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(["good"], monkeypatch) == 0
    assert json.loads(capfd.readouterr().out) == {"value": 1}
    assert command(["good", "--code", "7"], monkeypatch) == 7
    assert command(["--help"], monkeypatch) == 0
    assert command(["stop"], monkeypatch) == 130


def test_a_bug_is_not_dressed_as_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        command(["bug"], monkeypatch)


def test_a_person_reads_aligned_lines(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": 1, "longer": {"x": [1, 2]}}, as_json=False)
    assert capsys.readouterr().out == 'a       1\nlonger  {"x": [1, 2]}\n'


def test_json_is_one_line_even_with_dates_and_newlines(capsys: pytest.CaptureFixture[str]) -> None:
    from datetime import date

    emit({"date": date(2026, 1, 31), "text": "two\nlines"}, as_json=True)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"date": "2026-01-31", "text": "two\nlines"}
