"""A run in a cluster: steps in pods of their own under one lease, and what its closing writes down."""

import json
import logging
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.close_run import close_run
from components.outcome import history, read_outcome, unfinished
from components.plan_backfill import plan_backfill
from components.support import Step
from limaml import errors, journal, lease, storage
from limaml.manifest import Manifest
from limaml.workspace import Workspace

DAY = date(2026, 1, 31)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    root = f"file://{tmp_path}" if request.param == "file" else request.getfixturevalue("s3")
    return Workspace(storage.join(root, "w"), "ptap")


def work(
    place: Workspace,
    name: str,
    run_id: str,
    error: Exception | None = None,
    output: str = "",
    day: date | None = DAY,
) -> int:
    """One step, as a component runs it, which fails before it takes a date where there is none; its exit code."""
    try:
        with Step(name, run_id) as step:
            step.open("ptap", place.root)
            if day is not None:
                step.take(day)
            step._output = output
            if error is not None:
                raise error
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def close(place: Workspace, run_id: str, folder: Path, kind: str = "refresh", state: str = "RUNNING") -> str:
    """The exit handler; what it shows in the UI."""
    summary = dsl.Markdown(name="summary", uri=str(folder / f"{run_id}.md"))
    status = dsl.PipelineTaskFinalStatus(
        state=state,
        pipeline_job_resource_name="a-run",
        pipeline_task_name="exit-handler-1",
        error_code=None,
        error_message=None,
    )
    close_run.python_func("ptap", place.root, kind, run_id, status, summary)
    return Path(summary.path).read_text()


def outcome(place: Workspace, kind: str = "refresh") -> tuple[dict[str, Any], dict[str, Any]]:
    found = read_outcome(place, DAY, kind)
    assert found is not None
    return found


def test_a_run_that_did_its_last_step_succeeded_and_gives_its_date_back(place: Workspace, tmp_path: Path) -> None:
    assert read_outcome(place, DAY, "refresh") is None
    for name in ("validate_data", "push_embeddings", "monitor"):
        assert work(place, name, "run-1") == 0
        assert lease.held_by(place.lease(DAY), "run-1")
    shown = close(place, "run-1", tmp_path)
    summary, state = outcome(place)
    assert (state["run_id"], state["state"], state["reason"]) == ("run-1", "succeeded", "")
    assert [step["step"] for step in state["steps"]] == ["validate_data", "push_embeddings", "monitor"]
    assert summary == {"application": "ptap", "run": "refresh", "run_date": "2026-01-31", "pages": []}
    assert "## 2026-01-31: succeeded" in shown
    assert not storage.exists(place.lease(DAY))
    assert journal.read(place, "run-1") == []


def test_a_failed_run_says_why_in_the_steps_own_words(place: Workspace, tmp_path: Path) -> None:
    work(place, "validate_data", "run-1")
    assert work(place, "push_embeddings", "run-1", errors.StoreError("the store\nis full")) == 5
    shown = close(place, "run-1", tmp_path)
    summary, state = outcome(place)
    assert state["state"] == "failed"
    assert state["reason"] == "push_embeddings: StoreError: the store\nis full"
    assert (summary["error"], summary["message"]) == ("StoreError", "the store\nis full")
    assert "> push_embeddings: StoreError: the store\n> is full" in shown
    assert not storage.exists(place.lease(DAY))


def test_a_later_attempt_of_a_step_replaces_the_failed_one(place: Workspace, tmp_path: Path) -> None:
    work(place, "monitor", "run-1", errors.StoreError("throttled"))
    work(place, "monitor", "run-1")
    close(place, "run-1", tmp_path)
    assert outcome(place)[1]["state"] == "succeeded"


