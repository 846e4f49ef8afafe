"""Processes that train together, as torchrun would start them: real ones, forked from a server without threads."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch._C._distributed_c10d import TCPStore

from limaml.config import Application
from limaml.data.tasks import TaskSet
from limaml.learning.network import Network
from limaml.model import Algorithm, network_spec
from limaml.training import loop
from limaml.training.distributed import Shares, processes
from limaml.training.train import _statistics, train_model
from tests.forks import FORKS
from tests.limaml.training.planted import AS_OF, TaskSets


@cache
def _store() -> TCPStore:
    """As torchrun's, it outlives the processes and keeps what dead ones wrote."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def together(world: int, work: Callable[..., Any], *arguments: Any) -> list[int | None]:
    """Run `work(*arguments)` in so many processes; once one ends badly the others are killed, as torchrun does.

    Returns:
        Exit codes by rank; −9 is killed.
    """
    cloud = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_store().port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    started = []
    for rank in range(world):
        place = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
        started.append(FORKS.Process(target=_as_rank, args=(cloud | meeting | place, work, arguments)))
        started[-1].start()
    waiting: dict[Any, Any] = {process.sentinel: process for process in started}
    while waiting:
        ended = wait(list(waiting), timeout=120)
        assert ended, "processes that train together hang"
        for sentinel in ended:
            process = waiting.pop(sentinel)
            process.join()
            if process.exitcode:
                for other in waiting.values():
                    other.kill()
    return [process.exitcode for process in started]


def _as_rank(environment: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    work(*arguments)


def new_network(application: Application, train: TaskSet) -> Network:
    """The network that training begins with."""
    statistics = _statistics(application, train)
    torch.manual_seed(application.training.seed)
    return Network(network_spec(application), *statistics)


def gradients_of_an_epoch(sets: TaskSets, application: Application, algorithm: Algorithm, out: Path) -> None:
    """Write this process's loss and gradients after every step of an epoch, before any clipping.

    The application's learning rate must be too small to move a weight.
    """
    with processes() as group:
        train = TaskSet.open(sets.train).part(group.rank, group.world)
        settings = application.training
        shares = Shares.of(train, settings.tasks_per_batch, group)
        network = new_network(application, TaskSet.open(sets.train))
        run = loop._Run(network, algorithm, settings, str(out / "checkpoint"), shares, group)
        written: dict[str, torch.Tensor] = {}
        for step, batch in enumerate(run.remaining(train.batches(shares.own, settings.seed, 0))):
            before = run.loss_sum
            run.train_on(batch)
            written[f"{step}/loss"] = torch.tensor(run.loss_sum - before)
            for name, parameter in network.named_parameters():
                if parameter.grad is not None:
                    written[f"{step}/{name}"] = parameter.grad.clone()
        save_file(written, out / f"{group.rank}.safetensors")


def fit_together(
    sets: TaskSets, application: Application, algorithm: Algorithm, out: Path, die_at: int | None = None
) -> None:
    """Write the weights and the epochs this process ends with; the last process is killed before step `die_at`."""
    _die_at(die_at)
    with processes() as group:
        train, validation = TaskSet.open(sets.train), TaskSet.open(sets.validation)
        network = new_network(application, train)
        place = str(out / "checkpoint")
        history = loop.fit(
            network, algorithm, train, validation, application.training, application.embeddings, place, group
        )
        save_file(dict(network.state_dict()), out / f"{group.rank}.safetensors")
        (out / f"{group.rank}.json").write_text(json.dumps([asdict(epoch) for epoch in history]))


def train_together(
    sets: TaskSets, application: Application, root: str, tracking: str, die_at: int | None = None
) -> None:
    """The whole stage; the last process is killed before step `die_at`, counted over both algorithms."""
    _die_at(die_at)
    train_model(sets.train, sets.validation, root, application, tracking, AS_OF)


def _die_at(number: int | None) -> None:
    steps: list[int] = []
    step = loop._Run.train_on

    def counting(run: loop._Run, batch: Any) -> None:
        steps.append(1)
        if len(steps) == number and run.processes.rank == run.processes.world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        step(run, batch)

    setattr(loop._Run, "train_on", counting)  # noqa: B010
