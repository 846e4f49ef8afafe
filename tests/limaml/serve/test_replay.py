"""What is served equals what an offline run computes: thousands of requests of all sorts, replayed from their log."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from typer.testing import CliRunner

from limaml.cli import replay as command
from limaml.config import Application
from limaml.errors import DataError
from limaml.online.store import open_store
from limaml.serve.replay import check, replay
from tests.limaml.online.served import Served
from tests.limaml.serve.answers import with_log
from tests.limaml.serve.conftest import asgi, serving, with_serve

NUMBERS = [0, -1.5, 3, 1e-30, 2**53 + 1, -(2**60), 123456.789, 1e38, True, False, None, 0.1]
TEXTS = ["type-1", "type-2", "kind-0", "never seen", "", "Zürich 東京", "3", 3, 3.0, 2.5, -0.0, True, None, "x" * 300]


def odd_request(rng: np.random.Generator) -> dict[str, Any]:
    """Members known and not, as numbers and as text; features of every type a request may bring, some missing."""

    def number() -> Any:
        return NUMBERS[rng.integers(len(NUMBERS))] if rng.random() < 0.2 else float(rng.normal())

    def text() -> Any:
        return TEXTS[rng.integers(len(TEXTS))]

    member: Any = int(rng.integers(0, 70))
    meta = {"member_x0": number(), "member_x1": number(), "member_kind": text()}
    others = lambda: {"item_x0": number(), "item_x1": number(), "notification_type": text()}  # noqa: E731
    items = [int(each) for each in rng.choice(1000, rng.integers(1, 5), replace=False)]
    shared = others() if rng.random() < 0.2 else {}
    return {
        "task": {"member_id": str(member) if rng.random() < 0.3 else member},
        "features": {**(meta if rng.random() < 0.8 else {}), **shared},
        "candidates": [{"item_id": item, **({} if shared else others())} for item in items],
    }


def logged(served: Served, folder: Path, count: int, seed: int = 0) -> tuple[Application, str]:
    """The application and the log of so many requests, answered by the service."""
    url = str(folder / "log")
    application = with_serve(with_log(served.application, url, features=True, queue_requests=count))
    app = serving(application, open_store(served.url, application.name))
    rng = np.random.default_rng(seed)
    bodies = [orjson.dumps(odd_request(rng)) for _ in range(count)]

    async def ask() -> None:
        for body in bodies:
            assert (await asgi(app, "POST", "/v1/score", body)).status == 200

    asyncio.run(ask())
    app.state.service.close()
    return application, url


@pytest.mark.parametrize(
    ("runtime", "count"),
    [("torch", 600), ("onnxruntime", 600), pytest.param("torch", 10_000, marks=pytest.mark.heavy)],
)
def test_requests_are_scored_alike_offline(served: Served, tmp_path: Path, runtime: str, count: int) -> None:
    serve = served.application.serve.model_copy(update={"runtime": runtime})
    chosen = served.application.model_copy(update={"serve": serve})
    before, served.application = served.application, chosen
    try:
        application, url = logged(served, tmp_path, count)
    finally:
        served.application = before
    found = replay(url, served.url, application)
    assert found.requests == count
    assert found.compared > 2 * count
    assert (found.other_features, found.other_scores, found.without_store, found.collected) == (0, 0, 0, 0)
    assert found.largest_difference <= 1e-6
    check(found, url)
    log = pq.read_table(url).to_pandas()
    assert set(log.reason) == {"stale", "zero_shot", "default", "vanilla"}
    assert log.score.std() > 0.01, "scores that are all alike are easily equal"


def spoiled(url: str, folder: Path, column: str, change: Any) -> str:
    """The log with one row of a column changed."""
    table = pq.read_table(url)
    values = table[column].to_pylist()
    values[7] = change(values[7])
    place = table.schema.get_field_index(column)
    changed = table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type))
    (folder / "date=2026-01-01").mkdir(parents=True)
    pq.write_table(changed, folder / "date=2026-01-01" / "part.parquet")
    return str(folder)


@pytest.fixture(scope="module")
def hundred(served: Served, tmp_path_factory: pytest.TempPathFactory) -> tuple[Application, str]:
    return logged(served, tmp_path_factory.mktemp("hundred"), 100)


def test_a_score_that_differs_is_found(served: Served, hundred: tuple[Application, str], tmp_path: Path) -> None:
    application, url = hundred
    found = replay(spoiled(url, tmp_path, "score", lambda score: score + 3e-6), served.url, application)
    assert (found.other_scores, found.other_features, found.equal) == (1, 0, False)
    assert found.largest_difference == pytest.approx(3e-6, rel=0.2)
    with pytest.raises(DataError, match="0 have other features offline and 1 another score"):
        check(found, url)
    assert replay(str(tmp_path), served.url, application, tolerance=1e-5).equal


def test_a_feature_that_differs_is_found(served: Served, hundred: tuple[Application, str], tmp_path: Path) -> None:
    application, url = hundred
    other = spoiled(url, tmp_path, "features", lambda asked: {**asked, "notification_type": "another one"})
    found = replay(other, served.url, application)
    assert (found.other_features, found.equal) == (1, False)
    assert found.example == pq.read_table(other)["request_id"][7].as_py()


def test_a_log_without_features_is_refused(served: Served, tmp_path: Path) -> None:
    application = with_log(served.application, str(tmp_path / "log"))
    app = serving(application, open_store(served.url, application.name))
    asyncio.run(asgi(app, "POST", "/v1/score", orjson.dumps(odd_request(np.random.default_rng(3)))))
    app.state.service.close()
    with pytest.raises(DataError, match="no column 'features'"):
        replay(str(tmp_path / "log"), served.url, application)


def test_answers_of_several_releases_are_each_replayed_by_their_own(fresh: Served, tmp_path: Path) -> None:
    logged(fresh, tmp_path, 50, seed=1)
    fresh.publish_model("m7")
    application, url = logged(fresh, tmp_path, 50, seed=2)
    found = replay(url, fresh.url, application)
    assert found.equal
    assert found.requests == 100
    versions = set(pq.read_table(url)["model_version"].to_pylist())
    assert versions == {"m1", "m7"}


def test_the_command(served: Served, hundred: tuple[Application, str], tmp_path: Path) -> None:
    application, url = hundred
    app = typer.Typer()
    command.register(app)
    text = yaml.safe_dump(application.model_dump(mode="json") | {"store": {"url": served.url}})
    (tmp_path / "app.yaml").write_text(text)
    options = ["--app", str(tmp_path / "app.yaml"), "--workspace", str(tmp_path), "--json"]
    good = CliRunner().invoke(app, ["--exposures", url, *options])
    assert good.exit_code == 0
    assert orjson.loads(good.stdout)["equal"] is True
    other = spoiled(url, tmp_path / "spoiled", "score", lambda score: score / 2)
    refused = CliRunner().invoke(app, ["--exposures", other, *options])
    assert isinstance(refused.exception, DataError)
    assert orjson.loads(refused.stdout)["other_scores"] == 1
