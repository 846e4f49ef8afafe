"""Scoring from a release against the model itself, row by row; and what it never does."""

import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from limaml.config import parse_application
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.features import encode_features
from limaml.errors import ConfigError, DataError, IntegrityError, StoreError
from limaml.model import load_model
from limaml.online.embeddings import generate_embeddings
from limaml.online.release import publish, rollback
from limaml.online.requests import distinct_tasks
from limaml.online.scoring import BaselineScorer, Scorer
from limaml.online.store import open_store
from limaml.schema import task_id
from limaml.storage import local_path
from tests.conftest import SMALL
from tests.limaml.online.chain import AS_OF, Chain, build_chain, group, write_model
from tests.limaml.online.conftest import Files
from tests.limaml.online.served import Served

NOW = datetime(2026, 1, 8, 6, tzinfo=UTC)
META = ["member_x0", "member_x1", "member_kind"]


@pytest.fixture
def served(chain: Chain, tmp_path: Path) -> Served:
    return Served(chain, tmp_path)


def expected_scores(served: Served, table: pa.Table, embeddings: str, model_uri: str) -> np.ndarray:
    """One row at a time: the stored embedding, else the un-adapted block."""
    model = load_model(model_uri)
    row, vectors = EmbeddingFiles(embeddings).lookup()
    result = []
    for at in range(len(table)):
        one = table.slice(at, 1)
        name = task_id(one["member_id"][0].as_py())
        meta = encode_features(served.application.features.meta, one)
        vector = vectors[[row[name]]].astype(np.float16) if name in row else model.zero_shot(*meta)
        other = encode_features(served.application.features.other, one)
        result.append(model.score(vector.astype(np.float32), *other)[0])
    return np.array(result)


def test_equals_the_model_row_by_row(served: Served) -> None:
    table = served.candidates()
    scores = Scorer.open(served.url, served.application).score_table(table, NOW)
    expected = expected_scores(served, table, served.embeddings, served.chain.model)
    np.testing.assert_allclose(scores.probability, expected, rtol=1e-5)
    cold = table["member_id"].to_numpy() >= 50
    assert cold.any()
    assert scores.reason.tolist() == ["zero_shot" if each else "fresh" for each in cold]
    np.testing.assert_array_equal(scores.age_seconds, np.where(cold, np.nan, 6 * 3600.0))
    assert (scores.model_version, scores.generation, scores.as_of) == ("m1", served.release.generation, AS_OF)
    assert scores.probability.dtype == np.float32


def test_the_reasons(served: Served) -> None:
    scorer = Scorer.open(served.url, served.application)
    table = served.candidates(3)
    rows = table.set_column(table.column_names.index("member_id"), "member_id", pa.array([1, 999, 998]))
    nothing = pa.array([None], pa.float64())
    last = rows.slice(2)
    for name, null in (("member_x0", nothing), ("member_x1", nothing), ("member_kind", pa.array([None], pa.string()))):
        last = last.set_column(last.column_names.index(name), name, null)
    rows = pa.concat_tables([rows.slice(0, 2), last])
    limit = timedelta(hours=served.application.monitoring.maximum_age_hours)
    cutoff = served.release.cutoff
    assert scorer.score_table(rows, cutoff + limit).reason.tolist() == ["fresh", "zero_shot", "default"]
    late = scorer.score_table(rows, cutoff + limit + timedelta(seconds=1))
    assert late.reason.tolist() == ["stale", "zero_shot", "default"]
    assert late.age_seconds[0] == limit.total_seconds() + 1
    model = load_model(served.chain.model)
    other = encode_features(served.application.features.other, rows)
    default = model.score(np.tile(model.default_embedding, (3, 1)), *other)
    np.testing.assert_allclose(late.probability[2], default[2], rtol=1e-6)
    # One known meta feature is enough to be described by it.
    kind = last.set_column(last.column_names.index("member_kind"), "member_kind", pa.array(["kind-1"]))
    assert scorer.score_table(kind, NOW).reason.tolist() == ["zero_shot"]


def test_without_meta_columns(served: Served) -> None:
    scorer = Scorer.open(served.url, served.application)
    table = served.candidates()
    bare = scorer.score_table(table.drop_columns(META), NOW)
    full = scorer.score_table(table, NOW)
    cold = table["member_id"].to_numpy() >= 50
    assert bare.reason.tolist() == ["default" if each else "fresh" for each in cold]
    np.testing.assert_array_equal(bare.probability[~cold], full.probability[~cold])
    with pytest.raises(
        DataError, match="meta feature column member_kind missing, while member_x0, member_x1 are there"
    ):
        scorer.score_table(table.drop_columns(["member_kind"]), NOW)


