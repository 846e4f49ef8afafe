"""The exposure log on real disks: what a row holds, what is lost when, and that nothing goes missing unsaid."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from limaml.config import Application
from limaml.errors import ConfigError
from limaml.experiment.exposures import exposure_columns, exposure_schema, open_log
from limaml.serve.exposure_rows import FEATURES, FEATURES_DIGEST
from limaml.serve.exposures import ExposureLog, exposure_log
from limaml.serve.spool import Journal, read_journal
from tests.limaml.serve.answers import NOON, answered, with_log


class Counts(Counter[str]):
    """What became of rows."""

    def __call__(self, outcome: str, rows: int) -> None:
        self[outcome] += rows


def rows_of(url: str) -> list[dict]:
    return open_log(url, exposure_schema(pa.string(), pa.string())).to_table().to_pylist()


def wait_for(what, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def test_a_row_says_what_a_report_needs(application: Application, tmp_path: Path) -> None:
    url, counts = str(tmp_path / "log"), Counts()
    log = ExposureLog(with_log(application, url), counts)
    exposure = answered(application, 1, member="42", rows=4, cohort="C1")
    assert log.record(exposure)
    log.close()
    rows = rows_of(url)
    scores, order = exposure.scores, np.argsort(-exposure.scores.probability)
    assert [row["score"] for row in rows] == scores.probability[order].tolist()
    assert [row["item_id"] for row in rows] == [str(exposure.columns.values["item_id"][place]) for place in order]
    assert [row["reason"] for row in rows] == scores.reason[order].tolist()
    ages = [None if np.isnan(age) else age for age in scores.age_seconds[order]]
    assert [row["embedding_age_seconds"] for row in rows] == ages
    assert [row["position"] for row in rows] == [1, 2, 3, 4]
    same = {name: {row[name] for row in rows} for name in ("request_id", "member_id", "event_time", "label", "cohort")}
    assert same == {
        "request_id": {"request-1"}, "member_id": {42}, "event_time": {NOON}, "label": {None}, "cohort": {"C1"},
    }  # fmt: skip
    assert {(row["experiment"], row["variant"]) for row in rows} == {("limaml", exposure.assigned.variant)}
    assert {(row["model_version"], row["generation"]) for row in rows} == {("m1", "20260301-0123456789ab")}
    assert counts == {"recorded": 4, "delivered": 4}
    assert open_log(url, exposure_columns(), [NOON.date()]).count_rows() == 4


def test_days_are_logical_and_the_best_are_enough(application: Application, tmp_path: Path) -> None:
    windows = application.windows.model_copy(update={"utc_offset_hours": 8})
    application = application.model_copy(update={"windows": windows})
    log = ExposureLog(with_log(application, str(tmp_path / "log"), positions=2), Counts())
    for number, hours in enumerate((0, 5, 30)):  # noon UTC is 20:00 of the day there
        log.record(answered(application, number, rows=5, at=NOON + timedelta(hours=hours)))
    log.close()
    found = {path.name: ds.dataset(path).count_rows() for path in (tmp_path / "log").glob("date=*")}
    assert found == {"date=2026-03-02": 2, "date=2026-03-03": 2, "date=2026-03-04": 2}
    assert {row["position"] for row in rows_of(str(tmp_path / "log"))} == {1, 2}


def test_files_end_by_rows_and_by_seconds(application: Application, tmp_path: Path) -> None:
    url = str(tmp_path / "log")
    log = ExposureLog(with_log(application, url, rotate_rows=10, rotate_seconds=0.3), Counts())
    for number in range(5):
        log.record(answered(application, number, rows=4))
        wait_for(lambda: log._queue.empty())
        time.sleep(0.03)
    wait_for(lambda: len(rows_of(url)) >= 12 if list((tmp_path / "log").rglob("*.parquet")) else False)
    wait_for(lambda: len(rows_of(url)) == 20)
    assert len(list((tmp_path / "log").rglob("*.parquet"))) >= 2
    assert log._thread.is_alive()
    log.close()
    assert not list((tmp_path / "log" / ".spool").iterdir())


def test_a_member_who_is_no_number_is_refused_and_counted(application: Application, tmp_path: Path) -> None:
    counts = Counts()
    log = ExposureLog(with_log(application, str(tmp_path / "log")), counts)
    assert not log.record(answered(application, 1, member="u-17"))
    assert not log.record(answered(application, 1, member=str(2**63)))
    log.close()
    assert counts == {"refused": 6}


def test_a_request_without_candidates_leaves_no_row_and_no_harm(application: Application, tmp_path: Path) -> None:
    counts = Counts()
    log = ExposureLog(with_log(application, str(tmp_path / "log"), features=True), counts)
    assert log.record(answered(application, 1, rows=0))
    wait_for(log._queue.empty)
    assert log.record(answered(application, 2, rows=1))
    log.close()
    assert [row["request_id"] for row in rows_of(str(tmp_path / "log"))] == ["request-2"]


def test_no_log_is_asked_for(application: Application) -> None:
    assert exposure_log(application, Counts()) is None


def test_a_far_log_needs_a_spool_of_its_own(application: Application) -> None:
    with pytest.raises(ConfigError, match=r"experiment\.exposures\.spool: required, since the log s3://b/log"):
        exposure_log(with_log(application, "s3://b/log"), Counts())


def test_an_s3_log(application: Application, tmp_path: Path, s3: str) -> None:
    log = ExposureLog(with_log(application, f"{s3}/log", spool=str(tmp_path)), Counts())
    for number in range(3):
        log.record(answered(application, number))
    log.close()
    assert len(rows_of(f"{s3}/log")) == 9
    assert not list(tmp_path.iterdir())


def test_a_log_out_of_reach_gets_everything_once_it_is_back(application: Application, tmp_path: Path) -> None:
    """A file where the log's folder should be: nothing can be written there."""
    (tmp_path / "log").write_text("")
    counts, spool = Counts(), str(tmp_path / "spool")
    logged = with_log(application, str(tmp_path / "log"), spool=spool, rotate_rows=3)
    log = ExposureLog(logged, counts)
    for number in range(20):
        assert log.record(answered(application, number))
    wait_for(lambda: counts["delivery_failed"] >= 1)
    (tmp_path / "log").unlink()
    wait_for(lambda: counts["delivered"] == 60)
    log.close()
    assert {row["request_id"] for row in rows_of(logged.experiment.exposures.url)} == {
        f"request-{n}" for n in range(20)
    }


