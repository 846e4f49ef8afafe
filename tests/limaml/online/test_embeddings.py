"""Daily embeddings against one task at a time, against no adaptation at all, and under kill -9."""

import shutil
import signal
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.config import parse_application
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.features import encode_features
from limaml.data.tasks import TaskSet
from limaml.errors import ConfigError, DataError, IntegrityError
from limaml.manifest import read_manifest
from limaml.model import load_model
from limaml.online.embeddings import generate_embeddings
from limaml.schema import embedding_schema
from limaml.storage import local_path
from tests.conftest import SMALL
from tests.limaml.online import doomed
from tests.limaml.online.chain import AS_OF, Chain, with_embeddings, write_model

SUPPORT_END = datetime(2026, 1, 8, tzinfo=UTC)


def support_of(chain: Chain) -> dict[str, pa.Table]:
    """Each task's support rows from the log itself: the most recent 16 before the cutoff, oldest first."""
    result = {}
    for member in sorted(set(chain.rows["member_id"].to_pylist())):
        mine = chain.rows.filter(pa.array(chain.rows["member_id"].to_numpy() == member)).sort_by("event_time")
        before = [time < SUPPORT_END for time in mine["event_time"].to_pylist()]
        if any(before):
            kept = mine.filter(pa.array(before))
            result[str(member)] = kept.slice(max(0, len(kept) - chain.application.task.max_samples))
    return result


def test_equals_one_task_at_a_time(chain: Chain, tmp_path: Path) -> None:
    application = with_embeddings(chain.application, tasks_per_batch=7)
    manifest = generate_embeddings(chain.model, chain.tasks, str(tmp_path / "out"), application, AS_OF)
    model, support = load_model(chain.model), support_of(chain)
    files = EmbeddingFiles(str(tmp_path / "out"))
    row, vectors = files.lookup()
    assert sorted(row) == sorted(support)
    assert manifest.counts == {
        "tasks": len(support),
        "rows": sum(len(rows) for rows in support.values()),
        "tasks_without_support": 10,
    }
    for batch in TaskSet.open(chain.tasks).batches(1):
        alone = batch.support_only()
        if alone.tasks:
            expected = model.embed(alone, application.embeddings.finetune_steps, application.embeddings.pooling)
            np.testing.assert_allclose(vectors[row[alone.task_ids[0]]], expected[0], rtol=1e-4, atol=1e-5)


def test_facts_beside_the_embedding(chain: Chain, tmp_path: Path) -> None:
    manifest = generate_embeddings(chain.model, chain.tasks, str(tmp_path / "out"), chain.application, AS_OF)
    support = support_of(chain)
    newest = {name: rows["event_time"].to_pylist()[-1] for name, rows in support.items()}
    for entry in manifest.files:
        table = pq.ParquetFile(tmp_path / "out" / entry.path).read()
        assert table.schema == embedding_schema(load_model(chain.model).embedding_width)
        names = table["task_id"].to_pylist()
        assert names == sorted(names)
        assert table["newest_event_time"].to_pylist() == [newest[name] for name in names]
        assert table["samples"].to_pylist() == [len(support[name]) for name in names]
        assert set(table["model_version"].to_pylist()) == {"m1"}
        assert set(table["as_of"].to_pylist()) == {SUPPORT_END}
        assert entry.rows == len(table)
    assert datetime.fromisoformat(manifest.details["newest_event_time"]) == max(newest.values())
    assert manifest.details["model_digest"] == read_manifest(chain.model).digest
    assert len(manifest.files) == chain.application.grouping.shards


def test_without_steps_it_is_the_unadapted_block_on_the_newest_sample(chain: Chain, tmp_path: Path) -> None:
    application = with_embeddings(chain.application, finetune_steps=0)
    generate_embeddings(chain.model, chain.tasks, str(tmp_path / "out"), application, AS_OF)
    row, vectors = EmbeddingFiles(str(tmp_path / "out")).lookup()
    model = load_model(chain.model)
    for name, rows in support_of(chain).items():
        newest = encode_features(chain.application.features.meta, rows.slice(len(rows) - 1))
        np.testing.assert_allclose(vectors[row[name]], model.zero_shot(*newest)[0], rtol=1e-5, atol=1e-6)


