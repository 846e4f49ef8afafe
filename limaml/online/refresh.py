"""Which embeddings are due: by which model, carried over from which day, and where they go."""

from dataclasses import dataclass
from datetime import date

from limaml.config import Application
from limaml.errors import DataError
from limaml.manifest import read_manifest
from limaml.online.previous import embeddings_of
from limaml.online.release import current
from limaml.windows import TaskSplit
from limaml.workspace import Workspace


@dataclass(frozen=True)
class Due:
    """What is to be generated from a task set; see `limaml.online.embeddings.generate_embeddings`."""

    model: str
    output: str
    as_of: date
    previous: str


def due(application: Application, place: Workspace, tasks: str, model: str = "", previous: str = "") -> Due:
    """What a task set's embeddings are made with: a model, or without one the champion, as the daily refresh does.

    Raises:
        NoRelease: no model is given, and nothing was published yet.
        DataError: the task set has no boundary between support and query.
    """
    if not model:
        serving = current(place.store_url(application), application)
        model = serving.model_uri
        previous = embeddings_of(serving, place) if application.embeddings.refresh == "delta" else ""
    version = read_manifest(model, "model").details["model_version"]
    as_of = TaskSplit.model_validate(read_manifest(tasks, "task_set").details["split"]).boundary
    if as_of is None:
        raise DataError(f"{tasks}: its split has no boundary, so it is no set to generate embeddings from")
    return Due(model, place.embeddings(version, as_of), as_of, previous)
