"""Fixtures of every room: an S3 server in this process, a small application."""

import inspect
import os
import socketserver
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import settings

from limaml import storage
from limaml.config import Application, parse_application

# Great Expectations asks for this part of PySpark, which takes a process whose main module has no file, as a worker of
# the tests is, for a doctest without gRPC, and ends it.
sys.modules.setdefault("pyspark.sql.connect", None)  # type: ignore[arg-type]

# Kubeflow's compiler asks for the whole stack at every setting of a step, for one method's name. Deep below a test, the
# source lines that come with it, which it does not read, are nine tenths of its time.
inspect.stack = partial(inspect.stack, 0)

# An answer's head and body are written one after the other; the second would wait for the first one's delayed receipt.
socketserver.StreamRequestHandler.disable_nagle_algorithm = True

# Several tests import torch side by side: one thread each keeps them from fighting over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# How long an example takes is the machine's business; what hangs meets pytest's own limit.
settings.register_profile("limaml", deadline=None)
settings.load_profile("limaml")

SMALL: dict[str, Any] = {
    "name": "small",
    "title": "A small application for tests",
    "task": {"keys": ["member_id"], "max_samples": 16},
    "data": {"member_column": "member_id", "item_column": "item_id", "row_id_column": "impression_id"},
    "features": {
        "meta": ["member_x0", "member_x1", {"name": "member_kind", "kind": "categorical", "vocabulary": 4}],
        "other": ["item_x0", "item_x1", {"name": "notification_type", "kind": "categorical", "vocabulary": 8}],
    },
    "grouping": {"buckets": 4, "shards": 2},
    "network": {"embedding_width": 4, "meta_hidden": [8], "global_hidden": [8], "category_width": 2},
    "training": {"epochs": 1, "tasks_per_batch": 16, "threads": 1, "device": "cpu"},
    "store": {"keep_days": 0},
}

# Sections of a shipped application that make its training one of minutes, and its gate let it through.
SHORT: dict[str, Any] = {
    "windows": {"train_days": 5, "validation_days": 2, "test_days": 1, "lookback_days": 5},
    "training": {"epochs": 1, "threads": 1, "device": "cpu"},
    "grouping": {"buckets": 2, "shards": 2},
    "gate": {
        "minimum_rows": 1,
        "minimum_gain_over_vanilla": -1,
        "minimum_gain_over_intercept": -1,
        "maximum_calibration_error": 1,
    },
}


@pytest.fixture
def application() -> Application:
    """Two numeric and one categorical feature on each side, tiny blocks."""
    return parse_application(SMALL, "tests")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3-compatible server on a free port."""
    from moto.server import ThreadedMotoServer

    # The server takes a free port itself: one chosen before could be taken meanwhile, and it would wait forever.
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty bucket's URI; the process talks to the local server until the test ends."""
    import boto3

    settings = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    storage._s3_client.cache_clear()
    storage._s3_filesystem.cache_clear()
    bucket = f"bucket-{abs(hash(request.node.nodeid)):x}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    storage._s3_client.cache_clear()
    storage._s3_filesystem.cache_clear()
