"""A release to benchmark the scorer on: `pclick_user`'s features and default network, random weights and embeddings."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from limaml.config import Application, load_application
from limaml.data.features import encode_features
from limaml.learning.encoders import FeatureStatistics, fit_statistics
from limaml.learning.network import Network
from limaml.manifest import Manifest
from limaml.model import Model, load_model, network_spec, save_model
from limaml.online.records import value_dtype
from limaml.online.requests import Candidates
from limaml.online.runtime import load_runtime
from limaml.online.scoring import FRESH, Pinned, Scores, finite, pin
from limaml.online.store import Generation, Release, Store, open_store
from limaml.schema import EMBEDDING, SAMPLES
from limaml.stage import Stage, entries

TASKS = 100_000
KINDS = 16
_CHUNK_ROWS = 16_384


def application(**serve: Any) -> Application:
    """The application that is served, with changed settings of the service."""
    app = load_application("pclick_user")
    settings = app.serve.model_copy(update={"audit": False, **serve})
    return app.model_copy(update={"serve": settings})


def values(app: Application, rows: int, seed: int = 0) -> dict[str, list[Any]]:
    """Columns of random features."""
    generator = np.random.default_rng(seed)
    return {
        each.name: generator.standard_normal(rows).round(4).tolist()
        if each.kind == "numeric"
        else [f"kind-{kind}" for kind in generator.integers(0, KINDS, rows)]
        for each in app.features.all
    }


def write_model(folder: Path, app: Application) -> Model:
    """A model with random weights."""
    table = pa.table(values(app, 10_000))
    statistics: list[FeatureStatistics] = []
    for side in (app.features.meta, app.features.other):
        log = [each.transform == "log" for each in side if each.kind == "numeric"]
        sizes = [each.vocabulary for each in side if each.kind == "categorical"]
        statistics.append(fit_statistics([encode_features(side, table)], log, sizes))
    torch.manual_seed(0)
    network = Network(network_spec(app), statistics[0], statistics[1]).eval()
    stage = Stage("model", str(folder / "model"), app, ("network",), {})

    def build(directory: Path) -> Manifest:
        save_model(directory, "random", app, {"limaml": network, "vanilla": network}, statistics[0], statistics[1])
        return stage.manifest(entries(directory), {}, {"model_version": "random"})

    stage.run(build)
    return load_model(stage.output, app)


def write_generation(store: Store, app: Application, model: Model, name: str, tasks: int, seed: int = 0) -> Generation:
    """Random embeddings of members 0 to `tasks` − 1, sealed."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    plan = Generation(
        name=name,
        application=app.name,
        model_version=model.version,
        embeddings_digest=name,
        as_of=today.date(),
        newest_event_time=today - timedelta(seconds=1),
        tasks=tasks,
        width=model.embedding_width,
        dtype=app.store.dtype,
        buffer_rows=_CHUNK_ROWS,
    )
    generator = np.random.default_rng(seed)
    keys = sorted(str(member).encode() for member in range(tasks))
    records = np.zeros(tasks, value_dtype(model.embedding_width, app.store.dtype))
    records[EMBEDDING] = 0.3 * generator.standard_normal((tasks, model.embedding_width))
    records[SAMPLES] = 20
    data, size = records.tobytes(), records.dtype.itemsize
    with store.begin(plan) as writer:
        for index, start in enumerate(range(0, tasks, _CHUNK_ROWS)):
            rows = range(start, min(tasks, start + _CHUNK_ROWS))
            writer.write(index, keys[rows.start : rows.stop], [data[row * size : (row + 1) * size] for row in rows])
        return writer.seal()


def release_of(app: Application, model: Model, uri: str, sealed: Generation, number: int) -> Release:
    """The pair as a release."""
    return Release(
        number=number,
        application=app.name,
        model_version=model.version,
        model_uri=uri,
        model_digest=model.digest,
        generation=sealed.name,
        as_of=sealed.as_of,
        cutoff=datetime.combine(sealed.as_of, datetime.min.time(), UTC),
        newest_event_time=sealed.newest_event_time,
        tasks=sealed.tasks,
        width=sealed.width,
        dtype=sealed.dtype,
        embeddings_digest=sealed.embeddings_digest,
        previous=number - 1 or None,
    )


def build(folder: Path, app: Application, tasks: int = TASKS) -> Store:
    """An LMDB store with one release."""
    store = open_of(folder, app)
    model = write_model(folder, app)
    sealed = write_generation(store, app, model, f"{date.today():%Y%m%d}-benchmark", tasks)
    store.flip(release_of(app, model, str(folder / "model"), sealed, 1))
    return store


def open_of(folder: Path, app: Application) -> Store:
    """The store that `build` filled."""
    return open_store(f"lmdb://{folder}/store", app.name)


def request(app: Application, member: int, candidates: int) -> dict[str, Any]:
    """A member's `/v1/score` request."""
    columns = values(app, candidates, member)
    meta = [each.name for each in app.features.meta]
    items = [
        {"item_id": 1000 + row, **{each.name: columns[each.name][row] for each in app.features.other}}
        for row in range(candidates)
    ]
    return {
        "task": {"member_id": member},
        "features": {name: columns[name][0] for name in meta},
        "candidates": items,
    }


class WithoutEmbeddings(Pinned):
    """The same network served without meta embeddings: a constant in their place, nothing read."""

    @classmethod
    def of(cls, pinned: Pinned) -> "WithoutEmbeddings":
        """What `pinned` would be without them."""
        return cls(pinned.application, pinned.release, pinned.model, pinned.runtime, pinned.reader)

    def fetch(self, candidates: Candidates) -> list[Any]:
        """Nothing."""
        return []

    def score(self, candidates: Candidates, records: Any, now: datetime | None = None) -> Scores:
        """From a constant."""
        rows, release = candidates.rows, self.release
        constant: npt.NDArray[np.float32] = np.zeros((rows, self.model.embedding_width), np.float32)
        return Scores(
            probability=finite(self.runtime.score(constant, *candidates.other)),
            reason=np.full(rows, FRESH),
            age_seconds=np.zeros(rows),
            model_version=release.model_version,
            generation=release.generation,
            as_of=release.as_of,
        )


def pinned(store: Store, app: Application) -> Pinned:
    """The current release, on the runtime that the service would choose."""
    return pin(store, app, None, load_runtime)