def test_steps_and_pooling_are_those_of_the_configuration(chain: Chain, tmp_path: Path) -> None:
    found = {}
    for name, changes in {"k3": {}, "k0": {"finetune_steps": 0}, "mean": {"pooling": "mean"}}.items():
        application = with_embeddings(chain.application, **changes)
        generate_embeddings(chain.model, chain.tasks, str(tmp_path / name), application, AS_OF)
        found[name] = EmbeddingFiles(str(tmp_path / name)).lookup()[1]
    assert np.abs(found["k3"] - found["k0"]).max() > 1e-3
    # A member's meta features never change in this log, so pooling them changes nothing but rounding.
    np.testing.assert_allclose(found["k3"], found["mean"], rtol=1e-4, atol=1e-5)


def test_running_again_is_free_and_equal(chain: Chain, tmp_path: Path) -> None:
    first = generate_embeddings(chain.model, chain.tasks, str(tmp_path / "a"), chain.application, AS_OF)
    written = (tmp_path / "a" / "manifest.json").stat().st_mtime_ns
    assert generate_embeddings(chain.model, chain.tasks, str(tmp_path / "a"), chain.application, AS_OF) == first
    assert (tmp_path / "a" / "manifest.json").stat().st_mtime_ns == written
    assert generate_embeddings(chain.model, chain.tasks, str(tmp_path / "b"), chain.application, AS_OF).digest == (
        first.digest
    )


def test_killed_between_shards_the_rerun_keeps_what_is_finished(chain: Chain, tmp_path: Path) -> None:
    whole = generate_embeddings(chain.model, chain.tasks, str(tmp_path / "whole"), chain.application, AS_OF)
    output = tmp_path / "killed"
    died = doomed.run(doomed.embed_and_die, chain.model, chain.tasks, str(output), AS_OF.isoformat())
    assert died == -signal.SIGKILL
    assert not output.exists()
    (finished,) = tmp_path.glob(".killed.*/shard=000.parquet")
    assert not list(tmp_path.glob(".killed.*/shard=001.parquet"))
    inode = finished.stat().st_ino
    manifest = generate_embeddings(chain.model, chain.tasks, str(output), chain.application, AS_OF)
    assert manifest.digest == whole.digest
    assert (output / "shard=000.parquet").stat().st_ino == inode


def test_a_model_that_explodes_names_the_task(chain: Chain, tmp_path: Path) -> None:
    model = write_model(tmp_path, "huge", chain.application, chain.rows, scale=1e30)
    with pytest.raises(DataError, match=r"task \d+: its embedding is not finite after 3 steps"):
        generate_embeddings(model, chain.tasks, str(tmp_path / "out"), chain.application, AS_OF)
    assert not (tmp_path / "out").exists()


def test_samples_from_the_future_are_refused(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task \d+: has a support row at .* not before the cutoff 2026-01-05"):
        generate_embeddings(chain.model, chain.tasks, str(tmp_path / "out"), chain.application, date(2026, 1, 5))


def test_a_changed_task_set_is_refused(chain: Chain, tmp_path: Path) -> None:
    copy = shutil.copytree(local_path(chain.tasks), tmp_path / "tasks")
    shard = copy / "shard=001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"shard=001\.parquet"):
        generate_embeddings(chain.model, str(copy), str(tmp_path / "out"), chain.application, AS_OF)


def test_a_model_of_other_features_is_refused(chain: Chain, tmp_path: Path) -> None:
    changed = SMALL | {"features": {"meta": ["member_x0"], "other": ["item_x0"]}}
    with pytest.raises(ConfigError, match=r"features\.meta"):
        generate_embeddings(chain.model, chain.tasks, str(tmp_path / "out"), parse_application(changed, "tests"), AS_OF)


def test_a_network_that_adapts_as_a_whole_has_no_embedding(chain: Chain, tmp_path: Path) -> None:
    network = chain.application.network.model_copy(update={"adapted": "network"})
    application = chain.application.model_copy(update={"network": network})
    with pytest.raises(ConfigError, match=r"network\.adapted"):
        generate_embeddings(chain.model, chain.tasks, str(tmp_path / "out"), application, AS_OF)
    assert not (tmp_path / "out").exists()
