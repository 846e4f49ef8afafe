"""Embeddings of several task definitions: generated, published as one release, and scored as evaluation scores them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.config import Application, parse_application
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.features import encode_features
from limaml.data.tasks import TaskSet
from limaml.errors import DataError
from limaml.manifest import Manifest, read_manifest
from limaml.model import Model, load_model
from limaml.online.embeddings import generate_embeddings
from limaml.online.release import publish
from limaml.online.scoring import BaselineScorer, Scorer
from limaml.online.store import Release, open_store
from limaml.schema import EMBEDDING, TASK_ID, stored_id, task_id
from limaml.training.evaluation import Scene, score_rows, served, served_alive, unadapted
from limaml.training.loop import validation_auc
from limaml.training.metrics import auc
from tests.conftest import SMALL
from tests.limaml.online.chain import AS_OF, Chain, build_chain
from tests.limaml.online.conftest import Files

NOW = datetime(2026, 1, 8, 6, tzinfo=UTC)
ALSO = [
    {"name": "member_type", "keys": ["member_id", "notification_type"], "meta": ["member_x1", "notification_type"]},
    {"name": "item", "keys": ["item_id"], "meta": ["item_x0", "item_x1"]},
]


@dataclass(frozen=True)
class Served:
    chain: Chain
    application: Application
    model: Model
    embeddings: EmbeddingFiles
    manifest: Manifest
    release: Release
    url: str

    @property
    def test_rows(self) -> pa.Table:
        """The rows after the embeddings' date, as requests."""
        late = self.chain.rows["event_time"].to_numpy() >= np.datetime64(AS_OF)
        return self.chain.rows.filter(pa.array(late)).drop_columns(["label", "event_time"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("both")
    application = parse_application(SMALL | {"also": ALSO}, "tests")
    chain = build_chain(folder, application)
    uri, url = str(folder / "embeddings"), f"lmdb://{folder}/store"
    manifest = generate_embeddings(chain.model, chain.tasks, uri, application, AS_OF)
    release = publish(uri, url, application, Files(folder, application).decision(uri))
    model = load_model(chain.model, application)
    return Served(chain, application, model, EmbeddingFiles(uri), manifest, release, url)


def test_embeddings_of_every_definition_lie_under_their_own_keys(both: Served) -> None:
    tasks = TaskSet.open(both.chain.tasks)
    embedded = 0
    for number, name in enumerate(both.application.definition_names):
        place, vectors = both.embeddings.lookup(name)
        found = set()
        for batch in tasks.of(name).batches(1):
            support = batch.support_only()
            if support.tasks:
                found.add(support.task_ids[0])
                expected = both.model.embed(support, definition=number)
                np.testing.assert_allclose(vectors[[place[support.task_ids[0]]]], expected, rtol=1e-4, atol=1e-5)
        assert found == set(place)
        embedded += len(found)
    assert both.manifest.counts["tasks"] == embedded == both.embeddings.tasks == both.release.tasks
    without = sum(tasks.of(name).tasks for name in both.application.definition_names) - embedded
    assert both.manifest.counts["tasks_without_support"] == without > 0
    assert both.manifest.details["width"] == both.model.embedding_width == 5
    keys = [key for shard in both.embeddings.shards("item") for key in shard.task_ids]
    assert sorted(map(int, keys)) == sorted(map(int, both.embeddings.lookup("item")[0]))


def test_each_definition_has_a_folder_and_the_first_one_none(both: Served, tmp_path: Path) -> None:
    again = generate_embeddings(both.chain.model, both.chain.tasks, str(tmp_path / "e"), both.application, AS_OF)
    assert again.digest == both.manifest.digest, "the same things give the same files"
    shards = ("shard=000.parquet", "shard=001.parquet")
    expected = {*shards, *(f"{each['name']}/{shard}" for each in ALSO for shard in shards)}
    assert {entry.path for entry in again.files} == expected


def test_the_store_holds_all_under_their_keys(both: Served) -> None:
    reader = open_store(both.url, both.application.name).open(both.release.generation)
    for name in both.application.definition_names:
        place, vectors = both.embeddings.lookup(name)
        records = reader.get([stored_id(name, task) for task in place])
        assert records.found.all()
        np.testing.assert_array_equal(records.embedding, vectors.astype(np.float16).astype(np.float32))
    assert not reader.get(["member_type:1|type-1", "item"]).found.any()
    reader.close()


def test_scoring_equals_offline_evaluation(both: Served) -> None:
    table = both.test_rows
    scores = Scorer.open(both.url, both.application).score_table(table, NOW)
    offline = served(both.model, both.embeddings, both.application.store.dtype)
    rows: dict[int, float] = {}
    for batch in TaskSet.open(both.chain.tasks).batches(64):
        ids = batch.row_id[batch.is_query].tolist()
        rows |= dict(zip(ids, offline(Scene(batch)).tolist(), strict=True))
    expected = [rows[row] for row in table["impression_id"].to_pylist()]
    assert len(expected) > 60
    np.testing.assert_allclose(scores.probability, expected, rtol=0, atol=1e-6)
    assert set(scores.reason.tolist()) == {"fresh", "zero_shot"}


def one(served: Served, **changes: object) -> pa.Table:
    """A row whose embeddings are all there, changed."""
    members = served.embeddings.lookup()[0]
    kinds = served.embeddings.lookup("member_type")[0]
    items = served.embeddings.lookup("item")[0]
    for at in range(len(served.chain.rows)):
        row = served.chain.rows.slice(at, 1).drop_columns(["label", "event_time"])
        values = {name: row[name][0].as_py() for name in row.column_names}
        kind = task_id(values["member_id"], values["notification_type"])
        if str(values["member_id"]) in members and kind in kinds and str(values["item_id"]) in items:
            types = {field.name: field.type for field in row.schema}
            return pa.table({n: pa.array([changes.get(n, v)], types[n]) for n, v in values.items()})
    raise AssertionError("no row is wholly known")


def by_hand(served: Served, row: pa.Table, known: dict[str, bool]) -> float:
    """The score from the stored embedding where it is known, from the row's own features where not."""
    meta = encode_features(served.application.features.meta, row)
    other = encode_features(served.application.features.other, row)
    embedding = served.model.zero_shot(*meta, *other).reshape(3, -1)
    value = {name: row[name][0].as_py() for name in row.column_names}
    definitions = zip(served.application.definition_names, served.application.definitions, strict=True)
    for number, (name, definition) in enumerate(definitions):
        place, vectors = served.embeddings.lookup(name)
        task = task_id(*(value[key] for key in definition.keys))
        assert (task in place) == known[name]
        if known[name]:
            embedding[number] = vectors[place[task]].astype(np.float16).astype(np.float32)
    return float(served.model.score(embedding.reshape(1, -1), *other)[0])


@pytest.mark.parametrize(
    ("changes", "known", "reason"),
    [
        ({}, {"": True, "member_type": True, "item": True}, "fresh"),
        ({"notification_type": "type-new"}, {"": True, "member_type": False, "item": True}, "zero_shot"),
        ({"item_id": 10**9}, {"": True, "member_type": True, "item": False}, "zero_shot"),
        ({"member_id": 10**9}, {"": False, "member_type": False, "item": True}, "zero_shot"),
        ({"member_id": 10**9, "item_id": 10**9}, {"": False, "member_type": False, "item": False}, "zero_shot"),
    ],
)
def test_what_is_missing_does_not_spoil_the_rest(
    both: Served, changes: dict[str, object], known: dict[str, bool], reason: str
) -> None:
    row = one(both, **changes)
    scores = Scorer.open(both.url, both.application).score_table(row, NOW)
    assert scores.reason.tolist() == [reason]
    assert np.isnan(scores.age_seconds[0]) == (not any(known.values()))
    np.testing.assert_allclose(scores.probability[0], by_hand(both, row, known), rtol=0, atol=1e-6)


def test_a_definition_of_which_nothing_is_known_falls_back_to_the_default(both: Served) -> None:
    scorer = Scorer.open(both.url, both.application)
    nothing = one(both, member_id=10**9, member_x0=None, member_x1=None, member_kind=None)
    assert scorer.score_table(nothing, NOW).reason.tolist() == ["default"]
    # Without any meta column too; the item's features are the other side's, and tell about the item.
    bare = nothing.drop_columns(["member_x0", "member_x1", "member_kind"])
    np.testing.assert_array_equal(
        scorer.score_table(bare, NOW).probability, scorer.score_table(nothing, NOW).probability
    )
    width = both.model.embedding_width
    embedding = both.model.default_embedding.reshape(3, width).copy()
    place, vectors = both.embeddings.lookup("item")
    embedding[2] = vectors[place[str(nothing["item_id"][0].as_py())]].astype(np.float16)
    other = encode_features(both.application.features.other, nothing)
    expected = both.model.score(embedding.reshape(1, -1), *other)
    np.testing.assert_allclose(scorer.score_table(nothing, NOW).probability, expected, rtol=0, atol=1e-6)


def test_every_key_is_needed(both: Served) -> None:
    scorer = Scorer.open(both.url, both.application)
    with pytest.raises(DataError, match="task key column item_id missing"):
        scorer.score_table(one(both).drop_columns(["item_id"]), NOW)


def test_the_baseline_needs_no_keys(both: Served) -> None:
    baseline = BaselineScorer.open(both.chain.model, both.application)
    row = one(both)
    meta = encode_features(both.application.features.meta, row)
    other = encode_features(both.application.features.other, row)
    vanilla = load_model(both.chain.model, both.application, algorithm="vanilla")
    probability = baseline.score_table(row).probability
    np.testing.assert_allclose(probability, vanilla.predict_unadapted(*meta, *other), rtol=0, atol=1e-6)


def test_validation_and_champions_score_as_served(both: Served) -> None:
    """Embeddings made on the spot, each from its whole task, against the generated ones."""
    tasks = TaskSet.open(both.chain.tasks)
    scorers = {
        "files": served(both.model, both.embeddings, "float32"),
        "alive": served_alive(both.model, tasks),
    }
    scored = score_rows(tasks, scorers)
    np.testing.assert_allclose(scored.scores["alive"], scored.scores["files"], rtol=0, atol=1e-5)
    own = auc(scored.label, scored.scores["files"])
    assert own is not None
    value = validation_auc(both.model.network, "limaml", tasks, both.application.embeddings)
    assert value == pytest.approx(own, abs=1e-4)
    plain = score_rows(tasks, {"unadapted": unadapted(both.model)})
    assert np.abs(plain.scores["unadapted"] - scored.scores["files"]).max() > 1e-3, "adaptation does something"


def test_shards_of_every_definition_are_in_key_order(both: Served) -> None:
    for entry in read_manifest(both.embeddings.uri).files:
        table = pq.read_table(Path(both.embeddings.uri.removeprefix("file://")) / entry.path)
        keys = table[TASK_ID].to_pylist()
        assert keys == sorted(keys, key=str.encode)
        assert table[EMBEDDING].type.list_size == both.model.embedding_width
