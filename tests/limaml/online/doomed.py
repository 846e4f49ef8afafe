"""Publishes and stages that end badly, each in a process of its own.

They fork from a server that has imported the library and runs no threads: real processes, without seconds of imports.
"""

import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from datetime import date
from typing import Any

from limaml import storage
from limaml.config import application_from_json, parse_application
from limaml.errors import StoreError
from limaml.online import embeddings as embeddings_stage
from limaml.online import lmdb_generation, lmdb_store, release
from tests.conftest import SMALL

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([embeddings_stage.__name__, release.__name__, lmdb_store.__name__])

BUFFER_ROWS = 20  # so that there are several chunks

# Where the process dies: (owner, function, before or after it, at which call).
POINTS: dict[str, tuple[Any, str, str, int]] = {
    "inside a chunk": (lmdb_generation.Chunk, "model_dump_json", "before", 3),
    "after some chunks": (lmdb_generation.LmdbWriter, "write", "after", 3),
    "before seal": (lmdb_generation.LmdbWriter, "seal", "before", 1),
    "inside seal": (storage, "write_bytes", "before", 1),
    "after seal": (lmdb_generation.LmdbWriter, "seal", "after", 1),
    "before flip": (lmdb_store.LmdbStore, "flip", "before", 1),
    "inside flip": (storage, "write_bytes", "before", 3),
    "after flip": (lmdb_store.LmdbStore, "flip", "after", 1),
}


def run(function: Callable[..., None], *arguments: str) -> int:
    """Exit code of a function in a process of its own."""
    process = _PROCESSES.Process(target=function, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


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


def embed_and_die(
    model: str, tasks: str, output: str, as_of: str, previous: str = "", application: str = json.dumps(SMALL)
) -> None:
    """Generate embeddings and be killed while the second shard is made."""
    embeddings_stage._Job._embedded = _dying(embeddings_stage._Job._embedded, "before", 2)
    parsed = application_from_json(application)
    embeddings_stage.generate_embeddings(model, tasks, output, parsed, date.fromisoformat(as_of), previous)
