"""Every benchmark at a modest size, in one table: what, figure, peer or floor, ratio.

    python -m benchmarks [--json]

A ratio is time (or, for memory, size) over the peer's or the floor's in the same run: below 1 is better than the peer.
Each benchmark runs in a process of its own, one after the other.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks import embeddings, memory, training
from benchmarks.reporting import emit, show

COMMANDS: dict[str, tuple[str, ...]] = {
    "grouping": ("--rows", "500000"),
    "training": ("--repeats", "5"),
    "embeddings": ("--tasks", "2000"),
    "memory": ("--tasks", "5000"),
}


def grouping_rows(result: dict[str, Any]) -> list[list[Any]]:
    """The grouping benchmark's figures as lines of the table."""
    ours, peer = result["limaml"], result["polars"]
    memory_ratio = round(ours["peak_gib"] / peer["peak_gib"], 2)
    what = f"grouping {result['rows']:,} rows"
    return [
        [f"{what}, time", f"{ours['seconds']} s", f"polars {peer['seconds']} s", result["seconds_ratio"]],
        [f"{what}, peak memory", f"{ours['peak_gib']} GiB", f"polars {peer['peak_gib']} GiB", memory_ratio],
    ]


def run(name: str) -> dict[str, Any]:
    """One benchmark's JSON; its log goes to standard error."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *COMMANDS[name], "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Run all of them and print."""
    parser = argparse.ArgumentParser(description="Every benchmark at a modest size.")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    results = {name: run(name) for name in COMMANDS}
    if options.json:
        emit(results)
        return
    lines = grouping_rows(results["grouping"])
    for name, module in (("training", training), ("embeddings", embeddings), ("memory", memory)):
        lines += module.rows(results[name])
    show("Benchmarks", ["what", "figure", "peer or floor", "ratio"], lines)


if __name__ == "__main__":
    main()
