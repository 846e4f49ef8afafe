"""The local runner itself: what KFP promises, and how a failing step's own words reach the user."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components import IMAGE
from limaml import errors
from pipelines.local import StepLog, run_pipeline


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def write(text: str) -> str:
    import logging

    from components.support import Step

    with Step():
        logging.getLogger("limaml.toy").info(text)
    return text + "!"


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def fail(kind: str, log: str):
    import logging
    import pathlib

    from components.support import Step
    from limaml import errors

    with Step():
        logging.getLogger("limaml.toy").info("about to fail")
        with pathlib.Path(log).open("a") as stream:
            stream.write("failed\n")
        if kind == "bug":
            raise ZeroDivisionError("a bug")
        raise getattr(errors, kind)("day 3: label is 7\n  in part-0.parquet, row 12")


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def note(text: str, log: str):
    import pathlib

    with pathlib.Path(log).open("a") as stream:
        stream.write(text + "\n")


@dsl.pipeline(name="toy-chain")
def chain(text: str):
    first: Any = write(text=text)
    second: Any = write(text=first.set_display_name("Write").output)
    second.set_display_name("Write again")


@dsl.pipeline(name="toy-failure")
def failure(kind: str, log: str):
    first: Any = fail(kind=kind, log=log)
    second: Any = note(text="after", log=log)
    second.after(first)


@dsl.pipeline(name="toy-branches")
def branches(value: str, log: str):
    with dsl.If(value == "yes"):
        note(text="if", log=log)
    with dsl.Else():
        note(text="else", log=log)


def test_steps_pass_parameters_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_pipeline(chain, {"text": 'ä "quoted" {brace} $HOME'}) is None
    captured = capfd.readouterr()
    assert captured.out == "", "standard output belongs to results"
    lines = [line.rpartition("limaml.toy: ")[2] for line in captured.err.splitlines()]
    text = 'ä "quoted" {brace} $HOME'
    assert lines == ["── Write", text, "── Write again", text + "!"]


@pytest.mark.parametrize("kind", ["DataError", "GateRefused"])
def test_a_failing_step_is_told_in_its_own_words(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    error = run_pipeline(failure, {"kind": kind, "log": str(log)})
    assert type(error) is getattr(errors, kind)
    assert str(error) == "day 3: label is 7\n  in part-0.parquet, row 12"
    assert log.read_text() == "failed\n", "a step ran although the step before it failed"
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "── fail"
    assert lines[1].endswith("INFO limaml.toy: about to fail")
    assert lines[2] == f"ERROR {kind}: day 3: label is 7"
    assert "executor_input" not in captured.err
    assert "Traceback" not in captured.err


def test_a_bug_keeps_its_traceback_and_names_the_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    error = run_pipeline(failure, {"kind": "bug", "log": str(tmp_path / "log")})
    assert type(error) is errors.LimamlError
    assert "step 'fail' failed: ZeroDivisionError: a bug" in str(error)
    assert 'raise ZeroDivisionError("a bug")' in capfd.readouterr().err


@pytest.mark.parametrize(("value", "ran"), [("yes", "if\n"), ("no", "else\n")])
def test_the_pinned_runner_runs_exactly_one_branch(value: str, ran: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_pipeline(branches, {"value": value, "log": str(log)}) is None
    assert log.read_text() == ran


def test_the_word_the_runner_rewrites_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match=r"text: .*'python3'"):
        run_pipeline(chain, {"text": "file:///home/python3/logs"})


def test_a_step_ends_when_its_runner_is_killed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = (
        "import time, pathlib\n"
        "from components.support import Step\n"
        "with Step():\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
        f"    pathlib.Path({str(marker)!r}).touch()\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "LIMAML_LOCAL_RUN": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.stdout.close()
        assert process.wait(timeout=30) == 137
    assert not marker.exists()


def test_the_log_drops_the_dump_of_inputs_and_keeps_the_steps_lines() -> None:
    sink = io.StringIO()
    log = StepLog(sink)
    text = (
        "12:00:00.000 - INFO - Executing task \x1b[96m'a-step'\x1b[0m\n"
        "12:00:00.000 - INFO - Streamed logs:\n\n"
        '    [KFP Executor 2026 INFO]: Got executor_input:\n    {\n        "application": "{}"\n    }\n'
        "    a line\n"
        "12:00:00.000 - INFO - Task \x1b[96m'a-step'\x1b[0m finished with status SUCCESS\n"
        "12:00:00.000 - INFO - Task outputs:\n    Output: 'x'\n"
    )
    for start in range(0, len(text), 7):
        log.write(text[start : start + 7])
    assert sink.getvalue() == "── a-step\na line\n"
