"""What every benchmark needs: fair timing on a busy machine, and one way to show figures."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def interleaved(candidates: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """CPU seconds of every call, by name, in rounds of random order.

    CPU time leaves out what other processes took, and within a round all candidates meet the same machine: compare
    them by `ratio`.
    """
    generator = np.random.default_rng(0)
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        for position in generator.permutation(len(names)):
            name = names[position]
            started = time.process_time()
            candidates[name]()
            if turn >= warmup:
                seconds[name].append(time.process_time() - started)
    return seconds


def ratio(seconds: Mapping[str, list[float]], of: str, to: str) -> float:
    """The median over rounds of one candidate's time over another's."""
    return statistics.median(a / b for a, b in zip(seconds[of], seconds[to], strict=True))


def single_thread() -> None:
    """One thread for torch and pyarrow alike, so that CPU time is time and figures are per core."""
    import pyarrow as pa
    import torch

    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def peak_mebibytes(call: Callable[[], Any]) -> float:
    """MiB the process's resident set grows by at its height during a call. Linux only."""

    def status(field: str) -> int:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
        return int(line.split()[1])

    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before = status("VmRSS")
    call()
    return (status("VmHWM") - before) / 1024


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: the first column is text, the others are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns[:1], title=title, title_justify="left")
    for name in columns[1:]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(table)


def command(
    title: str,
    columns: Sequence[str],
    measure: Callable[[bool], dict[str, Any]],
    rows: Callable[[dict[str, Any]], Sequence[Sequence[Any]]],
) -> None:
    """The command line of a benchmark that has a quick form: measure, then print JSON or a table."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    result = measure(options.quick)
    if options.json:
        emit(result)
        return
    show(title, columns, rows(result))


def emit(result: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