def test_a_killed_step_is_told_from_one_that_failed(place: Workspace, tmp_path: Path) -> None:
    """An out-of-memory kill leaves nothing but the note that the step began."""
    work(place, "validate_data", "run-1")
    entry = journal.Entry(step="group_tasks_recent", run_date=DAY, lease=place.lease(DAY))
    journal.write(place, "run-1", entry)
    close(place, "run-1", tmp_path)
    state = outcome(place)[1]
    assert state["state"] == "failed"
    assert state["reason"].startswith("group_tasks_recent: ended without a word: killed for its memory")


def test_two_runs_at_once_on_one_date(place: Workspace, tmp_path: Path) -> None:
    work(place, "validate_data", "run-1")
    assert work(place, "validate_data", "run-2") == 6
    shown = close(place, "run-2", tmp_path)
    assert "LeaseHeld: run run-1 (step validate_data) holds" in shown
    assert read_outcome(place, DAY, "refresh") is None, "the one turned away wrote over the other's date"
    turned_away = json.loads(storage.read_bytes(storage.join(place.turned_away("run-2"), "state.json")))
    assert turned_away["reason"].startswith("validate_data: LeaseHeld")
    assert lease.held_by(place.lease(DAY), "run-1"), "the one turned away ended the other's lease"
    work(place, "monitor", "run-1")
    close(place, "run-1", tmp_path)
    assert outcome(place)[1]["run_id"] == "run-1"
    assert work(place, "validate_data", "run-2") == 0, "a retry, once the date is free"


def test_a_run_without_a_date_is_written_down_apart(place: Workspace, tmp_path: Path) -> None:
    garbage = errors.ConfigError("run date 'soon' is neither a date like 2026-01-31 nor empty (today)")
    assert work(place, "validate_data", "run-1", garbage, day=None) == 2
    assert "run date 'soon'" in close(place, "run-1", tmp_path)
    state = json.loads(storage.read_bytes(storage.join(place.turned_away("run-1"), "state.json")))
    assert state["state"] == "failed"


def test_a_run_whose_first_pod_never_ran_is_written_down_too(place: Workspace, tmp_path: Path) -> None:
    """No node has such a GPU, or a secret is missing: Kubernetes ends the pod after the step's time."""
    shown = close(place, "run-1", tmp_path)
    assert "> the first step never began: its pod found no node" in shown
    state = json.loads(storage.read_bytes(storage.join(place.turned_away("run-1"), "state.json")))
    assert (state["state"], state["steps"]) == ("failed", [])
    work(place, "validate_data", "run-2")
    shown = close(place, "run-2", tmp_path)
    assert "the step after validate_data never began" in shown
    assert "what validate_data wrote could not be uploaded" in shown
    assert outcome(place)[1]["state"] == "failed"


def test_a_run_that_had_nothing_to_do_leaves_nothing(place: Workspace, tmp_path: Path) -> None:
    assert "Nothing had to be done" in close(place, "run-1", tmp_path, state="COMPLETE")
    assert not storage.exists(place.turned_away("run-1"))


def test_the_history_of_runs(place: Workspace, tmp_path: Path) -> None:
    assert history(place) == []
    work(place, "monitor", "run-1", day=date(2026, 1, 30))
    close(place, "run-1", tmp_path)
    work(place, "push_embeddings", "run-2", errors.GateRefused("no"))
    close(place, "run-2", tmp_path, kind="train")
    close(place, "run-3", tmp_path)
    told = [(each["run_date"], each["kind"], each["state"], each["run_id"]) for each in history(place)]
    assert told == [("2026-01-31", "train", "failed", "run-2"), ("2026-01-30", "refresh", "succeeded", "run-1")]


def test_closing_again_changes_nothing_and_a_retried_run_goes_on(place: Workspace, tmp_path: Path) -> None:
    work(place, "validate_data", "run-1")
    work(place, "push_embeddings", "run-1", errors.StoreError("down"))
    close(place, "run-1", tmp_path)
    first = outcome(place)
    close(place, "run-1", tmp_path)
    assert outcome(place)[0] == first[0]
    assert not storage.exists(place.turned_away("run-1"))
    for name in ("push_embeddings", "monitor"):  # Kubeflow's retry of a run: from the step that failed, same id
        work(place, name, "run-1")
    close(place, "run-1", tmp_path)
    assert outcome(place)[1]["state"] == "succeeded"
    assert len(outcome(place)[1]["steps"]) == 3


