"""A scorer to ask over HTTP, in a process of its own.

    python -m benchmarks.online.server FOLDER with|either|bare PORT

`with` is the product. `either` answers as it was told last by `POST /answer/with` or `without`: the latter is the same
service, network and answers with a constant in the place of meta embeddings. `bare` is the least a FastAPI handler can
do for the same arithmetic: no checks, limits, metrics or reasons.
"""

import sys
from pathlib import Path

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.online import world
from benchmarks.reporting import single_thread
from limaml.data.features import category_code
from limaml.online.scoring import Pinned
from limaml.serve import logs
from limaml.serve.app import create_app


def either(folder: Path) -> FastAPI:
    """The service, told by requests whether to answer the next ones with or without embeddings."""
    app = with_embeddings(folder)
    service = app.state.service
    held: dict[str, Pinned] = {}

    @app.post("/answer/{kind}")
    async def answer(kind: str) -> Response:
        if not held:
            held.update({"with": service.pinned, "without": world.WithoutEmbeddings.of(service.pinned)})
        service.pinned = held[kind]
        return Response()

    return app


def with_embeddings(folder: Path) -> FastAPI:
    """The service; it doesn't look for newer releases meanwhile."""
    application = world.application(poll_seconds=3600.0, maximum_in_flight=10_000)
    return create_app(world.open_of(folder, application), application)


def bare(folder: Path) -> FastAPI:
    """One handler."""
    application = world.application()
    pinned: Pinned = world.pinned(world.open_of(folder, application), application)
    numeric = [each.name for each in application.features.other if each.kind == "numeric"]
    categorical = [each.name for each in application.features.other if each.kind == "categorical"]
    app = FastAPI()

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        return Response()

    @app.post("/v1/score")
    async def score(request: Request) -> Response:
        body = orjson.loads(await request.body())
        candidates = body["candidates"]
        numbers = np.array([[each[name] for name in numeric] for each in candidates], np.float32)
        codes = np.array([[category_code(each[name]) for name in categorical] for each in candidates], np.int64)
        embedding = pinned.reader.get([str(body["task"]["member_id"])]).embedding
        probability = pinned.runtime.score(np.repeat(embedding, len(candidates), 0), numbers, codes)
        rank = (-probability).argsort().argsort() + 1
        rows = zip(candidates, probability.tolist(), rank.tolist(), strict=True)
        answer = [{"item_id": each["item_id"], "probability": p, "rank": r} for each, p, r in rows]
        return Response(orjson.dumps({"candidates": answer}), media_type="application/json")

    return app


if __name__ == "__main__":
    single_thread()
    logs.configure()
    made = {"with": with_embeddings, "either": either, "bare": bare}[sys.argv[2]](Path(sys.argv[1]))
    config = uvicorn.Config(made, port=int(sys.argv[3]), log_level="warning", access_log=False)
    uvicorn.Server(config).run()
