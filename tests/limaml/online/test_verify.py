"""What publishing checks against the model and the rows: real embeddings of a real model, and ones that went wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.config import Application, parse_application
from limaml.errors import GateRefused, StoreError
from limaml.manifest import Manifest, read_manifest
from limaml.online import verify
from limaml.online.embeddings import generate_embeddings
from limaml.online.release import publish
from limaml.online.store import Release, open_store
from limaml.schema import EMBEDDING
from limaml.stage import Stage, entries
from limaml.storage import local_path
from tests.conftest import SMALL
from tests.limaml.online.chain import AS_OF, MEMBERS, Chain, build_chain
from tests.limaml.online.conftest import Files

Change = Callable[[np.ndarray], np.ndarray]


def swap_two(vectors: np.ndarray) -> np.ndarray:
    return np.concatenate([vectors[[1, 0]], vectors[2:]])


def shift_all(vectors: np.ndarray) -> np.ndarray:
    return np.roll(vectors, 1, axis=0)


def altered(made: str, application: Application, change: Change) -> str:
    """The embeddings with other vectors, and a manifest that vouches for them: no sum can tell."""
    manifest, uri = read_manifest(made), f"{made}-{change.__name__}"

    def build(directory: Path) -> Manifest:
        shutil.copytree(local_path(made), directory, dirs_exist_ok=True)
        for path in sorted(directory.glob("shard=*.parquet")):
            table = pq.ParquetFile(path).read()
            vectors = np.array(table[EMBEDDING].to_pylist(), np.float32)
            column = pa.FixedSizeListArray.from_arrays(pa.array(change(vectors).reshape(-1)), vectors.shape[1])
            place = table.schema.get_field_index(EMBEDDING)
            pq.write_table(table.set_column(place, table.schema.field(place), column), path)
        rows = {entry.path: entry.rows or 0 for entry in manifest.files}
        whole = stage.manifest(entries(directory, rows), manifest.counts, manifest.details)
        return whole.model_copy(update={"inputs": manifest.inputs})

    stage = Stage("embeddings", uri, application, (), {"made": manifest.digest, "change": change.__name__})
    stage.run(build)
    return uri


class Bench:
    """Embeddings of the chain's model, and an empty store."""

    def __init__(self, folder: Path, chain: Chain, application: Application) -> None:
        self.application = application
        self.made = str(folder / "embeddings")
        generate_embeddings(chain.model, chain.tasks, self.made, application, AS_OF)
        self.files = Files(folder, application)
        self.url = f"lmdb://{folder}/store"

    def publish(self, embeddings: str) -> Release:
        return publish(embeddings, self.url, self.application, self.files.decision(embeddings))

    def nothing_is_left(self) -> bool:
        store = open_store(self.url, "small")
        return store.current() is None and not store.generations()


@pytest.fixture(params=["float32", "float16"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, chain: Chain) -> Bench:
    return Bench(tmp_path, chain, parse_application(SMALL | {"store": {"dtype": request.param}}, "tests"))


def test_what_was_verified_is_in_the_release(bench: Bench, chain: Chain) -> None:
    found = bench.publish(bench.made).verified
    assert found["tasks"] == found["records"] == found["canary_tasks"] == MEMBERS - 10
    assert found["canary_mismatches"] == found["canary_missing"] == 0
    assert float(found["canary_largest_error"]) < (1e-5 if bench.application.store.dtype == "float32" else 1e-3)
    late = chain.rows["event_time"].to_numpy() >= np.datetime64(AS_OF)
    assert found["held_out_rows"] == late.sum()
    assert float(found["held_out_log_loss"]) > 0 < float(found["held_out_log_loss_unadapted"])
    assert "not_checked" not in found


@pytest.mark.parametrize("change", [swap_two, shift_all])
def test_embeddings_under_wrong_keys_are_refused(bench: Bench, change: Change) -> None:
    wrong = altered(bench.made, bench.application, change)
    with pytest.raises(StoreError, match=r"returns something else for \d+ of 50 tasks than the released model makes"):
        bench.publish(wrong)
    assert bench.nothing_is_left()


def test_several_definitions_are_all_made_anew(tmp_path: Path) -> None:
    also = [{"name": "item", "keys": ["item_id"], "meta": ["item_x0", "item_x1"]}]
    application = parse_application(SMALL | {"also": also}, "tests")
    bench = Bench(tmp_path, build_chain(tmp_path / "chain", application), application)
    found = bench.publish(bench.made).verified
    assert found["canary_tasks"] == found["tasks"]
    assert int(found["tasks"]) > 100
    assert found["canary_mismatches"] == 0


def test_embeddings_that_score_worse_than_none_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the canary is blind, so that only the rows nobody has seen can tell."""
    monkeypatch.setattr(verify, "CANARY_MISMATCH", 1.0)

    def enlarged(vectors: np.ndarray) -> np.ndarray:
        return 40 * vectors

    worse = altered(bench.made, bench.application, enlarged)
    with pytest.raises(GateRefused, match=r"\d+ held-out rows have a log loss of .* without any adaptation 0\."):
        bench.publish(worse)
    assert bench.nothing_is_left()
    assert bench.publish(bench.made).number == 1


def test_without_its_task_set_the_release_says_what_was_not_checked(
    tmp_path: Path, application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    chain = build_chain(tmp_path / "chain", application)
    bench = Bench(tmp_path, chain, application)
    shutil.rmtree(local_path(chain.tasks))
    release = bench.publish(bench.made)
    assert release.verified["not_checked"] == f"canary, held-out scores: the task set {chain.tasks} is gone"
    assert f"no canary and no held-out scores: the task set {chain.tasks} is gone" in caplog.text
    assert "canary_tasks" not in release.verified


def test_a_difference_is_as_sure_as_there_are_tasks() -> None:
    """Rows of one task say the same thing twice: repeating them makes nothing surer."""
    rng = np.random.default_rng(0)
    once = rng.normal(0.1, 1, 400)
    mean, deviation = verify._difference(once, np.arange(400))
    assert mean == pytest.approx(once.mean())
    assert deviation == pytest.approx(once.std() / np.sqrt(400))
    assert verify._difference(np.repeat(once, 5), np.repeat(np.arange(400), 5)) == pytest.approx((mean, deviation))
    assert verify._difference(np.repeat(once, 5), np.arange(2000))[1] == pytest.approx(deviation / np.sqrt(5))