def test_what_a_step_wrote_is_summed_up(place: Workspace, tmp_path: Path) -> None:
    counts = {"tasks": 12, "rows": 345, "tasks_without_support": 1}
    manifest = Manifest(kind="embeddings", application="ptap", fingerprint="f", config_hash="c", counts=counts)
    output = place.embeddings("m1", DAY)
    storage.write_bytes(storage.join(output, "manifest.json"), manifest.model_dump_json().encode())
    work(place, "generate_embeddings", "run-1", output=output)
    shown = close(place, "run-1", tmp_path)
    assert outcome(place)[0]["embeddings"] == counts
    assert "| embeddings | 12 tasks, 345 rows, 1 tasks without support |" in shown


def test_a_journal_that_cannot_be_kept_hides_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ptap").write_text("a file where the workspace should be")
    assert work(Workspace(f"file://{tmp_path}", "ptap"), "x", "run-1", errors.DataError("label is 7"), day=None) == 3
    said = capsys.readouterr().err
    assert "can't keep the journal" in said
    assert said.splitlines()[-1] == "ERROR DataError: label is 7"


def test_what_a_backfill_still_has_to_do(place: Workspace, tmp_path: Path) -> None:
    days = [date(2026, 1, 29), date(2026, 1, 30), DAY]
    work(place, "monitor", "run-1", day=days[0])
    close(place, "run-1", tmp_path)
    work(place, "monitor", "run-2", errors.StoreError("down"), day=days[1])
    close(place, "run-2", tmp_path)
    assert unfinished(place, "refresh", days) == days[1:]
    planned = plan_backfill.python_func("ptap", place.root, "2026-01-29", "2026-01-31", "run-3")
    assert planned == ["2026-01-30", "2026-01-31"]
    assert journal.read(place, "run-3") == [], "a plan is no work on a date"


def test_a_backfill_is_closed_date_by_date(place: Workspace, tmp_path: Path) -> None:
    before = date(2026, 1, 30)
    for name in ("validate_data", "monitor"):
        work(place, name, "run-1", day=before)
    work(place, "validate_data", "run-1", errors.DataError("no rows"))
    shown = close(place, "run-1", tmp_path)
    assert shown.index("2026-01-30: succeeded") < shown.index("2026-01-31: failed")
    assert unfinished(place, "refresh", [before, DAY]) == [DAY]
    assert not any(storage.exists(place.lease(day)) for day in (before, DAY))


def test_a_backfills_range_is_checked(place: Workspace) -> None:
    with pytest.raises(SystemExit) as stop:
        plan_backfill.python_func("ptap", place.root, "2026-01-31", "2026-01-29", "run-1")
    assert stop.value.code == 2
    (entry,) = journal.read(place, "run-1")
    assert (entry.run_date, entry.error) == (None, "ConfigError")


def test_a_run_that_takes_too_long_is_ended_by_its_next_step_and_may_be_retried(
    place: Workspace, tmp_path: Path
) -> None:
    work(place, "validate_data", "run-1")
    body = json.loads(storage.read_bytes(place.lease(DAY)))
    body |= {"since": body["since"] - 1441 * 60}
    storage.write_bytes(place.lease(DAY), json.dumps(body).encode())
    assert work(place, "group_tasks_recent", "run-1") == 9
    close(place, "run-1", tmp_path)
    assert "worked on 2026-01-31 for 1441 minutes" in outcome(place)[1]["reason"]
    assert work(place, "group_tasks_recent", "run-1") == 0, "Kubeflow's retry of the run, the day after"
