"""Publishes that end badly, run in processes of their own by the store's tests."""

import os
import resource
import signal
from collections.abc import Callable
from typing import Any

from limaml.config import parse_application
from limaml.errors import StoreError
from limaml.online import lmdb_store, release
from tests.conftest import SMALL

BUFFER_ROWS = 20  # so that there are several chunks

# Where the process dies: (owner, function, before or after it, at which call).
POINTS: dict[str, tuple[Any, str, str, int]] = {
    "inside a chunk": (lmdb_store.Chunk, "model_dump_json", "before", 3),
    "after some chunks": (lmdb_store.LmdbWriter, "write", "after", 3),
    "before seal": (lmdb_store.LmdbWriter, "seal", "before", 1),
    "inside seal": (lmdb_store.storage, "write_bytes", "before", 1),
    "after seal": (lmdb_store.LmdbWriter, "seal", "after", 1),
    "before flip": (lmdb_store.LmdbStore, "flip", "before", 1),
    "inside flip": (lmdb_store.storage, "write_bytes", "before", 3),
    "after flip": (lmdb_store.LmdbStore, "flip", "after", 1),
}


def publish_and_die(embeddings: str, store_url: str, decision: str, point: str) -> None:
    """Publish in small chunks and be killed at a named point."""
    owner, name, when, call = POINTS[point]
    setattr(owner, name, _dying(getattr(owner, name), when, call))
    release.BUFFER_ROWS = BUFFER_ROWS
    release.publish(embeddings, store_url, parse_application(SMALL, "tests"), decision)


def _dying(original: Callable[..., Any], when: str, call: int) -> Callable[..., Any]:
    calls: list[int] = []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if when == "before" and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if when == "after" and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


def publish_on_full_disk(embeddings: str, store_url: str, decision: str) -> None:
    """Publish where files can't grow; exits with the code of the StoreError it meets."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    try:
        release.publish(embeddings, store_url, parse_application(SMALL, "tests"), decision)
    except StoreError as error:
        os._exit(error.exit_code if "the current release is unchanged" in str(error) else 99)
