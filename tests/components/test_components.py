"""Component bodies on real files: what they return, and what the Kubeflow UI is given."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.generate_embeddings import generate_embeddings
from components.group_tasks import group_tasks
from components.support import Step, log_figures
from components.validate_data import validate_data
from limaml.config import Application, load_application
from limaml.data.simulator import simulate
from limaml.data.world import SimulationSpec
from limaml.errors import StoreError
from limaml.manifest import Manifest, read_manifest


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simulated") / "data"
    simulate(str(root), load_application("ptap"), SimulationSpec(members=120, items=100, days=4))
    return root


@pytest.fixture
def ptap() -> Application:
    content = load_application("ptap").model_dump()
    content["windows"] |= {"lookback_days": 4}
    return Application.model_validate(content)


def _outputs(folder: Path, **types: type) -> dict[str, Any]:
    folder.mkdir()
    return {name: kind(name=name, uri=str(folder / name)) for name, kind in types.items()}


def _validate(application: Application, workspace: Path, data: Path, run_date: str, folder: Path) -> Any:
    outputs = _outputs(folder, manifest=dsl.Artifact, report=dsl.HTML, metrics=dsl.Metrics)
    returned = validate_data.python_func(
        application.model_dump_json(), str(workspace), str(data), run_date, "refresh", **outputs
    )
    return returned, outputs


def test_validate_then_group(ptap: Application, data: Path, tmp_path: Path) -> None:
    (run_date, validated), outputs = _validate(ptap, tmp_path / "w", data, "2026-01-05T03:00:00+00:00", tmp_path / "v")
    assert run_date == "2026-01-05"
    written = read_manifest(validated, "validated")
    assert Manifest.model_validate_json(Path(outputs["manifest"].path).read_text()) == written
    assert outputs["manifest"].metadata["uri"] == validated
    assert outputs["manifest"].metadata["digest"] == written.digest
    assert outputs["metrics"].metadata["kept"] == written.counts["kept"] > 0
    assert "<html" in Path(outputs["report"].path).read_text()

    grouped = _outputs(tmp_path / "g", manifest=dsl.Artifact, metrics=dsl.Metrics)
    uri = group_tasks.python_func(ptap.model_dump_json(), str(tmp_path / "w"), run_date, validated, "recent", **grouped)
    tasks = read_manifest(uri, "task_set")
    assert tasks.counts["rows"] == tasks.counts["support_rows"], "all of a refresh's rows are support"
    assert Manifest.model_validate_json(Path(grouped["manifest"].path).read_text()) == tasks


def test_refused_data_ends_the_step_and_still_shows_its_page(
    ptap: Application, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    termination_log = tmp_path / "termination.log"
    termination_log.touch()
    monkeypatch.setenv("LIMAML_TERMINATION_LOG", str(termination_log))
    strict = ptap.model_copy(update={"validation": ptap.validation.model_copy(update={"label_rate": (0.9, 1.0)})})
    with pytest.raises(SystemExit) as stop:
        _validate(strict, tmp_path / "w", data, "2026-01-05", tmp_path / "v")
    assert stop.value.code == 3
    assert "<html" in (tmp_path / "v" / "report").read_text()
    assert json.loads((tmp_path / "v" / "manifest").read_text())["details"]["passed"] is False
    assert termination_log.read_text().startswith("ERROR DataError: ")
    assert termination_log.read_text() in capsys.readouterr().err


def test_a_wrong_configuration_exits_2(data: Path, tmp_path: Path) -> None:
    outputs = _outputs(tmp_path / "v", manifest=dsl.Artifact, report=dsl.HTML, metrics=dsl.Metrics)
    with pytest.raises(SystemExit) as stop:
        validate_data.python_func("{}", str(tmp_path / "w"), str(data), "", "refresh", **outputs)
    assert stop.value.code == 2


def test_refreshing_before_any_release_exits_5_and_says_what_to_do(
    ptap: Application, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = _outputs(tmp_path / "e", manifest=dsl.Artifact, metrics=dsl.Metrics)
    with pytest.raises(SystemExit) as stop:
        generate_embeddings.python_func(ptap.model_dump_json(), str(tmp_path / "w"), "2026-01-05", "t", **outputs)
    assert stop.value.code == 5
    assert "no release of ptap yet; a promoted training run publishes one" in capsys.readouterr().err


def test_a_step_leaves_only_our_own_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logging.basicConfig(level=logging.INFO, force=True)
    with Step():
        logging.getLogger("limaml.x").info("ours")
        logging.getLogger("somebody.else").info("theirs")
    captured = capsys.readouterr().err
    assert captured.count("ours") == 1
    assert "theirs" not in captured


def test_bugs_pass_through_a_step_with_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    termination_log = tmp_path / "termination.log"
    termination_log.touch()
    monkeypatch.setenv("LIMAML_TERMINATION_LOG", str(termination_log))
    with pytest.raises(KeyError), Step():
        raise KeyError("x")
    assert termination_log.read_text() == "ERROR KeyError: 'x'"


def test_nobody_makes_a_termination_log_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMAML_TERMINATION_LOG", str(tmp_path / "none"))
    with pytest.raises(SystemExit) as stop, Step():
        raise StoreError("gone")
    assert stop.value.code == 5
    assert not (tmp_path / "none").exists()


def test_figures_are_flattened_and_what_is_no_number_left_out() -> None:
    metrics = dsl.Metrics(name="metrics", uri="unused")
    log_figures({"rows": 3, "auc": {"limaml": 0.75, "nan": float("nan")}, "name": "x", "none": None}, metrics)
    assert metrics.metadata == {"rows": 3.0, "auc.limaml": 0.75}