def test_what_is_not_delivered_at_the_end_is_by_the_next_process(application: Application, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    logged = with_log(application, str(tmp_path / "log"), spool=str(tmp_path / "spool"))
    log = ExposureLog(logged, Counts())
    log.record(answered(application, 1))
    log.close(seconds=5)
    (tmp_path / "log").unlink()
    counts = Counts()
    ExposureLog(logged, counts).close()
    assert counts == {"delivered": 3}


def test_a_full_spool_and_a_full_queue_drop_and_say_so(application: Application, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    counts = Counts()
    logged = with_log(
        application,
        str(tmp_path / "log"),
        spool=str(tmp_path / "spool"),
        rotate_rows=1,
        spool_bytes=1,
        queue_requests=5,
    )
    log = ExposureLog(logged, counts)
    taken = set()
    for number in range(200):
        if log.record(answered(application, number)):
            taken.add(f"request-{number}")
        time.sleep(0.002)
    assert counts["dropped"] == log.dropped > 0
    assert counts["recorded"] + counts["dropped"] == 600
    (tmp_path / "log").unlink()
    wait_for(lambda: counts["delivered"] == counts["recorded"], 30)
    log.close()
    assert {row["request_id"] for row in rows_of(logged.experiment.exposures.url)} == taken


def test_a_journal_delivered_twice_is_one_file(application: Application, tmp_path: Path) -> None:
    """As after a death between the log's file and the end of the journal."""
    url, spool = str(tmp_path / "log"), tmp_path / "log" / ".spool"
    logged = with_log(application, url)
    log = ExposureLog(logged, Counts())
    log.record(answered(application, 1))
    wait_for(lambda: any(read_journal(path) for path in spool.glob("[!.]*.journal")))
    (journal,) = spool.glob("*.journal")
    shutil.copy(journal, tmp_path / "copy")
    log.close()
    shutil.copy(tmp_path / "copy", journal)
    ExposureLog(logged, Counts()).close()
    assert len(rows_of(url)) == 3
    assert not list(spool.iterdir())


def test_a_journal_cut_off_in_the_middle_keeps_what_was_appended_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path, pa.schema([("x", pa.int64())]))
    for number in range(3):
        journal.append(pa.table({"x": np.arange(100) + 100 * number}))
    journal.close()
    data = journal.path.read_bytes()
    for cut in (1, 50, 400, 900):
        journal.path.write_bytes(data[:-cut])
        table = read_journal(journal.path)
        assert table is not None
        assert table["x"].to_pylist() == list(range(len(table)))
        assert len(table) in (100, 200)
    journal.path.write_bytes(data[:10])
    assert read_journal(journal.path) is None


def test_another_processes_journal_is_left_alone(application: Application, tmp_path: Path) -> None:
    logged = with_log(application, str(tmp_path / "log"))
    one, counts = ExposureLog(logged, Counts()), Counts()
    one.record(answered(application, 1))
    wait_for(lambda: list((tmp_path / "log" / ".spool").glob("*.journal")))
    ExposureLog(logged, counts).close()
    assert counts == {}
    one.close()
    assert len(rows_of(str(tmp_path / "log"))) == 3


WRITER = """
import sys, time
from limaml.config import parse_application
from limaml.serve.exposures import ExposureLog
from tests.conftest import SMALL
from tests.limaml.serve.answers import answered, with_log
application = with_log(parse_application(SMALL, "tests"), sys.argv[1], journal_seconds=0.1, rotate_rows=300)
made = [answered(application, number) for number in range(3000)]
log = ExposureLog(application, lambda outcome, rows: None)
for exposure in made:
    assert log.record(exposure)
    print(exposure.request_id, time.monotonic(), flush=True)
    time.sleep(0.001)
"""


def test_a_killed_process_loses_only_what_its_journal_had_not_seen(application: Application, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    recorded: dict[str, float] = {}
    for line in process.stdout:
        name, at = line.split()
        recorded[name] = float(at)
        if len(recorded) == 1500:
            break
    killed = time.monotonic()
    process.kill()
    process.wait()
    process.stdout.close()
    logged = with_log(application, str(tmp_path / "log"))
    ExposureLog(logged, Counts()).close()
    found = Counter(row["request_id"] for row in rows_of(str(tmp_path / "log")))
    assert set(found.values()) == {3}, "every answer whole, and once"
    lost = [killed - at for name, at in recorded.items() if name not in found]
    assert len(found) > 1000
    assert max(lost, default=0.0) < 0.1 + 0.5, "the journal's interval, and half a second for a busy machine"


def test_features_are_kept_as_the_network_read_them(application: Application, tmp_path: Path) -> None:
    url = str(tmp_path / "log")
    log = ExposureLog(with_log(application, url, features=True), Counts())
    exposure = answered(application, 3, rows=6)
    log.record(exposure)
    log.close()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    table = pq.ParquetFile(path).read()
    order = np.argsort(-exposure.scores.probability)
    asked = pa.Table.from_struct_array(table[FEATURES])
    expected = exposure.candidates.other[0][order].T
    for name, numbers in zip(("item_x0", "item_x1"), expected, strict=True):
        np.testing.assert_array_equal(asked[name].to_numpy(), numbers)
    kinds = exposure.columns.values["notification_type"]
    assert asked["notification_type"].to_pylist() == [kinds[row] for row in order]
    assert asked["member_id"].to_pylist() == ["7"] * 6
    assert table[FEATURES_DIGEST].null_count == 0