def test_a_task_is_read_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer.open(served.url, served.application)
    asked: list[str] = []
    reader = scorer._pinned.reader
    get = reader.get

    def spy(task_ids: Sequence[str]):
        asked.extend(task_ids)
        return get(task_ids)

    monkeypatch.setattr(reader, "get", spy)
    table = served.candidates()
    scorer.score_table(table, NOW)
    assert sorted(asked) == sorted({str(each) for each in table["member_id"].to_pylist()})


def test_a_read_error_is_never_an_answer(served: Served) -> None:
    scorer = Scorer.open(served.url, served.application)
    scorer._pinned.reader.close()
    with pytest.raises(StoreError, match="can't read"):
        scorer.score_table(served.candidates(), NOW)


def test_nothing_published(served: Served, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no release of small yet"):
        Scorer.open(f"lmdb://{tmp_path}/empty", served.application)


def test_the_pin_holds_until_refresh(served: Served) -> None:
    table = served.candidates()
    scorer = Scorer.open(served.url, served.application)
    before = scorer.score_table(table, NOW)
    assert scorer.refresh() is False
    other = write_model(served.folder, "m2", served.application, served.chain.rows)
    embeddings, second = served.publish(other, "second")
    np.testing.assert_array_equal(scorer.score_table(table, NOW).probability, before.probability)
    assert scorer.refresh() is True
    assert scorer.release == second
    after = scorer.score_table(table, NOW)
    np.testing.assert_allclose(after.probability, expected_scores(served, table, embeddings, other), rtol=1e-5)
    assert after.model_version == "m2"
    rollback(open_store(served.url, "small"))
    assert scorer.refresh() is True
    back = scorer.score_table(table, NOW)
    np.testing.assert_array_equal(back.probability, before.probability)
    assert back.model_version == "m1"


def test_scores_never_mix_two_releases(served: Served) -> None:
    """Rollbacks and refreshes under a scorer in use: every table is whole from the one pair or the other."""
    table = served.candidates(60)
    store = open_store(served.url, "small")
    served.publish(write_model(served.folder, "m2", served.application, served.chain.rows), "second")
    pair = store.releases()
    scorer = Scorer.open(served.url, served.application)
    truth = {}
    number = 2
    for release in pair:
        number += 1
        store.flip(release.model_copy(update={"number": number}))
        scorer.refresh()
        truth[release.model_version] = scorer.score_table(table, NOW).probability
    wrong: list[str] = []
    seen: set[str] = set()
    done = threading.Event()

    def score() -> None:
        while not done.is_set():
            scores = scorer.score_table(table, NOW)
            seen.add(scores.model_version)
            if not np.array_equal(scores.probability, truth[scores.model_version]):
                wrong.append(scores.model_version)

    with ThreadPoolExecutor(2) as pool:
        scoring_threads = [pool.submit(score) for _ in range(2)]
        for step in range(40):
            store.flip(pair[step % 2].model_copy(update={"number": number + 1 + step}))
            scorer.refresh()
        done.set()
        for each in scoring_threads:
            each.result()
    assert wrong == []
    assert seen <= {"m1", "m2"}


def test_a_model_replaced_in_place_is_refused(served: Served) -> None:
    shutil.rmtree(local_path(served.chain.model).parent / "replaced", ignore_errors=True)
    mine = write_model(served.folder, "m3", served.application, served.chain.rows)
    served.publish(mine, "third")
    shutil.rmtree(local_path(mine))
    write_model(served.folder, "m3", served.application, served.chain.rows, scale=2.0)
    with pytest.raises(IntegrityError, match=r"is model m3 .* but release 2 names m3"):
        Scorer.open(served.url, served.application)


def test_a_model_of_another_schema_is_refused(served: Served) -> None:
    changed = parse_application(SMALL | {"features": {"meta": ["member_x0"], "other": ["item_x0"]}}, "tests")
    with pytest.raises(ConfigError, match=r"features\.meta"):
        Scorer.open(served.url, changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["member_id"]), "task key column member_id missing"),
        (lambda t: t.drop_columns(["item_x0", "item_x1"]), "feature columns item_x0, item_x1 missing"),
        (
            lambda t: t.set_column(0, "member_id", pa.array([1, None] + [3] * (len(t) - 2))),
            "column member_id, row 1: null in a task key",
        ),
        (lambda t: t.set_column(0, "member_id", pa.array([1.5] * len(t))), "column member_id: a task key must be"),
        (lambda t: t.append_column("x", t["item_x0"]).drop_columns(["item_x0"]), "feature column item_x0 missing"),
        (
            lambda t: t.drop_columns(["item_x1"]).append_column("item_x1", pa.array([0.0, np.inf] * (len(t) // 2))),
            "column item_x1, row 1: the value is infinite",
        ),
        (
            lambda t: t.set_column(0, "member_id", pa.array(["k" * 600] * len(t))),
            "a task key of 600 bytes",
        ),
    ],
    ids=["no key", "no features", "null key", "float key", "renamed", "infinite", "long key"],
)
def test_bad_requests(served: Served, change, message: str) -> None:
    scorer = Scorer.open(served.url, served.application)
    with pytest.raises(DataError, match=message):
        scorer.score_table(change(served.candidates()), NOW)


def test_no_candidates(served: Served) -> None:
    scores = Scorer.open(served.url, served.application).score_table(served.candidates().slice(0, 0), NOW)
    assert len(scores.probability) == len(scores.reason) == scores.table().num_rows == 0


def test_text_and_integer_keys_are_one_task(served: Served) -> None:
    scorer = Scorer.open(served.url, served.application)
    table = served.candidates()
    text = table.set_column(0, "member_id", table["member_id"].cast(pa.string()))
    np.testing.assert_array_equal(scorer.score_table(text, NOW).probability, scorer.score_table(table, NOW).probability)


def test_the_baseline_adapts_to_no_one(served: Served) -> None:
    table = served.candidates()
    scores = BaselineScorer.open(served.chain.model, served.application).score_table(table, NOW)
    model = load_model(served.chain.model, algorithm="vanilla")
    features = served.application.features
    expected = model.predict_unadapted(*encode_features(features.meta, table), *encode_features(features.other, table))
    np.testing.assert_allclose(scores.probability, expected, rtol=1e-6)
    assert set(scores.reason.tolist()) == {"vanilla"}
    assert np.isnan(scores.age_seconds).all()
    served_scores = Scorer.open(served.url, served.application).score_table(table, NOW)
    assert np.abs(served_scores.probability - scores.probability).max() > 1e-3


def test_distinct_tasks_of_several_keys() -> None:
    rng = np.random.default_rng(0)
    member, kind = rng.integers(0, 9, 300), rng.choice(["a|b", "a", "b\\", "é"], 300)
    table = pa.table({"kind": pa.array(kind.tolist()).dictionary_encode(), "member": member})
    names, of_row = distinct_tasks(("member", "kind"), table)
    assert len(set(names)) == len(names)
    assert [names[at] for at in of_row] == [task_id(m, k) for m, k in zip(member.tolist(), kind.tolist(), strict=True)]


def test_a_meta_feature_that_is_the_key_alone_describes_nobody(tmp_path: Path, chain: Chain) -> None:
    """Per (member, type): the type is known with every request, so it takes more to leave `default`."""
    application = parse_application(
        SMALL
        | {
            "task": {"keys": ["member_id", "notification_type"]},
            "features": {
                "meta": ["member_x0", {"name": "notification_type", "kind": "categorical"}],
                "other": ["item_x0"],
            },
        },
        "tests",
    )
    model = write_model(tmp_path, "m1", application, chain.rows)
    tasks, output = group(tmp_path, application, chain.rows), str(tmp_path / "out")
    generate_embeddings(model, tasks, output, application, AS_OF)
    url = f"lmdb://{tmp_path}/store"
    publish(output, url, application, Files(tmp_path, application).decision(output))
    scorer = Scorer.open(url, application)
    rows = pa.table({"member_id": [1, 999], "notification_type": ["type-1"] * 2, "item_x0": [0.5] * 2})
    assert scorer.score_table(rows, NOW).reason.tolist() == ["fresh", "default"]
    described = rows.append_column("member_x0", pa.array([0.1, 0.2]))
    assert scorer.score_table(described, NOW).reason.tolist() == ["fresh", "zero_shot"]


def test_on_a_frozen_base_whoever_has_no_embedding_is_served_as_by_vanilla(tmp_path: Path) -> None:
    changes = {"network": SMALL["network"] | {"meta_block": "deep_sets"}, "training": {"base": "frozen"}}
    served = Served(build_chain(tmp_path / "chain", parse_application(SMALL | changes, "tests")), tmp_path)
    table = served.candidates()
    probability = Scorer.open(served.url, served.application).score_table(table, NOW).probability
    expected = expected_scores(served, table, served.embeddings, served.chain.model)
    np.testing.assert_allclose(probability, expected, rtol=1e-5)
    vanilla = BaselineScorer.open(served.chain.model, served.application).score_table(table, NOW).probability
    cold = table["member_id"].to_numpy() >= 50
    np.testing.assert_allclose(probability[cold], vanilla[cold], rtol=1e-6)
    assert np.abs(probability - vanilla)[~cold].max() > 1e-3
