"""Embeddings and decisions as files, made without a model: what the store's tests publish."""

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml import storage
from limaml.config import Application, parse_application
from limaml.data.embedding_files import shard_entries
from limaml.manifest import Manifest, read_manifest
from limaml.online.store import prepare_store
from limaml.schema import REMOVED, embedding_schema
from limaml.stage import Stage, entries
from tests.conftest import SMALL
from tests.limaml.online.chain import Chain, build_chain
from tests.limaml.online.servers import RedisCluster, RedisServer

AS_OF = date(2026, 1, 31)


class Files:
    """Makes embeddings and decisions below one directory."""

    def __init__(self, root: Path, application: Application) -> None:
        self.root = root
        self.application = application

    def embeddings(
        self,
        as_of: date = AS_OF,
        model: str = "m1",
        tasks: int = 500,
        width: int = 5,
        seed: int = 0,
        shards: int = 3,
        scale: float = 1.0,
    ) -> str:
        """URI of random embeddings; whole tasks spread over shards by chance, a shard in key order."""
        rng = np.random.default_rng([seed, as_of.toordinal(), *model.encode()])
        ids = np.array([f"{number}|sort é" if number % 50 == 0 else str(number) for number in range(tasks)])
        shard_of = rng.integers(shards, size=tasks)
        uri = str(self.root / f"{model}-{as_of}-{seed}")
        instant = datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC)

        def build(directory: Path) -> Manifest:
            for shard in range(shards):
                names = sorted(ids[shard_of == shard].tolist(), key=str.encode)
                vectors = scale * rng.normal(size=(len(names), width)).astype(np.float32)
                newest = [instant - timedelta(seconds=int(s)) for s in rng.integers(1, 86_400, len(names))]
                columns = [
                    pa.array(names),
                    pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width),
                    pa.array([model] * len(names)),
                    pa.array([instant] * len(names), pa.timestamp("us", tz="UTC")),
                    pa.array(newest, pa.timestamp("us", tz="UTC")),
                    pa.array(rng.integers(1, 30, len(names)), pa.int32()),
                    pa.array(rng.integers(1 << 63, size=len(names)), pa.uint64()),
                ]
                table = pa.Table.from_arrays(columns, schema=embedding_schema(width))
                pq.write_table(table, directory / f"shard={shard:03d}.parquet", row_group_size=40)
            details = {
                "model_version": model,
                "model_uri": f"file:///models/{model}",
                "model_digest": f"digest-of-{model}",
                "as_of": as_of.isoformat(),
                "width": width,
                "pooling": "latest",
                "newest_event_time": instant.isoformat(),
            }
            return stage.manifest(entries(directory), {"tasks": tasks, "rows": 10 * tasks}, details)

        stage = Stage(
            "embeddings", uri, self.application, (), {"model": model, "as_of": str(as_of), "seed": seed, "scale": scale}
        )
        stage.run(build)
        return uri

    def delta(self, before: str, days: int = 1, every: int = 10, remove: int = 3, add: int = 4, seed: int = 0) -> str:
        """URI of the embeddings some days after others: each `every`-th task computed anew, some removed, some added.

        All other rows are carried over, with the `as_of` they have.
        """
        manifest = read_manifest(before)
        as_of = date.fromisoformat(manifest.details["as_of"]) + timedelta(days=days)
        instant = datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC)
        rng = np.random.default_rng([seed, as_of.toordinal()])
        gone: list[str] = []
        changed = 0

        def build(directory: Path) -> Manifest:
            nonlocal changed
            for number, entry in enumerate(shard_entries(manifest)):
                table = pq.ParquetFile(storage.local_path(before) / entry.path).read()
                if number == 0:
                    gone.extend(table["task_id"][:remove].to_pylist())
                    table = table[remove:]
                anew = table.take(pa.array(np.arange(int(rng.integers(every)), len(table), every)))
                if number == 0:
                    names = pa.array([f"new {as_of} {index}" for index in range(add)], pa.string())
                    added = table.take(pa.array(np.arange(add))).set_column(0, table.schema.field(0), names)
                    anew = pa.concat_tables([anew, added])
                changed += len(anew)
                vectors = rng.normal(size=(len(anew), manifest.details["width"])).astype(np.float32)
                column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
                anew = anew.set_column(1, table.schema.field(1), column)
                place = table.schema.get_field_index("as_of")
                times = pa.array([instant] * len(anew), pa.timestamp("us", tz="UTC"))
                anew = anew.set_column(place, table.schema.field(place), times)
                touched = set(anew["task_id"].to_pylist())
                kept = table.filter(pa.array([task not in touched for task in table["task_id"].to_pylist()]))
                whole = pa.concat_tables([kept, anew]).sort_by("task_id")
                pq.write_table(whole, directory / entry.path, row_group_size=40)
            pq.write_table(pa.table({"task_id": pa.array(sorted(gone), pa.string())}), directory / REMOVED)
            details = {
                **manifest.details,
                "as_of": as_of.isoformat(),
                "newest_event_time": instant.isoformat(),
                "previous_digest": manifest.digest,
                "changed": changed,
                "removed": len(gone),
            }
            tasks = manifest.counts["tasks"] - len(gone) + add
            return stage.manifest(entries(directory), {"tasks": tasks, "rows": 10 * tasks}, details)

        uri = str(self.root / f"delta-{as_of}-{seed}-{manifest.digest[:8]}")
        stage = Stage("embeddings", uri, self.application, (), {"before": manifest.digest, "seed": seed, "days": days})
        stage.run(build)
        return uri

    def decision(self, embeddings: str, promoted: bool = True) -> str:
        """URI of the gate's decision on these embeddings."""
        judged = read_manifest(embeddings)
        uri = f"{embeddings}-decision-{promoted}"
        stage = Stage("decision", uri, self.application, (), {"embeddings": judged.digest, "promoted": promoted})
        details = {
            "promoted": promoted,
            "reasons": [] if promoted else ["AUC fell by 2 % against the champion"],
            "model_version": judged.details["model_version"],
            "embeddings_digest": judged.digest,
        }
        stage.run(lambda _: stage.manifest([], {}, details))
        return uri

    def rows(self, embeddings: str) -> pa.Table:
        """All rows of embeddings, in key order."""
        shards = sorted(storage.local_path(embeddings).glob("shard=*.parquet"))
        return pa.concat_tables([pq.ParquetFile(shard).read() for shard in shards]).sort_by("task_id")


@pytest.fixture
def files(tmp_path: Path, application: Application) -> Files:
    """Embeddings and decisions on disk."""
    return Files(tmp_path / "files", application)


@pytest.fixture(params=["lmdb", "redis", "dynamodb"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An empty store of every kind there is; a new kind joins the contract suite here."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def lmdb_url(tmp_path: Path) -> str:
    """An empty embedded store."""
    return f"lmdb://{tmp_path}/store"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real server on a free port, without persistence."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database of a real server."""
    redis_server.client().flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three real servers as one cluster."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def redis_cluster_url(redis_cluster: RedisCluster) -> str:
    """An empty cluster."""
    redis_cluster.clear()
    return redis_cluster.url


@pytest.fixture
def dynamodb_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new table of the local AWS server."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    url = f"dynamodb://us-east-1/embeddings-{uuid.uuid4().hex}?endpoint={s3_endpoint}"
    prepare_store(url)
    return url


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Tasks and a model, made once; read only."""
    return build_chain(tmp_path_factory.mktemp("chain"), parse_application(SMALL, "tests"))
