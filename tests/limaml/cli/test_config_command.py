"""`limaml config`: right files are described, wrong ones are told all at once."""

import json
from pathlib import Path

import pytest
import typer
import yaml

from limaml.application_files import shipped_applications
from limaml.application_schema import file_schema
from limaml.cli import common, config
from limaml.config import application_from_parameter, load_application


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    app = typer.Typer(add_completion=False)
    config.register(app)
    monkeypatch.setattr("sys.argv", ["limaml", "config", *arguments])
    return common.run(app)


def test_check_without_names_checks_everything_shipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["check", "--json"], monkeypatch) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result["valid"] is True
    assert sorted(result["applications"]) == shipped_applications()


@pytest.mark.parametrize("arguments", [["ptap"], ["--app", "ptap"]])
def test_check_names_the_task(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["check", *arguments], monkeypatch) == 0
    assert capsys.readouterr().out.startswith("ptap: valid; one task per (member_id)")


def test_check_tells_every_error_with_its_path_and_exits_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = load_application("ptap").model_dump(mode="json")
    content["windows"]["lookback_day"] = 3
    content["training"]["epochs"] = 0
    content["network"]["dropout"] = 1.5
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    assert _run(["check", str(path)], monkeypatch) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ConfigError" in captured.err
    assert "3 errors" in captured.err
    assert "windows.lookback_day: unknown key; did you mean 'lookback_days'?" in captured.err
    assert "training.epochs" in captured.err
    assert "network.dropout" in captured.err


def test_show_prints_what_loads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["show", "kuairand"], monkeypatch) == 0
    path = tmp_path / "shown.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_application(str(path)) == load_application("kuairand")
    assert _run(["show", "--app", "kuairand", "--json"], monkeypatch) == 0
    assert application_from_parameter(capsys.readouterr().out) == load_application("kuairand")


def test_show_without_a_name_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["show"], monkeypatch) == 2
    assert "name an application" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["schema"], ["schema", "--json"]])
def test_schema_is_the_applications_json_schema(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(arguments, monkeypatch) == 0
    assert json.loads(capsys.readouterr().out) == file_schema()
