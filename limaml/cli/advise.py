"""`limaml advise`: which key tuple is worth a task?"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from limaml.cli.common import App, Json, emit
from limaml.training.advisor_options import Options

if TYPE_CHECKING:
    from limaml.config import Application

DEFAULTS = Options()

Data = Annotated[str, typer.Option("--data", help="A data root, or a flat parquet log (a file or a folder).")]
Keys = Annotated[
    list[str] | None,
    typer.Option("--keys", help="A candidate, columns by commas: user_id,type. Repeat it; none: proposed."),
]
Output = Annotated[str, typer.Option("--output", help="Directory for advice.json and the page advice.html.")]
Rows = Annotated[
    int, typer.Option(min=1000, help="Keep about so many rows in memory: a larger log is sampled by task.")
]
Gain = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Relative AUC gain below which a task isn't worth its cost.")
]
Speed = Annotated[float, typer.Option(min=1.0, help="Assumed embeddings generated a second and core.")]


def register(app: typer.Typer) -> None:
    """Mount `advise`."""
    app.command("advise")(_advise)


def _advise(
    app: App,
    data: Data,
    keys: Keys = None,
    output: Output = "",
    rows: Rows = DEFAULTS.rows,
    minimum_gain: Gain = DEFAULTS.minimum_gain,
    tasks_per_second: Speed = DEFAULTS.tasks_per_second,
    seed: Annotated[int, typer.Option(min=0)] = DEFAULTS.seed,
    as_json: Json = False,
) -> None:
    """Say which task definition pays, before anything is trained: its signal beyond the features, and its cost."""
    from rich.console import Console

    from limaml import storage
    from limaml.config import load_application
    from limaml.training import advisor
    from limaml.training.advisor_page import terminal
    from limaml.training.advisor_words import Advice, spell

    application = load_application(app)
    tuples = [tuple(name.strip() for name in one.split(",")) for one in keys or ()]
    options = Options(rows=rows, seed=seed, minimum_gain=minimum_gain, tasks_per_second=tasks_per_second)
    with _data_root(data, application) as root:
        if output:
            advisor.write_advice(root, output, application, tuples, options)
            advice = Advice.model_validate_json(storage.read_bytes(storage.join(output, advisor.JSON)))
        else:
            advice = advisor.advise(root, application, tuples, options)
    if as_json:
        emit(advice.model_dump(mode="json"), as_json)
        return
    console = Console()
    Console(width=max(console.width, 120)).print(terminal(advice))
    for text in (*(f"{spell(one.keys)} {one.text}" for one in advice.candidates), advice.recommendation):
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


@contextmanager
def _data_root(data: str, application: "Application") -> Iterator[str]:
    """The data root, or a flat log imported for as long as it is needed."""
    from limaml import storage
    from limaml.data.importer import import_log
    from limaml.data.layout import days_of
    from limaml.errors import ConfigError

    uri = storage.normalize(data)
    is_file = storage.is_local(uri) and storage.local_path(uri).is_file()
    if not is_file and days_of(uri):
        yield uri
        return
    if not storage.exists(uri):
        raise ConfigError(f"--data {data}: nothing there; give a data root, a parquet file or a folder of them")
    with tempfile.TemporaryDirectory(prefix="limaml-advise-") as folder:
        root = storage.join(storage.normalize(folder), "data")
        import_log(uri, root, application)
        yield root
