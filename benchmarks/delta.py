"""What the daily delta saves against a full refresh, on simulated days.

    python -m benchmarks.delta [--active SHARE] [--members N] [--days N] [--json]
    python -m benchmarks.delta --log PARQUET [--key COLUMN] [--lookback DAYS]

The second form only counts, in a real log with `event_time`: tasks a day, and the share of them that change.

A simulated member is there almost daily. `--active` keeps a member's rows of so many days only, on average; members
differ, most are rarely there (a beta distribution), as in logs of real products.

Every day both are made from the same task set by the same model, of random weights, and published to a store of their
own. `computed_ratio` is the share of tasks that were computed, `pushed_ratio` the records pushed (removed tasks
included) over those of a full push; `generate_ratio` and `publish_ratio` are CPU time over that of the full refresh.
`compacted` is a day whose embeddings are pushed whole, since there were `store.maximum_overlays` layers already.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.reporting import emit, show, single_thread
from limaml.config import Application, load_application
from limaml.data.simulator import simulate
from limaml.data.tasks import TaskSet, group_tasks
from limaml.data.validation import validate
from limaml.data.world import SimulationSpec
from limaml.learning.encoders import fit_statistics
from limaml.learning.network import Network
from limaml.manifest import Manifest, read_manifest
from limaml.model import network_spec, save_model
from limaml.online.embeddings import generate_embeddings
from limaml.online.overlay import chain
from limaml.online.release import publish
from limaml.online.store import open_store
from limaml.stage import Stage, entries
from limaml.windows import Window, refresh_split

Result = TypeVar("Result")


def thin_out(interactions: Path, active: float, members: int) -> None:
    """Keep the rows of a random share of every member's days; shares differ, around `active`."""
    generator = np.random.default_rng(0)
    share = generator.beta(0.5, 0.5 * (1 - active) / active, members)
    for path in sorted(interactions.rglob("*.parquet")):
        table = pq.ParquetFile(path).read()
        there = generator.random(members) < share
        pq.write_table(table.filter(pa.array(there[table["member_id"].to_numpy() % members])), path)


def write_model(uri: str, application: Application, tasks: str) -> None:
    """A model with random weights and the statistics of some tasks."""
    batch = next(TaskSet.open(tasks).batches(1000))
    sides = ((batch.meta_numeric, batch.meta_category), (batch.other_numeric, batch.other_category))
    statistics = [
        fit_statistics(
            [side],
            [feature.transform == "log" for feature in features if feature.kind == "numeric"],
            [feature.vocabulary for feature in features if feature.kind == "categorical"],
        )
        for side, features in zip(sides, (application.features.meta, application.features.other), strict=True)
    ]
    torch.manual_seed(0)
    network = Network(network_spec(application), *statistics).eval()
    stage = Stage("model", uri, application, (), {})

    def build(directory: Path) -> Manifest:
        save_model(directory, "random", application, {"limaml": network, "vanilla": network}, *statistics)
        return stage.manifest(entries(directory), {}, {"model_version": "random"})

    stage.run(build)


