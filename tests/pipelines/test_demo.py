"""What a demo does around its runs: which application fits a log, which date is meant, what its table says."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.config import load_application
from limaml.errors import ConfigError, LeaseHeld
from limaml.lease import hold
from limaml.workspace import Workspace
from pipelines import closing
from pipelines.demo import _needed, fitting_application
from pipelines.run import bring_in, day_after_newest


def _log(path: Path, columns: set[str]) -> str:
    pq.write_table(pa.table({name: pa.array([1]) for name in sorted(columns)}), path)
    return str(path)


@pytest.mark.parametrize("name", ["kuairand", "movietweetings"])
def test_the_application_is_found_by_a_logs_columns(name: str, tmp_path: Path) -> None:
    columns = _needed(load_application(name)) | {"event_time", "label", "an_outcome"}
    assert fitting_application(_log(tmp_path / "log.parquet", columns)) == name


def test_a_log_that_fits_none_or_several_asks_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no shipped application fits its columns; name one"):
        fitting_application(_log(tmp_path / "log.parquet", {"user_id", "item_id"}))
    both = _needed(load_application("ptap"))
    with pytest.raises(ConfigError, match="pclick_user, ptap fit its columns"):
        fitting_application(_log(tmp_path / "log.parquet", both))
    with pytest.raises(ConfigError, match="nothing there"):
        fitting_application(str(tmp_path / "gone.parquet"))


def test_the_run_date_of_a_finished_log_is_the_day_after_its_newest(tmp_path: Path) -> None:
    for day in ("2026-01-30", "2026-01-31", "2025-12-31"):
        (tmp_path / "interactions" / f"date={day}").mkdir(parents=True)
    assert day_after_newest(str(tmp_path)) == date(2026, 2, 1)
    with pytest.raises(ConfigError, match="--date must be given"):
        day_after_newest(str(tmp_path / "interactions"))


def test_a_data_root_is_used_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "interactions" / "date=2026-01-30").mkdir(parents=True)
    assert bring_in(str(tmp_path), load_application("ptap"), str(tmp_path / "w")) == f"file://{tmp_path}"
    assert not (tmp_path / "w").exists()


def test_two_imports_into_one_workspace_do_not_meet(tmp_path: Path) -> None:
    log = _log(tmp_path / "log.parquet", {"event_time"})
    place = Workspace(str(tmp_path / "w"), "ptap")
    with hold(f"{place.data}.lease", "the other"), pytest.raises(LeaseHeld, match="the other holds"):
        bring_in(log, load_application("ptap"), str(tmp_path / "w"))


def test_the_closing_table_of_a_refused_run(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"vanilla": {"auc": 0.70, "gauc": None}, "limaml": {"auc": 0.69, "gauc": 0.61}}
    closing.show(
        "A title",
        {
            "figures": {"all": figures, "with_support": figures},
            "promoted": False,
            "reasons": ["AUC 0.6900 is -1.43% against vanilla"],
            "tasks": {"train": {"tasks": 1200, "rows": 34000}},
            "pages": ["/w/decision.html"],
        },
    )
    shown = capsys.readouterr().out
    assert "refused" in shown
    assert "1,200 of 34,000 rows" in shown
    assert "0.6900" in shown
    assert "–" in shown, "an unknown figure is a dash, not a number"
    assert "/w/decision.html" in shown
    assert "release" not in shown
