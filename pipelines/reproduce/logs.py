"""The logs a table is measured on: one that is given, the same for every seed, or a simulated world for each."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from limaml import storage
from limaml.config import Application
from limaml.errors import ConfigError
from limaml.windows import training_window
from limaml.workspace import Workspace
from pipelines.run import bring_in, day_after_newest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """How large simulated worlds are."""

    members: int = 2500
    items: int = 2000


@dataclass(frozen=True)
class Log:
    """One seed's log.

    Attributes:
        seed: of the training runs, and of the world where it is simulated.
        workspace: URI below which everything made from this log lies.
        data: URI of the data root.
        as_of: the first day not used.
        tracking: MLflow's URI, one for all seeds.
        simulated: whether the world can be played on.
    """

    seed: int
    workspace: str
    data: str
    as_of: date
    tracking: str
    simulated: bool

    def place(self, application: Application) -> Workspace:
        """Where everything of one application lies."""
        return Workspace(self.workspace, application.name)


def logs(
    application: Application, workspace: str, data: str, seeds: int, world: World, run_date: date | None
) -> Iterator[Log]:
    """The log of each seed, made when it is asked for.

    Raises:
        ConfigError: there is nothing at `data`, or the application can't be simulated.
        DataError: the log breaks its contract.
    """
    root = storage.normalize(workspace)
    tracking = Workspace(root, application.name).tracking_uri()
    if data:
        given = bring_in(data, application, workspace)
        as_of = run_date or day_after_newest(given)
        for seed in range(seeds):
            yield Log(seed, root, given, as_of, tracking, simulated=False)
        return
    _check_simulated(application)
    for seed in range(seeds):
        yield _simulated(application, root, seed, world, tracking)


def _check_simulated(application: Application) -> None:
    from limaml.data.simulated_log import log_format

    try:
        log_format(application)
    except ConfigError as error:
        raise ConfigError(f"no --data, and {error}; give a log with --data") from error


def _simulated(application: Application, root: str, seed: int, world: World, tracking: str) -> Log:
    from limaml.data.simulator import simulate
    from limaml.data.world import SimulationSpec

    start = SimulationSpec().start
    window = training_window(application.windows, start)
    days = (window.end - window.start).days
    spec = SimulationSpec(members=world.members, items=world.items, days=days, seed=seed)
    workspace = storage.join(root, f"world-{seed}_{world.members}-members_{world.items}-items_{days}-days")
    data = Workspace(workspace, application.name).data
    simulate(data, application, spec)
    return Log(seed, workspace, data, spec.end, tracking, simulated=True)
