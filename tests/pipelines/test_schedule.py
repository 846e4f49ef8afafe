"""`limaml schedule` against a Kubeflow Pipelines server: what is there afterwards, and what was asked for."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from limaml.config import Application, parse_application
from limaml.errors import ConfigError, KubeflowError
from pipelines import schedule, uploads
from pipelines.kubeflow import Access, connect
from tests.conftest import SMALL
from tests.pipelines.conftest import Command
from tests.pipelines.fake_kubeflow import FakeKubeflow

NIGHTLY = "0 30 2 * * *"


def _application(schedules: dict[str, Any] | None = None, **sections: Any) -> Application:
    said = {"refresh": {"cron": NIGHTLY}} if schedules is None else schedules
    return parse_application(SMALL | {"cluster": {"workspace": "s3://b/w"}, "schedule": said} | sections, "tests")


def _apply(server: FakeKubeflow, application: Application, **given: str) -> list[dict[str, Any]]:
    return schedule.apply(connect(Access(server.host)), application, given)


def _there(server: FakeKubeflow) -> list[tuple[str, bool]]:
    return [(each["display_name"], each["status"] == "ENABLED") for each in server.items("recurringruns")]


def _actions(done: list[dict[str, Any]]) -> dict[str, str]:
    return {row["kind"]: row["action"] for row in done}


def test_a_recurring_run_is_all_that_the_yaml_says(server: FakeKubeflow) -> None:
    _apply(server, _application(cluster={"workspace": "s3://b/w", "service_account": "runner"}))
    (made,) = server.items("recurringruns")
    assert made["trigger"] == {"cron_schedule": {"cron": NIGHTLY}}
    assert (made["mode"], made["max_concurrency"], made["no_catchup"]) == ("ENABLE", "1", True)
    assert made["runtime_config"] == {"parameters": {"run_date": "[[ScheduledTime.2006-01-02]]"}}
    assert made["service_account"] == "runner"
    assert made["display_name"].startswith("small-refresh-")
    assert "limaml schedule apply" in made["description"]
    assert NIGHTLY in made["description"]
    assert (
        made["pipeline_version_reference"]["pipeline_version_id"] == server.items("versions")[0]["pipeline_version_id"]
    )


def test_days_that_begin_at_another_hour_get_the_hour_too(server: FakeKubeflow) -> None:
    _apply(server, _application(windows={"utc_offset_hours": 8}))
    (made,) = server.items("recurringruns")
    assert made["runtime_config"]["parameters"]["run_date"] == "[[ScheduledTime.2006-01-02T15:04:05]]"


def test_applying_twice_asks_for_nothing_the_second_time(server: FakeKubeflow) -> None:
    application = _application({"train": {"cron": "0 0 3 * * 1"}, "refresh": {"cron": NIGHTLY}})
    assert _actions(_apply(server, application)) == {"train": "created", "refresh": "created", "monitor": "kept"}
    before = _there(server)
    written = len(server.asked("POST", ""))
    assert set(_actions(_apply(server, application)).values()) == {"kept"}
    assert _there(server) == before
    assert len(server.asked("POST", "")) == written
    assert not server.asked("DELETE", "")


@pytest.mark.parametrize(
    "change",
    [
        lambda: (_application({"refresh": {"cron": "0 45 2 * * *"}}), {}),
        lambda: (_application(gate={"minimum_rows": 77}), {}),
        lambda: (_application(), {"workspace": "s3://other/w"}),
        lambda: (_application(cluster={"workspace": "s3://b/w", "service_account": "other"}), {}),
    ],
    ids=["cron", "configuration", "parameters", "account"],
)
def test_what_changed_is_replaced_the_new_one_first(server: FakeKubeflow, change: Callable[[], Any]) -> None:
    _apply(server, _application())
    ((old, _),) = _there(server)
    enabled: list[int] = []
    server.on_create = lambda kind, item: enabled.append(sum(on for _, on in _there(server)))
    application, given = change()
    assert _actions(_apply(server, application, **given))["refresh"] == "replaced"
    ((new, on),) = _there(server)
    assert new != old
    assert on
    assert min(enabled[-1:]) >= 1  # when the new one came, the old one was still at work
    switched = [each.path.rpartition(":")[2] for each in server.asked("POST", ":(en|dis)able$")]
    assert switched == ["disable"]


def test_an_unchanged_kind_is_left_alone_when_another_changes(server: FakeKubeflow) -> None:
    both = {"train": {"cron": "0 0 3 * * 1"}, "refresh": {"cron": NIGHTLY}}
    application = _application(both)
    _apply(server, application)
    train = server.items("recurringruns")[0]["recurring_run_id"]
    done = _apply(server, application, workspace="")
    assert [row["recurring_run_id"] for row in done if row["kind"] == "train"] == [train]


def test_a_kind_no_longer_in_the_yaml_is_removed_and_others_recurring_runs_stay(server: FakeKubeflow) -> None:
    for name in ("small-refresh-nightly", "small-refresh-two-0123abcd", "smaller-refresh-0123abcd", "backup"):
        server.add("recurringruns", display_name=name, mode="ENABLE", status="ENABLED")
    _apply(server, _application())
    assert _actions(_apply(server, _application({})))["refresh"] == "removed"
    assert len(server.items("recurringruns")) == 4
    assert not server.asked("POST", ":disable$")[1:]


def test_a_running_run_is_never_taken_along(server: FakeKubeflow) -> None:
    _apply(server, _application())
    (old,) = server.items("recurringruns")
    for state in ("SUCCEEDED", "RUNNING", "FAILED"):
        server.add("runs", recurring_run_id=old["recurring_run_id"], state=state, display_name=state)
    changed = _application({"refresh": {"cron": "0 45 2 * * *"}})
    done = _apply(server, changed)
    assert next(row["waiting"] for row in done if row["kind"] == "refresh") == [old["display_name"]]
    assert old["status"] == "DISABLED"
    assert not server.asked("DELETE", "")
    assert not server.asked("POST", "terminate")
    assert [on for _, on in _there(server)] == [False, True]
    assert next(row["state"] for row in _status(server, changed) if row["kind"] == "refresh") == "in sync"
    next(run for run in server.items("runs") if run["state"] == "RUNNING")["state"] = "SUCCEEDED"
    _apply(server, changed)
    assert [on for _, on in _there(server)] == [True]
    assert server.asked("DELETE", "recurringruns")[0].query["propagation_policy"] == "ORPHAN"


def test_two_who_apply_the_same_at_once_end_with_one(server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    application, start = _application(), threading.Barrier(4)
    uploads.upload(connect(Access(server.host)), schedule.compiled("refresh", application))
    together, create = threading.Barrier(4), schedule._create

    def create_together(*arguments: Any) -> None:
        together.wait(60)  # nobody sees another's before making their own
        create(*arguments)

    monkeypatch.setattr(schedule, "_create", create_together)
    kept: list[str] = []

    def one() -> None:
        kubeflow = connect(Access(server.host))
        start.wait()
        kept.extend(
            row["recurring_run_id"] for row in schedule.apply(kubeflow, application, {}) if row["kind"] == "refresh"
        )

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (left,) = server.items("recurringruns")
    assert left["status"] == "ENABLED"
    assert kept == [left["recurring_run_id"]] * 4
    assert len(server.asked("POST", "recurringruns$")) == 4


def test_two_who_apply_different_yamls_at_once_end_with_one_of_them(server: FakeKubeflow) -> None:
    crons = ["0 0 1 * * *", "0 0 2 * * *"]
    applications = [_application({"refresh": {"cron": cron}}) for cron in crons]
    for application in applications:
        schedule.wanted(application, "refresh", {})
    for _ in range(3):
        start = threading.Barrier(2)

        def one(application: Application, start: threading.Barrier = start) -> None:
            kubeflow = connect(Access(server.host))
            start.wait()
            with suppress(KubeflowError):  # the one whose YAML lost may say so
                schedule.apply(kubeflow, application, {})

        threads = [threading.Thread(target=one, args=(application,)) for application in applications]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (left,) = server.items("recurringruns")
        assert left["status"] == "ENABLED"
        assert left["trigger"]["cron_schedule"]["cron"] in crons


def test_dying_in_the_middle_leaves_a_schedule_and_the_next_apply_mends_it(server: FakeKubeflow) -> None:
    _apply(server, _application())
    changed = _application({"refresh": {"cron": "0 45 2 * * *"}})
    server.fault("POST", ":disable$", status=403, body="{}")
    with pytest.raises(KubeflowError, match="can't disable recurring run"):
        _apply(server, changed)
    assert [on for _, on in _there(server)] == [True, True]
    assert next(row["state"] for row in _status(server, changed) if row["kind"] == "refresh") == "differs"
    _apply(server, changed)
    ((_, on),) = _there(server)
    assert on


def test_a_creation_whose_answer_was_lost_is_found_by_the_next_apply(server: FakeKubeflow) -> None:
    server.fault("POST", "recurringruns$", cut=True, after=True)
    with pytest.raises(KubeflowError, match="whether it was done is not known"):
        _apply(server, _application())
    assert _actions(_apply(server, _application()))["refresh"] == "kept"
    assert len(_there(server)) == 1


def _status(server: FakeKubeflow, application: Application, now: datetime | None = None) -> list[dict[str, Any]]:
    return schedule.status(connect(Access(server.host)), application, {}, now=now)


def test_list_shows_drift_the_next_run_and_the_last(server: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    application, now = _application(), datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert [row["state"] for row in _status(server, application)] == ["none", "absent", "none"]
    _apply(server, application)
    (made,) = server.items("recurringruns")
    for number, state in enumerate(("FAILED", "SUCCEEDED", "RUNNING")):
        server.add("runs", recurring_run_id=made["recurring_run_id"], state=state, display_name=str(number))
        server.add("runs", recurring_run_id="another", state="FAILED", display_name="other")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        row = _status(server, application, now)[1]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert row["state"] == "in sync"
    assert row["next_run"] == "2026-02-01T02:30:00+00:00"
    assert row["last_run"]["state"] == "RUNNING"
    assert row["last_run"]["link"].endswith("/#/runs/details/" + row["last_run"]["run_id"])
    assert _status(server, _application({"refresh": {"cron": "0 45 2 * * *"}}))[1]["state"] == "differs"
    assert _status(server, _application({}))[1]["state"] == "differs"


def test_paused_is_drift_until_resumed_or_applied(server: FakeKubeflow) -> None:
    application = _application()
    _apply(server, application)
    kubeflow = connect(Access(server.host))
    assert _actions(schedule.pause(kubeflow, application))["refresh"] == "paused"
    row = _status(server, application)[1]
    assert (row["state"], row["next_run"]) == ("differs", None)
    assert _actions(schedule.resume(kubeflow, application, {}))["refresh"] == "resumed"
    assert _status(server, application)[1]["state"] == "in sync"
    schedule.pause(kubeflow, application)
    assert _actions(_apply(server, application))["refresh"] == "resumed"
    schedule.pause(kubeflow, application)
    with pytest.raises(KubeflowError, match="not what the YAML of small says"):
        schedule.resume(kubeflow, _application({"refresh": {"cron": "0 0 5 * * *"}}), {})


def test_a_schedule_that_is_off_in_the_yaml_is_there_and_off(server: FakeKubeflow) -> None:
    application = _application({"refresh": {"cron": NIGHTLY, "enabled": False}})
    _apply(server, application)
    assert [on for _, on in _there(server)] == [False]
    assert _status(server, application)[1]["state"] == "in sync"


def test_nothing_is_changed_when_one_of_the_kinds_is_wrong(server: FakeKubeflow) -> None:
    with pytest.raises(ConfigError, match="no workspace"):
        _apply(server, _application(cluster={}))
    assert not server.asked("POST", "")


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 30 25 * * *", "0 30 2 * * MOON", "* * * *", "0 0 0 0 * *"])
def test_a_bad_cron_never_reaches_kubeflow(server: FakeKubeflow, tmp_path: Path, limaml: Command, cron: str) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"schedule": {"refresh": {"cron": cron}}}))
    code, _, err = limaml("schedule", "apply", "--app", str(file), "--host", server.host)
    assert code == 2
    assert "schedule.refresh.cron" in err
    assert not server.requests


def test_the_commands_from_apply_to_delete(
    server: FakeKubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limaml: Command
) -> None:
    file = tmp_path / "small.yaml"
    said = {"cluster": {"workspace": "s3://b/w"}, "schedule": {"refresh": {"cron": NIGHTLY}}}
    file.write_text(yaml.safe_dump(SMALL | said))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)

    def run(*arguments: str) -> dict[str, Any]:
        code, out, err = limaml("schedule", *arguments, "--app", str(file), "--json")
        assert code == 0, err
        assert len(out.splitlines()) == 1
        return json.loads(out)

    applied = run("apply", "--register")
    assert _actions(applied["schedules"])["refresh"] == "created"
    assert {each["pipeline"] for each in applied["pipelines"]} >= {"small-train", "small-refresh"}
    assert run("list")["schedules"][1]["state"] == "in sync"
    assert _actions(run("pause", "--kind", "refresh")["schedules"]) == {"refresh": "paused"}
    assert _actions(run("resume")["schedules"])["refresh"] == "resumed"
    assert _actions(run("delete")["schedules"])["refresh"] == "removed"
    assert _there(server) == []
    assert run("list")["schedules"][1]["state"] == "absent"
    code, out, err = limaml("schedule", "list", "--app", str(file))
    assert (code, "absent" in out) == (0, True), err
    assert limaml("schedule", "pause", "--app", str(file), "--kind", "tarin")[0] == 2
