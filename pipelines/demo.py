"""`limaml demo`: the whole chain on one machine, ending in one table.

On simulated logs: train, two days of refresh, an A/B test played out by the two real scorers. On your own log: train,
refresh, and the same table without the test.
"""

import logging
import time
from datetime import timedelta
from typing import Any

import pyarrow.parquet as pq

from limaml import storage
from limaml.application_files import shipped_applications
from limaml.cli.common import emit
from limaml.cli.experiment import play_test
from limaml.config import Application, load_application
from limaml.errors import ConfigError, GateRefused
from limaml.windows import Window
from limaml.workspace import Workspace
from pipelines.run import Finished, run_ab_report, run_refresh, run_train

log = logging.getLogger(__name__)

MEMBERS = 2500
REFRESHES = 2
TEST_DAYS = 14


def run(workspace: str, data: str, app: str, as_json: bool) -> None:
    """Run the demo and print its table, or its figures as one JSON line.

    Raises:
        GateRefused: the gate refused the model; after the table.
        LimamlError: a run failed otherwise.
    """
    started = time.monotonic()
    name = app or (fitting_application(data) if data else "ptap")
    application = load_application(name)
    finished = _on_log(application, workspace, data) if data else _simulated(application, workspace)
    story: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    pages: list[str] = []
    for each in finished:
        story |= each.result
        tasks |= each.result.get("tasks", {})
        pages += [page for page in each.result["pages"] if page not in pages]
    story |= {"run": "demo", "tasks": tasks, "pages": pages}
    log.info("demo: %.0f s", time.monotonic() - started)
    if as_json:
        emit(story, as_json)
    else:
        from pipelines import closing

        closing.show(application.title, story)
    if finished[-1].error is not None:
        raise finished[-1].error


def _on_log(application: Application, workspace: str, data: str) -> list[Finished]:
    trained = run_train(application, workspace, data)
    _raise_unless_refused(trained)
    return [trained] if trained.error else [trained, _ended(run_refresh(application, workspace, data))]


def _simulated(application: Application, workspace: str) -> list[Finished]:
    from limaml.data.layout import SIGNUPS, VISITS
    from limaml.data.simulator import simulate
    from limaml.data.world import SimulationSpec
    from limaml.experiment.play import EXPOSURES

    windows = application.windows
    days = max(windows.train_days + windows.validation_days + windows.test_days, windows.lookback_days)
    spec = SimulationSpec(members=MEMBERS, days=days + REFRESHES)
    place = Workspace(storage.normalize(workspace), application.name)
    simulate(place.data, application, spec)
    day = spec.start + timedelta(days=days)
    finished = [run_train(application, workspace, place.data, day)]
    _raise_unless_refused(finished[0])
    if finished[0].error is not None:
        return finished
    for _ in range(REFRESHES):
        day += timedelta(days=1)
        finished.append(_ended(run_refresh(application, workspace, place.data, day)))
    window = Window(start=day, end=day + timedelta(days=TEST_DAYS), utc_offset_hours=windows.utc_offset_hours)
    traffic = place.traffic(window)
    play_test(application, place, place.data, traffic, window)
    exposures, visits, signups = (storage.join(traffic, log) for log in (EXPOSURES, VISITS, SIGNUPS))
    finished.append(_ended(run_ab_report(application, workspace, exposures, visits, signups, window.start, window.end)))
    return finished


def _ended(finished: Finished) -> Finished:
    if finished.error is not None:
        raise finished.error
    return finished


def _raise_unless_refused(finished: Finished) -> None:
    """A refusal is a result, to be shown with its figures; anything else ends the demo."""
    if not isinstance(finished.error, GateRefused):
        _ended(finished)


def fitting_application(data: str) -> str:
    """The one shipped application whose columns a log has.

    Raises:
        ConfigError: none fits, or several do.
    """
    if not storage.exists(data):
        raise ConfigError(f"--data {data}: nothing there; give a data root, a parquet file or a folder of them")
    fs, path = storage.filesystem(data)
    files = [path] if storage.is_local(data) and storage.local_path(data).is_file() else []
    files = files or [info.path for info in storage.list_files(data, ".parquet") if "/visits/" not in info.path]
    columns = set(pq.read_schema(files[0], filesystem=fs).names) if files else set()
    # One that extends another reads the same logs; whoever wants it names it.
    fitting = [
        name for name in shipped_applications(with_extensions=False) if _needed(load_application(name)) <= columns
    ]
    if len(fitting) != 1:
        found = f"{', '.join(fitting)} fit" if fitting else "no shipped application fits"
        raise ConfigError(f"--data {data}: {found} its columns; name one, or your own YAML, with --app")
    return fitting[0]


def _needed(application: Application) -> set[str]:
    """Columns an application must find in a flat log: all it reads but the aggregates made at import."""
    made = {aggregate.name for aggregate in application.data.source.aggregates}
    keys = {key for aggregate in application.data.source.aggregates for key in aggregate.keys}
    features = {feature.name for feature in application.features.all} - made
    roles = {*application.key_columns, application.data.member_column, application.data.item_column}
    return keys | features | roles
