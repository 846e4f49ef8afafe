"""`embed`, `publish`, `release …` and `score` as a person types them."""

import json
from datetime import timedelta
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from limaml.cli import embed, release, score
from limaml.errors import ConfigError, DataError, ReleaseHeld, StoreError
from tests.conftest import SMALL
from tests.limaml.online.chain import AS_OF, Chain
from tests.limaml.online.conftest import Files


class Shell:
    """The commands of this area against one workspace."""

    def __init__(self, folder: Path) -> None:
        self.app = typer.Typer()
        for area in (embed, release, score):
            area.register(self.app)
        self.yaml = folder / "small.yaml"
        self.yaml.write_text(yaml.safe_dump(SMALL))
        self.workspace = str(folder / "workspace")

    def run(self, *arguments: str, workspace: bool = True) -> Result:
        options = ["--app", str(self.yaml), *(["--workspace", self.workspace] if workspace else [])]
        return CliRunner().invoke(self.app, [*arguments, *options])

    def json(self, *arguments: str, workspace: bool = True) -> dict:
        result = self.run(*arguments, "--json", workspace=workspace)
        assert result.exit_code == 0, result.exception
        assert result.stdout.count("\n") == 1
        return json.loads(result.stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def published(shell: Shell, chain: Chain, folder: Path) -> dict:
    output = str(folder / "embeddings")
    made = shell.json(
        "embed", "--model", chain.model, "--tasks", chain.tasks, "--output", output, "--as-of", str(AS_OF),
        workspace=False,
    )  # fmt: skip
    assert made["tasks_without_support"] == 10
    assert made["changed"] == made["tasks"]
    decision = Files(folder, chain.application).decision(output)
    return shell.json("publish", "--embeddings", output, "--decision", decision)


def test_from_embeddings_to_a_score(shell: Shell, chain: Chain, tmp_path: Path) -> None:
    release = published(shell, chain, tmp_path)
    assert release["number"] == 1
    shown = shell.json("release", "show")
    assert {k: v for k, v in shown.items() if k != "age_seconds"} == {
        k: v for k, v in release.items() if k != "age_seconds"
    }
    requests = str(tmp_path / "requests.parquet")
    pq.write_table(chain.rows.slice(0, 30), requests)
    answer = shell.json("score", "--requests", requests, "--now", "2026-01-08T01:00:00")
    assert answer["rows"] == len(answer["scores"]) == 30
    assert answer["reasons"] == {"fresh": 30}
    assert set(answer["scores"][0]) == {"member_id", "item_id", "probability", "reason", "age_seconds"}
    assert answer["scores"][0]["age_seconds"] == 3600.0
    output = str(tmp_path / "answers.parquet")
    shell.json("score", "--requests", requests, "--output", output, "--now", "2026-01-08T01:00:00")
    written = pq.ParquetFile(output).read()
    assert written["probability"].to_pylist() == pytest.approx([row["probability"] for row in answer["scores"]])
    assert set(written["generation"].to_pylist()) == {release["generation"]}
    table = shell.run("score", "--requests", requests)
    assert "the 20 highest of 30" in table.stdout
    assert "stale" in table.stdout


def test_embeddings_carried_over_from_a_directory(shell: Shell, chain: Chain, tmp_path: Path) -> None:
    published(shell, chain, tmp_path)
    made = shell.json(
        "embed", "--model", chain.model, "--tasks", chain.tasks, "--output", str(tmp_path / "next"),
        "--as-of", str(AS_OF + timedelta(days=1)), "--previous", str(tmp_path / "embeddings"), workspace=False,
    )  # fmt: skip
    assert (made["changed"], made["removed"]) == (0, 0)


def test_one_task_and_json_lines(shell: Shell, chain: Chain, tmp_path: Path) -> None:
    published(shell, chain, tmp_path)
    requests = tmp_path / "candidates.jsonl"
    rows = chain.rows.slice(0, 3).drop_columns(["member_id", "event_time"]).to_pylist()
    requests.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = shell.json("score", "--requests", str(requests), "--task", "7", "--now", "2026-01-08T01:00:00")
    assert known["reasons"] == {"fresh": 3}
    assert {row["member_id"] for row in known["scores"]} == {"7"}
    unknown = shell.json("score", "--requests", str(requests), "--task", "nobody")
    assert unknown["reasons"] == {"zero_shot": 3}
    refused = shell.run("score", "--requests", str(requests), "--task", "7,digest")
    assert isinstance(refused.exception, ConfigError)
    assert "--task has 2 values, the task's key 1: member_id" in str(refused.exception)


def test_releases_listed_rolled_back_and_collected(shell: Shell, chain: Chain, tmp_path: Path) -> None:
    first = published(shell, chain, tmp_path)
    files = Files(tmp_path / "files", chain.application)
    # The store alone: embeddings of no real model will do for what is never scored.
    made_up = files.embeddings(AS_OF, model="m2", tasks=40)
    assert shell.json("publish", "--embeddings", made_up, "--decision", files.decision(made_up))["number"] == 2
    assert shell.json("release", "rollback")["generation"] == first["generation"]
    listed = shell.json("release", "list")
    assert [each["number"] for each in listed["releases"]] == [3, 2, 1]
    text = shell.run("release", "list").stdout
    assert text.count("\n") == 3
    assert "rollback of 2" in text.splitlines()[0]
    collected = shell.json("release", "gc")
    assert collected["kept"] == [first["generation"]]
    assert collected["deleted"] == [listed["releases"][1]["generation"]]
    assert "collected" in shell.run("release", "list").stdout.splitlines()[1]
    nothing_left = shell.run("release", "rollback")
    assert isinstance(nothing_left.exception, StoreError)


def test_a_hold_set_and_ended(shell: Shell, chain: Chain, tmp_path: Path) -> None:
    released = published(shell, chain, tmp_path)
    assert released["verified"]["canary_tasks"] == 50
    held = shell.json("release", "hold", "--reason", "freeze until Monday")
    assert (held["number"], held["generation"], held["held"]) == (2, released["generation"], "freeze until Monday")
    assert "held: freeze until Monday" in shell.run("release", "list").stdout.splitlines()[0]
    newer = Files(tmp_path / "files", chain.application).embeddings(AS_OF + timedelta(days=1), model="m1")
    refused = shell.run("publish", "--embeddings", newer)
    assert isinstance(refused.exception, ReleaseHeld)
    assert "freeze until Monday" in str(refused.exception)
    both = shell.run("release", "hold", "--off", "--reason", "x")
    assert isinstance(both.exception, ConfigError)
    assert shell.json("release", "hold", "--off")["held"] == ""
    assert shell.json("release", "hold")["held"] == "held by hand"


def test_errors_say_what_to_do(shell: Shell, chain: Chain, tmp_path: Path) -> None:
    nothing = shell.run("release", "show")
    assert isinstance(nothing.exception, StoreError)
    assert "no release of small yet" in str(nothing.exception)
    published(shell, chain, tmp_path)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"member_id": 1')
    for path, kind, message in (
        (str(broken), DataError, "can't be read as jsonl"),
        (str(tmp_path / "requests.csv"), ConfigError, r"give a .parquet or a .jsonl file"),
    ):
        result = shell.run("score", "--requests", path)
        assert isinstance(result.exception, kind)
        assert message in str(result.exception)
    requests = str(tmp_path / "requests.parquet")
    pq.write_table(pa.table({"member_id": [1]}), requests)
    refused = shell.run("score", "--requests", requests)
    assert isinstance(refused.exception, DataError)
    assert "item_x0, item_x1, notification_type missing" in str(refused.exception)


def test_a_store_is_made_ready_once(shell: Shell, dynamodb_url: str) -> None:
    assert shell.json("release", "init") == {"store": f"lmdb://{shell.workspace}/small/store", "created": False}
    url = dynamodb_url.replace("?", "-new?")
    shell.yaml.write_text(yaml.safe_dump(SMALL | {"store": {"url": url}}))
    with pytest.raises(StoreError, match="there is no such table: `limaml release init` makes it"):
        raise cast(Exception, shell.run("release", "show").exception)
    assert shell.json("release", "init")["created"] is True
    assert shell.json("release", "init")["created"] is False
    with pytest.raises(StoreError, match="no release of small yet"):
        raise cast(Exception, shell.run("release", "show").exception)
