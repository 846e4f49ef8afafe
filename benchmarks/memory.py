"""Peak memory and time of every stage, each in a process of its own, on a simulated pTap of many members.

    python -m benchmarks.memory [--tasks N] [--days N] [--seconds LIMIT] [--folder PATH] [--json]

The network is trained for one epoch, and the gate is loosened so that the pair of so short a training is published:
what is measured is memory, not the model. `peak` is the process's largest resident set, mapped files included;
`private` the largest sampled size without them. A run that was stopped goes on where it stood when it is given the same
folder; stages that are done already then show what it takes to find that out. A member has about 1.3 rows a day. Linux
only.
"""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reporting import emit, show
from limaml.console import configure_logging

log = logging.getLogger("limaml.benchmarks.memory")

DAYS = 17
TARGET_GIB = 1.5
SAMPLE_SECONDS = 0.05
OVERRIDES: dict[str, dict[str, Any]] = {
    "training": {"epochs": 1, "tasks_per_batch": 128, "global_learning_rate": 0.002, "device": "cpu", "threads": 1},
    "gate": {
        "minimum_gain_over_vanilla": -1.0,
        "minimum_gain_over_intercept": -1.0,
        "maximum_calibration_error": 1.0,
        "minimum_rows": 1,
    },
}


def stages(folder: str, tasks: int, days: int = DAYS) -> dict[str, Callable[[], Any]]:
    """The stages of a training run of `tasks` members and the monitoring of its release, in order."""
    from limaml import storage
    from limaml.config import load_application, parse_application
    from limaml.data.world import SimulationSpec
    from limaml.windows import training_splits, training_window
    from limaml.workspace import Workspace

    content = load_application("ptap").model_dump(mode="json")
    # The last three days are validation and test; all others train, and again are what the test day looks back on.
    past = days - content["windows"]["validation_days"] - content["windows"]["test_days"]
    overrides = OVERRIDES | {"windows": {"train_days": past, "lookback_days": past}}
    application = parse_application(content | {k: content[k] | v for k, v in overrides.items()}, "ptap")
    spec = SimulationSpec(members=tasks, days=days)
    as_of = spec.end
    place = Workspace(folder, application.name)
    window = training_window(application.windows, as_of)
    splits = training_splits(application.windows, as_of)
    sets = {name: place.tasks(split) for name, split in splits.items()}

    def version() -> str:
        (name,) = storage.list_directories(place.model(""))
        return name

    def model() -> str:
        return place.model(version())

    def embeddings() -> str:
        return place.embeddings(version(), splits["test"].boundary or as_of)

    def simulate() -> Any:
        from limaml.data.simulator import simulate

        return simulate(place.data, application, spec)

    def validate() -> Any:
        from limaml.data.validation import validate

        return validate(place.data, place.validated(window), application, window)

    def group(name: str) -> Any:
        from limaml.data.tasks import group_tasks

        return group_tasks(place.validated(window), sets[name], application, splits[name])

    def train() -> Any:
        from limaml.training.train import train_model

        root, tracking = place.model(""), place.tracking_uri()
        return train_model(sets["train"], sets["validation"], root, application, tracking, as_of)

    def embed() -> Any:
        from limaml.online.embeddings import generate_embeddings

        day = splits["test"].boundary or as_of
        return generate_embeddings(model(), sets["test"], embeddings(), application, day)

    def gate() -> Any:
        from limaml.training.gate import judge

        pair, sides = (model(), embeddings()), (sets["validation"], sets["test"])
        uri = place.tracking_uri()
        return judge(*pair, *sides, place.decision(version()), application, uri, as_of, place.data)

    def publish() -> Any:
        from limaml.online.release import publish

        return publish(embeddings(), place.store_url(application), application, place.decision(version()))

    def monitor() -> Any:
        from monitoring.monitor import monitor

        store, day = place.store_url(application), splits["test"].boundary or as_of
        inputs = (sets["test"], sets["train"], embeddings(), None, model())
        return monitor(*inputs, store, place.monitoring(day), application, day)

    return {
        "simulate": simulate,
        "validate": validate,
        **{f"group {name}": partial(group, name) for name in splits},
        "train": train,
        "embed": embed,
        "gate": gate,
        "publish": publish,
        "monitor": monitor,
    }