def promote(uri: str, application: Application, embeddings: str) -> str:
    """A gate's decision in favour of embeddings."""
    manifest = read_manifest(embeddings)
    stage = Stage("decision", uri, application, (), {"embeddings": manifest.digest})
    details = {
        "promoted": True,
        "reasons": [],
        "model_version": "random",
        "embeddings_digest": manifest.digest,
    }
    stage.run(lambda _: stage.manifest([], {}, details))
    return uri


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """CPU seconds of a call, and what it returned."""
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def run(active: float = 1.0, members: int = 20_000, days: int = 10) -> dict[str, Any]:
    """Every figure; see the top of the file."""
    single_thread()
    application = load_application("ptap")
    lookback = application.windows.lookback_days
    spec = SimulationSpec(members=members, days=lookback + days)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as folder:
        root = Path(folder)
        data, validated, model = (str(root / part) for part in ("data", "validated", "model"))
        simulate(data, application, spec)
        if active < 1:
            thin_out(root / "data" / "interactions", active, members)
        validate(data, validated, application, Window(start=spec.start, end=spec.end))
        before = ""
        for number in range(days + 1):
            as_of = spec.start + timedelta(days=lookback + number)
            tasks = str(root / f"tasks-{as_of}")
            group_tasks(validated, tasks, application, refresh_split(application.windows, as_of))
            if not before:
                write_model(model, application, tasks)
            full, delta = str(root / f"full-{as_of}"), str(root / f"delta-{as_of}")
            made = {}
            for uri, previous in ((full, ""), (delta, before)):
                made[uri] = timed(partial(generate_embeddings, model, tasks, uri, application, as_of, previous))
            pushed = {uri: _published(root, uri, application, as_of, first=not before) for uri in (full, delta)}
            if before:
                details = made[delta][1].details
                figures.append(
                    {
                        "day": str(as_of),
                        "tasks": made[full][1].counts["tasks"],
                        "computed": details["changed"],
                        "removed": details["removed"],
                        "pushed": pushed[delta]["rows"],
                        "compacted": not pushed[delta]["overlay"],
                        "generate_seconds": round(made[delta][0], 3),
                        "generate_full_seconds": round(made[full][0], 3),
                        "publish_seconds": round(pushed[delta]["seconds"], 3),
                        "publish_full_seconds": round(pushed[full]["seconds"], 3),
                    }
                )
            before = delta

    def share(of: str, to: str, among: list[dict[str, Any]]) -> float:
        return round(sum(each[of] for each in among) / sum(each[to] for each in among), 3)

    overlays = [each for each in figures if not each["compacted"]]
    return {
        "active": active,
        "members": members,
        "lookback_days": lookback,
        "computed_ratio": share("computed", "tasks", figures),
        "generate_ratio": share("generate_seconds", "generate_full_seconds", figures),
        "pushed_ratio": share("pushed", "tasks", figures),
        "pushed_ratio_of_overlays": share("pushed", "tasks", overlays),
        "publish_ratio": share("publish_seconds", "publish_full_seconds", figures),
        "days": figures,
    }


def _published(root: Path, embeddings: str, application: Application, as_of: date, first: bool) -> dict[str, Any]:
    url = f"lmdb://{root}/store-{Path(embeddings).name.partition('-')[0]}"
    decision = promote(f"{embeddings}-decision", application, embeddings) if first else None
    seconds, release = timed(lambda: publish(embeddings, url, application, decision))
    newest = chain(open_store(url, application.name), release.generation)[0]
    assert newest.as_of == as_of
    return {"seconds": seconds, "rows": newest.rows, "overlay": bool(newest.base)}


_CHANGED = """
WITH e AS (SELECT {key} AS task, epoch_us(event_time) // 86400000000 AS day FROM read_parquet($log)),
today AS (SELECT unnest(range(min(day) + $days + 1, max(day) + 1)) AS today FROM e),
w AS (
    SELECT today, bool_or(day IN (today - 1, today - $days - 1)) AS changed, bool_or(day >= today - $days) AS there
    FROM today JOIN e ON day BETWEEN today - $days - 1 AND today - 1 GROUP BY today, task
)
SELECT count(*) / count(DISTINCT today), avg(changed::INT) FROM w WHERE there
"""


def count(path: str, key: str, lookback: int) -> dict[str, Any]:
    """Tasks a day of a log, and the share of them whose window differs from the day before's; days of UTC."""
    with duckdb.connect() as connection:
        found = connection.execute(_CHANGED.format(key=key), {"log": path, "days": lookback}).fetchone()
    assert found is not None
    return {"lookback_days": lookback, "tasks": round(found[0], 1), "changed_ratio": round(found[1], 3)}


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The figures as lines of a table: what, figure, peer or floor, ratio."""
    what = f"daily delta, {result['members']:,} members there on {result['active']:.0%} of days"
    return [
        [f"{what}, tasks computed", "delta", "full refresh", result["computed_ratio"]],
        [f"{what}, generation", "delta", "full refresh", result["generate_ratio"]],
        [f"{what}, records pushed", "delta", "full refresh", result["pushed_ratio"]],
        [f"{what}, publishing", "delta", "full refresh", result["publish_ratio"]],
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The daily delta against a full refresh.")
    parser.add_argument("--active", type=float, default=1.0, help="share of a member's days that is kept, on average")
    parser.add_argument("--log", help="a log to count in; nothing is measured then")
    parser.add_argument("--key", default="user_id", help="the log's task key")
    parser.add_argument("--lookback", type=int, default=14, help="days of the window, for a log")
    parser.add_argument("--members", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.log:
        emit(count(options.log, options.key, options.lookback))
        return
    result = run(options.active, options.members, options.days)
    if options.json:
        emit(result)
        return
    columns = list(result["days"][0])
    show("Daily delta against a full refresh", columns, [list(day.values()) for day in result["days"]])
    show("All days", ["what", "figure", "peer", "ratio"], rows(result))


if __name__ == "__main__":
    main()
