"""Streaming merge of shards against sorting everything in memory."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limaml.config import Application
from limaml.errors import DataError, StorageError
from limaml.online.merge import ahead, merged, sample
from limaml.storage import local_path
from tests.limaml.online.conftest import Files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("merge")


@settings(max_examples=60)
@given(
    ids=st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=60),
    shards=st.integers(1, 4),
    rows=st.integers(1, 9),
    group=st.integers(1, 7),
)
def test_equals_sorting_in_memory(folder: Path, ids: list[str], shards: int, rows: int, group: int) -> None:
    uris = []
    for shard in range(shards):
        mine = sorted((each for each in ids if hash(each) % shards == shard), key=str.encode)
        table = pa.table({"task_id": pa.array(mine, pa.string()), "place": pa.array([shard] * len(mine), pa.int32())})
        uris.append(str(folder / f"{shard}.parquet"))
        pq.write_table(table, uris[-1], row_group_size=group)
    tables = list(merged(uris, rows))
    found = [each for table in tables for each in table["task_id"].to_pylist()]
    assert found == sorted(ids, key=str.encode)
    # Bounded memory: a table never holds more than what the buffers can.
    assert all(len(table) <= 2 * rows * shards for table in tables)
    places = [each for table in tables for each in table["place"].to_pylist()]
    assert places == [hash(each) % shards for each in found]


def test_sample_is_spread_over_shards(files: Files) -> None:
    uris = [str(path) for path in sorted(local_path(files.embeddings()).glob("*.parquet"))]
    table = sample(uris, 30)
    assert table.num_rows == 30
    assert len(set(table["task_id"].to_pylist())) == 30


def test_a_shard_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="can't be read"):
        list(merged([str(tmp_path / "a.parquet")], 10))
    with pytest.raises(StorageError):
        list(merged([str(tmp_path / "missing.parquet")], 10))


def test_shards_out_of_order_are_refused(
    files: Files, application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limaml.online import push, release

    whole = push.merged
    monkeypatch.setattr(push, "BUFFER_ROWS", 20)
    monkeypatch.setattr(push, "merged", lambda uris, rows: reversed(list(whole(uris, rows))))
    embeddings = files.embeddings()
    with pytest.raises(DataError, match="not ordered by task"):
        release.publish(embeddings, f"lmdb://{tmp_path}/store", application, files.decision(embeddings))


def test_made_ahead_they_are_the_same_tables_and_the_same_errors() -> None:
    made: list[int] = []

    def tables(broken: bool) -> Iterator[pa.Table]:
        for number in range(5):
            made.append(number)
            yield pa.table({"number": [number]})
        if broken:
            raise DataError("the sixth")

    found = ahead(tables(broken=True))
    assert next(found)["number"].to_pylist() == [0]
    assert made[:1] == [0]
    assert len(made) <= 3
    assert [next(found)["number"][0].as_py() for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(DataError, match="the sixth"):
        next(found)
    assert [table["number"][0].as_py() for table in ahead(tables(broken=False))] == list(range(5))