def measure(stage: str, folder: str, tasks: int, limit: float, days: int = DAYS) -> dict[str, Any]:
    """Run one stage in its own process; `finished` is false where it failed or ran past `limit` seconds."""
    size = ["--tasks", str(tasks), "--days", str(days)]
    command = [sys.executable, "-m", "benchmarks.memory", "--stage", stage, "--folder", folder, *size]
    started, peak, private, stopped = time.monotonic(), 0, 0, False
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        memory = _memory(process.pid)
        peak, private = max(peak, memory["VmHWM"]), max(private, memory["RssAnon"])
        if not stopped and time.monotonic() - started > limit:
            process.kill()
            stopped = True
        time.sleep(SAMPLE_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "finished": process.returncode == 0,
        "peak_gib": round(peak / 2**20, 3),
        "private_gib": round(private / 2**20, 3),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


def _memory(pid: int) -> dict[str, int]:
    """A process's largest resident set so far and its private memory now, in KiB; zeros once it has ended.

    `ru_maxrss` would not do: a process inherits it from the one that started it.
    """
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    sizes = {words[0].rstrip(":"): int(words[1]) for words in lines if words[0] in ("VmHWM:", "RssAnon:")}
    return {"VmHWM": 0, "RssAnon": 0} | sizes


def run(tasks: int = 50_000, seconds: float = 3600.0, folder: str | None = None, days: int = DAYS) -> dict[str, Any]:
    """Every stage's figures, until one does not finish; `seconds` is the limit of all stages together."""
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as own:
        place, started = folder or own, time.monotonic()
        measured: dict[str, Any] = {}
        for stage in stages(place, tasks, days):
            measured[stage] = measure(stage, place, tasks, seconds - (time.monotonic() - started), days)
            log.info("%s: %s", stage, measured[stage])
            if not measured[stage]["finished"]:
                break
    highest = max(figures["peak_gib"] for figures in measured.values())
    return {"tasks": tasks, "days": days, "target_gib": TARGET_GIB, "highest_peak_gib": highest, "stages": measured}


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The figures as lines of a table: what, figure, peer or floor, ratio."""
    target = result["target_gib"]
    return [
        [
            f"memory of {stage}, {result['tasks']:,} tasks" + ("" if figures["finished"] else " (did not finish)"),
            f"{figures['peak_gib']} GiB, {figures['seconds']} s",
            f"target {target} GiB",
            round(figures["peak_gib"] / target, 2),
        ]
        for stage, figures in result["stages"].items()
    ]


def main() -> None:
    """Measure all stages and print what they took; or, as a child, run one."""
    parser = argparse.ArgumentParser(description="Peak memory of every stage.")
    parser.add_argument("--tasks", type=int, default=50_000, help="members of the simulated world")
    parser.add_argument("--days", type=int, default=DAYS, help="of interactions, at least 4")
    parser.add_argument("--seconds", type=float, default=3600.0, help="limit of all stages together")
    parser.add_argument("--folder", help="where to work, kept; default: a temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    configure_logging()
    if options.stage:
        stages(options.folder, options.tasks, options.days)[options.stage]()
        return
    result = run(options.tasks, options.seconds, options.folder, options.days)
    if options.json:
        emit(result)
        return
    names = ("peak_gib", "private_gib", "seconds", "cpu_seconds")
    lines = [
        [stage + ("" if figures["finished"] else ": did not finish"), *(figures[name] for name in names)]
        for stage, figures in result["stages"].items()
    ]
    show(f"{result['tasks']:,} tasks", ["stage", "peak GiB", "private GiB", "seconds", "CPU seconds"], lines)


if __name__ == "__main__":
    main()
