"""The arithmetic to a billion tasks a day, from figures measured here and assumptions you set.

    python -m benchmarks.scale [--tasks N] [--rows-per-task N] [--features N] [--changed SHARE] [--hours H] \
        [--core-hour PRICE] [--write-unit PRICE] [--gib-month PRICE] [--json]

Nothing is guessed: every rate below names where it was measured, on two cores of a shared machine, CPU time of one
thread. Prices are yours; without one its line is left out.
"""

import argparse
import json
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A rate, a core, and the words of `docs/` that hold it."""

    rate: float
    unit: str
    page: str
    said: str


_PAGE = "docs/benchmarks.md"
MEASURED = {
    "validate": Measured(10e6 / 20, "rows/s/core", _PAGE, "| validate 10 M rows × 25 columns, 10 days | 20 s CPU"),
    "group": Measured(20e6 / 23.1, "rows/s/core", _PAGE, "| limaml | 15.1 | 23.1 | 1.08 |"),
    "generate": Measured(
        6644, "tasks/s/core", _PAGE, "| embedding shift, k = 3 (default) | 6,746 · 6,644 · 6,980 · 6,813 |"
    ),
    "read": Measured(
        1.33e6, "rows/s/core", _PAGE, "Reading and checking alone: 1.37 · 1.33 · 1.44 · 1.48 M rows/s/core"
    ),
    "train": Measured(1805, "tasks/s/core", _PAGE, "1,805 tasks/s against vanilla's 6,399"),
    "push": Measured(132_000, "tasks/s/core", "docs/scale.md", "| publish by one process | 132,000 |"),
    "close": Measured(159_000, "tasks/s/core", "docs/scale.md", "| closing step after two parts | 159,000 |"),
}
# Rows of generation's benchmark: a task there has so many.
GENERATED_ROWS = 32
EMBEDDING_FILE_BYTES = 411  # a task, 64 × float32 and its columns, zstd: docs/scale.md
REDIS_BYTES = 169  # a task and generation, 64 × float16: docs/stores_redis.md
WRITE_UNITS = 0.1759  # a task, 64 × float16: docs/stores_dynamodb.md
FIXED_ROW_BYTES = 30


@dataclass(frozen=True)
class Assumed:
    """What depends on the application and not on this code."""

    tasks: float = 1e9
    rows_per_task: float = 20
    features: int = 160
    changed: float = 0.57
    train_share: float = 0.1
    epochs: int = 1
    hours: float = 6


@dataclass(frozen=True)
class Step:
    """What a stage of a day's refresh takes, or of a training run."""

    name: str
    core_hours: float
    parallel: str


def steps(assumed: Assumed) -> list[Step]:
    """Core-hours by stage; how a stage spreads over machines."""

    def hours(amount: float, name: str) -> float:
        return amount / MEASURED[name].rate / 3600

    rows = assumed.tasks * assumed.rows_per_task
    longer = assumed.rows_per_task / GENERATED_ROWS
    written = assumed.tasks * assumed.changed
    # A computed task pays for its rows twice here: the measured rate reads them, too.
    unchanged = (1 - assumed.changed) * rows
    trained = assumed.tasks * assumed.train_share * assumed.epochs
    return [
        Step("validate the window", hours(rows, "validate"), "one machine, all its cores"),
        Step("group tasks", hours(rows, "group"), "Spark, as many cores as shards"),
        Step("generate what changed", hours(written * longer, "generate"), "fan_out pods"),
        Step("read what did not change", hours(unchanged, "read"), "fan_out pods"),
        Step("publish by one process", hours(written, "push"), "one process"),
        Step("or its closing step after fan_out pods", hours(written, "close"), "one process"),
        Step("train on a share of the tasks", hours(trained, "train"), "TrainJob processes"),
    ]


def sizes(assumed: Assumed) -> dict[str, float]:
    """Bytes of a day, before compression where there is any; write units of the store."""
    rows = assumed.tasks * assumed.rows_per_task
    return {
        "features of a window, float32, TB": rows * (4 * assumed.features + FIXED_ROW_BYTES) / 1e12,
        "embedding files, GB": assumed.tasks * EMBEDDING_FILE_BYTES / 1e9,
        "Redis, one whole generation, GB": assumed.tasks * REDIS_BYTES / 1e9,
        "DynamoDB write units a day, M": assumed.tasks * assumed.changed * WRITE_UNITS / 1e6,
        "DynamoDB, at 40,000 write units a second, hours": assumed.tasks
        * assumed.changed
        * WRITE_UNITS
        / 40_000
        / 3600,
    }


def costs(assumed: Assumed, prices: dict[str, float | None]) -> dict[str, float]:
    """What a day costs at the prices that were given."""
    daily = sum(step.core_hours for step in steps(assumed) if not step.name.startswith(("train", "or ")))
    size = sizes(assumed)
    amounts = {
        "core_hour": daily,
        "write_unit": size["DynamoDB write units a day, M"] * 1e6,
        "gib_month": size["embedding files, GB"] * 1e9 / 2**30 / 30,
    }
    return {name: amounts[name] * price for name, price in prices.items() if price is not None}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The arithmetic to a billion tasks a day.")
    for name, value in vars(Assumed()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    for name in ("core-hour", "write-unit", "gib-month"):
        parser.add_argument(f"--{name}", type=float, help="its price, in any currency")
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    assumed = Assumed(**{name: options[name] for name in vars(Assumed())})
    table = steps(assumed)
    cost = costs(assumed, {name: options[name] for name in ("core_hour", "write_unit", "gib_month")})
    if options["json"]:
        result = {"assumed": vars(assumed), "steps": [vars(step) for step in table]}
        sys.stdout.write(json.dumps({**result, "sizes": sizes(assumed), "costs": cost}) + "\n")
        return
    lines = [
        f"{step.name:40} {step.core_hours:8.1f} core-hours {step.core_hours / assumed.hours:6.1f} cores for "
        f"{assumed.hours:g} h  {step.parallel}"
        for step in table
    ]
    lines += [f"{name:50} {value:12,.1f}" for name, value in sizes(assumed).items()]
    lines += [f"a day's {name.replace('_', ' ')}s cost {value:,.2f}" for name, value in cost.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
