"""The whole chain on an S3 workspace, by the commands a user types: the same manifests as on a local one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from limaml import storage
from limaml.manifest import read_manifest
from limaml.online.store import open_store
from tests.limaml.online.servers import RedisServer
from tests.pipelines.small_chain import contents, run_locally, simulate_days, small_application


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_a_bucket_holds_what_a_folder_would(s3: str, redis_server: RedisServer, tmp_path: Path) -> None:
    stores = {f"file://{tmp_path}": f"lmdb://{tmp_path}/store", s3: redis_server.url}
    made, said = [], {}
    for number, (root, store) in enumerate(stores.items()):
        data, workspace = f"{root}/data", f"{root}/workspace"
        simulate_days(data)
        tracking = f"sqlite:///{tmp_path}/mlflow-{number}.db"
        said = run_locally(small_application(store), workspace, data, tmp_path, MLFLOW_TRACKING_URI=tracking)
        made.append(contents(workspace, {data: "DATA", workspace: "WORKSPACE", store: "STORE"}))

    local, bucket = made
    assert sorted(bucket) == sorted(local)
    for place, manifest in local.items():
        assert bucket[place] == manifest, place
    kinds = {manifest["kind"] for manifest in bucket.values()}
    assert kinds == {"validated", "task_set", "model", "embeddings", "decision", "monitoring"}

    assert (said["train"]["promoted"], said["train"]["release"]["number"]) == (True, 1)
    assert said["refresh"]["release"]["number"] == 2
    assert all(page.startswith(f"{s3}/workspace/") for page in said["train"]["pages"] + said["refresh"]["pages"])
    current = open_store(redis_server.url, "ptap").current()
    assert current is not None
    assert current.model_uri.startswith(s3)
    assert read_manifest(current.model_uri, "model")
    assert not storage.list_files(f"{s3}/workspace/ptap/leases"), "a lease was left behind"
