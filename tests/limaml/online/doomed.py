"""Publishes and stages that end badly, each in a process of its own."""

import json
import os
import resource
import signal
from collections.abc import Callable
from datetime import date
from typing import Any

from limaml.config import application_from_parameter, parse_application
from limaml.errors import StoreError
from limaml.online import embeddings as embeddings_stage
from limaml.online import push, release
from tests.conftest import SMALL
from tests.forks import FORKS

BUFFER_ROWS = 20  # so that there are several chunks


def run(function: Callable[..., None], *arguments: Any, **environment: str) -> int:
    """Exit code of a function in a process of its own, with further environment variables."""
    process = FORKS.Process(target=_with_environment, args=(dict(os.environ) | environment, function, *arguments))
    process.start()
    process.join(180)  # the first one imports the library
    assert process.exitcode is not None
    return process.exitcode


def run_for(seconds: float, function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a process of its own that is killed after a while, wherever it is."""
    process = FORKS.Process(target=_with_environment, args=(dict(os.environ), function, *arguments))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()


def _with_environment(environment: dict[str, str], function: Callable[..., None], *arguments: Any) -> None:
    os.environ.update(environment)
    function(*arguments)


def publish_small_chunks(embeddings: str, store_url: str, decision: str) -> None:
    """Publish in small chunks."""
    push.BUFFER_ROWS = BUFFER_ROWS
    release.publish(embeddings, store_url, parse_application(SMALL, "tests"), decision)


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
    embeddings_stage._Job._embedded = _dying(embeddings_stage._Job._embedded, 2)
    parsed = application_from_parameter(application)
    embeddings_stage.generate_embeddings(model, tasks, output, parsed, date.fromisoformat(as_of), previous)


def _dying(original: Callable[..., Any], call: int) -> Callable[..., Any]:
    calls: list[int] = []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    return wrapped
