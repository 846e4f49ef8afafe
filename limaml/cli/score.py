"""`limaml score`: probabilities of candidates, from the current release."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limaml.cli.common import App, Json, WorkspaceUri, emit

if TYPE_CHECKING:
    import pyarrow as pa

    from limaml.config import Application

SHOWN = 20

Requests = Annotated[
    str,
    typer.Option("--requests", help="Candidates, one (task, item) a row, as .parquet or .jsonl: keys and features."),
]
TaskKey = Annotated[
    str, typer.Option("--task", help="Score all candidates for this one task: its key, or keys joined by commas.")
]
Output = Annotated[str, typer.Option("--output", help="Parquet file for the answers, instead of printing them.")]
Now = Annotated[
    datetime | None, typer.Option("--now", help="When the answer is given, UTC; decides fresh or stale. Default: now.")
]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("score")(score)


def score(
    app: App,
    workspace: WorkspaceUri,
    requests: Requests,
    task: TaskKey = "",
    output: Output = "",
    now: Now = None,
    as_json: Json = False,
) -> None:
    """Score candidates with the current release; every answer carries its reason and the release it came from."""
    from collections import Counter

    from limaml.config import load_application
    from limaml.online.scoring import Scorer
    from limaml.workspace import Workspace

    application = load_application(app)
    table = _read(requests)
    if task:
        table = _for_task(table, task, application)
    scorer = Scorer.open(Workspace(workspace, application.name).store_url(application), application)
    scores = scorer.score_table(table, now.replace(tzinfo=UTC) if now else None)
    answers = _beside(table, scores.table(), application)
    summary: dict[str, Any] = {
        "rows": len(answers),
        "release": scorer.release.number,
        "model_version": scores.model_version,
        "generation": scores.generation,
        "as_of": scores.as_of,
        "reasons": dict(Counter(scores.reason.tolist())),
    }
    if output:
        _write(answers, output)
        emit({**summary, "output": output}, as_json)
    elif as_json:
        shared = ("model_version", "generation", "as_of")
        emit({**summary, "scores": answers.drop_columns(list(shared)).to_pylist()}, as_json)
    else:
        _print(answers)
        emit(summary, as_json)


def _read(path: str) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet as pq

    from limaml import storage
    from limaml.errors import ConfigError, DataError

    if not path.endswith((".parquet", ".jsonl")):
        raise ConfigError(f"--requests {path}: give a .parquet or a .jsonl file")
    fs, inside = storage.filesystem(path)
    try:
        with storage.storage_errors(path, "read"), fs.open_input_file(inside) as stream:
            if path.endswith(".parquet"):
                with pq.ParquetFile(stream) as file:
                    return file.read()
            return pyarrow.json.read_json(stream)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: can't be read as {path.rpartition('.')[2]}: {error}") from error


def _for_task(table: "pa.Table", task: str, application: "Application") -> "pa.Table":
    import pyarrow as pa

    from limaml.errors import ConfigError

    values, keys = task.split(","), application.task.keys
    if len(values) != len(keys):
        raise ConfigError(f"--task has {len(values)} values, the task's key {len(keys)}: {', '.join(keys)}")
    for name, value in zip(keys, values, strict=True):
        column = pa.repeat(value, len(table))
        at = table.column_names.index(name) if name in table.column_names else None
        table = table.append_column(name, column) if at is None else table.set_column(at, name, column)
    return table


def _beside(table: "pa.Table", scores: "pa.Table", application: "Application") -> "pa.Table":
    """The answers with what names each candidate: task keys and item."""
    import pyarrow as pa

    names = dict.fromkeys([*application.key_columns, application.data.item_column])
    named = {name: table[name] for name in names if name in table.column_names}
    return pa.table({**named, **{name: scores[name] for name in scores.column_names}})


def _write(answers: "pa.Table", path: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from limaml import storage

    sink = pa.BufferOutputStream()
    pq.write_table(answers, sink)
    storage.write_bytes(path, sink.getvalue().to_pybytes())


def _print(answers: "pa.Table") -> None:
    from rich.console import Console
    from rich.table import Table

    best = answers.sort_by([("probability", "descending")]).slice(0, SHOWN)
    columns = [name for name in best.column_names if name not in ("model_version", "generation", "as_of")]
    shown = Table(*columns, title=f"the {len(best)} highest of {len(answers)}" if len(answers) > SHOWN else None)
    for row in best.select(columns).to_pylist():
        shown.add_row(*(f"{value:.4f}" if name == "probability" else str(value) for name, value in row.items()))
    Console(file=sys.stdout).print(shown)
