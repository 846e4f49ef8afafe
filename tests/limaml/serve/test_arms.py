"""A test running in the service: members get their arm's scorer, answers are recorded, and the report reads them."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.config import Application
from limaml.experiment.analysis import analyze
from limaml.experiment.assignment import Assigner
from limaml.experiment.exposures import exposure_schema, open_log
from limaml.experiment.metrics import CTR, EVERYONE
from limaml.experiment.report import ABReport
from limaml.online.scoring import BaselineScorer, Scorer
from limaml.online.store import open_store
from limaml.serve.exposures import ExposureLog
from limaml.windows import Window
from tests.limaml.online.served import Served
from tests.limaml.serve.answers import with_log
from tests.limaml.serve.conftest import Client, as_table, request_of, running, until, with_serve
from tests.limaml.serve.test_process import process

MEMBERS = [3, 5, 8, 13, 17, 21, 34, 44, 52, 55]


@pytest.fixture
def tested(served: Served, tmp_path: Path) -> Application:
    return with_serve(with_log(served.application, str(tmp_path / "log")))


@contextmanager
def ready(served: Served, application: Application) -> Iterator[Client]:
    with running(application, open_store(served.url, application.name)) as client:
        until(lambda: client.get("/v2/health/ready").status == 200)
        yield client


@pytest.fixture
def client(served: Served, tested: Application) -> Iterator[Client]:
    with ready(served, tested) as client:
        yield client


def test_members_get_the_scorer_of_their_arm(client: Client, served: Served, tested: Application) -> None:
    scorers: dict[str, Any] = {
        "treatment": Scorer.open(served.url, tested),
        "control": BaselineScorer.open(served.release.model_uri, tested),
    }
    seen = set()
    for member in MEMBERS:
        asked = request_of(served, member)
        answer = client.score(asked).json
        arm = Assigner(tested.experiment).arm(member).variant
        assert (answer["experiment"], answer["variant"]) == ("limaml", arm)
        expected = scorers[arm].score_table(as_table(asked))
        np.testing.assert_allclose(
            [each["probability"] for each in answer["candidates"]], expected.probability, rtol=0, atol=1e-6
        )
        assert [each["reason"] for each in answer["candidates"]] == expected.reason.tolist()
        seen.add(arm)
    assert seen == {"control", "treatment"}


def test_answers_are_recorded_as_they_were_given(served: Served, tested: Application, tmp_path: Path) -> None:
    answers = {}
    with ready(served, tested) as client:
        for number, member in enumerate(MEMBERS):
            asked = request_of(served, member, 5)
            name = {"x-request-id": f"call-{number}"} if number % 2 else {}
            answer = client.score(asked, **name).json
            assert not name or answer["request_id"] == name["x-request-id"]
            answers[answer["request_id"]] = (member, answer)
        assert client.metric('limaml_exposures_total{outcome="recorded"}') == 50
    rows = open_log(str(tmp_path / "log"), exposure_schema(pa.string(), pa.string())).to_table().to_pylist()
    assert len(rows) == 50
    for row in rows:
        member, answer = answers[row["request_id"]]
        (candidate,) = (each for each in answer["candidates"] if each["rank"] == row["position"])
        assert row["member_id"] == member
        assert (row["item_id"], row["reason"]) == (str(candidate["item_id"]), candidate["reason"])
        assert row["score"] == pytest.approx(candidate["probability"], abs=1e-7)
        assert (row["experiment"], row["variant"]) == ("limaml", answer["variant"])
        assert row["model_version"] == answer["model_version"]
        assert row["generation"] == ("" if answer["variant"] == "control" else answer["generation"])


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_a_process_leaves_what_it_answered(served: Served, tmp_path: Path, end: signal.Signals) -> None:
    """Two workers that drain have delivered all; one that is killed lost what was answered at the very end at most."""
    url, answered = str(tmp_path / "exposures"), {}
    exposures = {"exposures": {"url": url, "journal_seconds": 0.1}}
    workers = 2 if end == signal.SIGTERM else 1
    with process(served, tmp_path, workers, exposures, drain_seconds=0.1) as service:
        for number in range(120):
            answer = service.client.score(request_of(served, MEMBERS[number % len(MEMBERS)], 3)).json
            answered[answer["request_id"]] = time.monotonic()
            time.sleep(0.005)
        stopped = time.monotonic()
        service.popen.send_signal(end)
        service.popen.wait(40)
    if end == signal.SIGKILL:
        ExposureLog(with_log(served.application, url), lambda outcome, rows: None).close()
    table = open_log(url, exposure_schema(pa.string(), pa.string())).to_table()
    found = Counter(table["request_id"].to_pylist())
    assert set(found.values()) == {3}
    lost = [stopped - at for name, at in answered.items() if name not in found]
    assert max(lost, default=0.0) < (0.1 + 0.5 if end == signal.SIGKILL else 1e-9)
    assert len(found) + len(lost) == 120


def test_without_a_log_everybody_gets_the_current_release(served: Served) -> None:
    with ready(served, with_serve(served.application)) as client:
        for member in MEMBERS:
            answer = client.score(request_of(served, member)).json
            assert "experiment" not in answer
            assert answer["reason"] != "vanilla"


def test_an_arm_may_be_an_earlier_release(fresh: Served, tmp_path: Path) -> None:
    """Two models, one arm each; the rest of the members get the vanilla one."""
    first, newer = fresh.release, fresh.publish_model("m9")
    tested = with_serve(with_log(fresh.application, str(tmp_path / "log")))
    experiment = tested.experiment.model_copy(update={"control": first.number, "ramp": 0.5, "otherwise": "vanilla"})
    application = tested.model_copy(update={"experiment": experiment})
    with ready(fresh, application) as client:
        found = {}
        for member in MEMBERS:
            answer = client.score(request_of(fresh, member)).json
            found.setdefault(answer.get("variant"), set()).add((answer["release"], answer["reason"] == "vanilla"))
    assert found == {
        "control": {(first.number, False)},
        "treatment": {(newer.number, False)},
        None: {(newer.number, True)},
    }


def test_the_report_reads_the_log_as_it_is(served: Served, tested: Application, tmp_path: Path) -> None:
    """Two hundred members of the log answered over HTTP; what was clicked comes from elsewhere."""
    rng = np.random.default_rng(0)
    outcomes, clicks = [], {"control": 0, "treatment": 0}
    with ready(served, tested) as client:
        for member in range(1000, 1200):
            asked = request_of(served, 3, 4) | {"task": {"member_id": member}}
            answer = client.score(asked).json
            for candidate in answer["candidates"]:
                if candidate["rank"] <= 2:
                    label = int(rng.random() < 0.4)
                    clicks[answer["variant"]] += label
                    outcomes.append((answer["request_id"], candidate["item_id"], label))
    names = ("request_id", "item_id", "label")
    (tmp_path / "outcomes").mkdir()
    pq.write_table(
        pa.table(dict(zip(names, zip(*outcomes, strict=True), strict=True))), tmp_path / "outcomes/a.parquet"
    )
    today = datetime.now(UTC)
    day = today.date()
    for name, column in (("visits", "visit_time"), ("signups", "signup_time")):
        folder = tmp_path / name / f"date={day}"
        folder.mkdir(parents=True)
        before = pa.array([today - timedelta(days=100)], pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({"member_id": [1000], column: before}), folder / "a.parquet")
    window = Window(start=day, end=day + timedelta(days=1))
    log, visits, signups, output, shown = (
        str(tmp_path / n) for n in ("log", "visits", "signups", "report", "outcomes")
    )
    analyze(log, visits, signups, output, tested, window, outcomes=shown)
    report = ABReport.model_validate_json((tmp_path / "report/report.json").read_text())
    assert report.split.passed
    assert report.split.control + report.split.treatment == 200
    assert report.impressions == 400
    ctr = report.find(EVERYONE, CTR)
    assert ctr is not None
    assert ctr.control == pytest.approx(clicks["control"] / (2 * report.split.control))
    assert ctr.treatment == pytest.approx(clicks["treatment"] / (2 * report.split.treatment))
