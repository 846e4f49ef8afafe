"""`limaml advise`: a table for people, one JSON object for programs, a page that stands alone, clear exit codes."""

import json
import re
from pathlib import Path

import pytest
import typer
import yaml

from limaml.cli import advise, common
from tests.limaml.training.planted_root import planted_table, write_flat, write_root
from tests.limaml.training.planted_tasks import per_member_and_type, planted_application


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("advise")
    write_root(path, planted_table(0, per_member_and_type))
    (path / "planted.yaml").write_text(yaml.safe_dump(planted_application().model_dump(mode="json")))
    return path


def _run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)  # one command alone would swallow its own name
    advise.register(app)
    monkeypatch.setattr("sys.argv", ["limaml", "advise", "--app", str(folder / "planted.yaml"), *map(str, arguments)])
    return common.run(app)


def test_a_data_root_and_its_flat_log_get_the_same_advice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for name in ("data", "flat.parquet"):
        assert _run(folder, monkeypatch, "--data", folder / name, "--json") == 0
        (line,) = capsys.readouterr().out.splitlines()
        answers.append(json.loads(line))
    assert answers[0] == answers[1]
    assert answers[0]["recommended"] == ["member_id", "type"]
    assert [one["keys"] for one in answers[0]["candidates"]] == [["member_id"], ["item_id"], ["member_id", "type"]]
    assert answers[0]["test_until"] == "2026-03-13"


def test_the_output_is_a_page_and_json_made_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keys = ("--keys", "member_id", "--keys", "member_id, type")
    arguments = ("--data", folder / "data", "--output", tmp_path / "out", *keys)
    assert _run(folder, monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert "(member_id, type)" in shown
    assert "Personalize per (member_id, type)" in shown
    written = (tmp_path / "out" / "advice.json").read_text()
    assert json.loads(written)["recommended"] == ["member_id", "type"]
    page = (tmp_path / "out" / "advice.html").read_text()
    assert "Personalize per (member_id, type)" in page
    assert not re.findall(r"<(?:script|link|img)", page)
    made = (tmp_path / "out" / "advice.json").stat().st_mtime_ns
    assert _run(folder, monkeypatch, *arguments) == 0
    assert (tmp_path / "out" / "advice.json").stat().st_mtime_ns == made
    assert _run(folder, monkeypatch, *arguments, "--minimum-gain", 0.5) == 0
    assert json.loads((tmp_path / "out" / "advice.json").read_text())["recommended"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--data", "{folder}/data", "--keys", "shoe_size"), 2, "no column 'shoe_size'"),
        (("--data", "{folder}/nowhere"), 2, "nothing there"),
        (("--data", "{folder}/short.parquet"), 3, "5 days with interactions: advice needs at least 6"),
        (("--data", "{folder}/unlabelled.parquet"), 3, "column 'label' is missing"),
        (("--data", "{folder}/data", "--output", "{folder}"), 2, "files that no stage wrote"),
        (("--data", "{folder}/data", "--rows", 10), 2, "--rows"),
    ],
)
def test_errors_say_what_was_wrong_and_exit_by_kind(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    code: int,
    message: str,
) -> None:
    table = planted_table(0, per_member_and_type)
    write_flat(folder / "short.parquet", table.slice(0, int(len(table) * 4.5 / 12)))
    write_flat(folder / "unlabelled.parquet", table.drop_columns("label"))
    assert _run(folder, monkeypatch, *(str(one).format(folder=folder) for one in arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.replace("\n", " ")
