"""Several processes that train one model: torchrun starts them, each has a device and a part of the tasks of its own.

Processes meet in the outer loop only: once a step for the counts that weigh their losses, once for the sum of their
gradients. The inner loop knows nothing of them. Started alone, a process is the first of one, and nothing here
communicates or changes a bit.
"""

import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from limaml.data.tasks import TaskSet
from limaml.errors import ConfigError

if TYPE_CHECKING:
    from limaml.config import Training

# The first process alone checks sums, fits statistics and writes; the others wait for it that long.
PATIENCE = timedelta(hours=2)
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Processes:
    """This process among its peers.

    Attributes:
        rank: number of this process; 0 writes files, logs and answers.
        world: how many there are.
        local_rank: number of this process on its machine, which is its GPU's.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, message: bytes) -> bytes:
        """The first process's message, in every process; the others' own is ignored."""
        if self.world == 1:
            return message
        size = torch.tensor(len(message))
        torch.distributed.broadcast(size, 0)
        data = torch.frombuffer(bytearray(message), dtype=torch.uint8) if self.first and message else None
        if data is None:
            data = torch.empty(int(size), dtype=torch.uint8)
        if len(data):
            torch.distributed.broadcast(data, 0)
        return data.numpy().tobytes()

    def sum(self, *values: float) -> list[float]:
        """Sums over all processes, the same bits in each."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def each(self, value: int) -> list[int]:
        """The value of every process, by rank."""
        own = [value if rank == self.rank else 0 for rank in range(self.world)]
        return [int(number) for number in self.sum(*own)]

    def gather(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[n] arrays of any lengths, one after the other by rank, in every process."""
        if self.world == 1:
            return values
        lengths = self.each(len(values))
        padded = torch.zeros(max(1, *lengths))
        padded[: len(values)] = torch.from_numpy(values)
        gathered = [torch.empty_like(padded) for _ in lengths]
        torch.distributed.all_gather(gathered, padded)
        return np.concatenate([part[:length].numpy() for part, length in zip(gathered, lengths, strict=True)])

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
        """Sum every parameter's gradient over all processes, in place, and return the sum of `loss`.

        A process without tasks brings no gradients and a loss of 0. A parameter that has a gradient nowhere keeps
        none, so that the optimizer passes it over as it would in one process.
        """
        if self.world == 1:
            return float(loss.detach())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        has = loss.new_tensor([parameter.grad is not None for parameter in trained])
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in trained]
        flat = torch.cat([*parts, has, loss.detach().reshape(1)])
        torch.distributed.all_reduce(flat)
        *sums, has, total = flat.split([*(len(part) for part in parts), len(trained), 1])
        for parameter, value, used in zip(trained, sums, has.tolist(), strict=True):
            parameter.grad = value.view_as(parameter) if used else None
        return float(total)

    def equalize(self, network: nn.Module) -> None:
        """Give every process the first one's parameters."""
        if self.world > 1:
            for parameter in network.parameters():
                torch.distributed.broadcast(parameter.detach(), 0)

    def device(self, settings: "Training") -> torch.device:
        """The device this process trains on: its own GPU by local rank, or the CPU.

        Raises:
            ConfigError: GPUs were asked for, or are there, but not one for every process of this machine.
        """
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if settings.device == "cuda" and not count:
            raise ConfigError("training.device: cuda was asked for, but torch sees no GPU here; use auto or cpu")
        if settings.device == "cpu" or not count:
            return torch.device("cpu")
        if self.local_rank >= count:
            raise ConfigError(
                f"process {self.local_rank} of this machine has no GPU of its own, torch sees {count}: "
                "start torchrun with one process per GPU, or set training.device: cpu"
            )
        device = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(device)
        return device


ALONE = Processes()


@dataclass(frozen=True)
class Shares:
    """How an epoch is cut so that every process makes the same number of steps.

    The process with the most tasks fills its batches; the others spread theirs evenly over as many steps, and step
    with an empty batch where nothing is left. So every task is used once an epoch and nobody waits for a step that
    never comes.

    Attributes:
        steps: outer steps an epoch.
        own: this process's tasks a step.
        all: tasks a step of all processes together, the batch that the learning rate is scaled by.
    """

    steps: int
    own: int
    all: int

    @classmethod
    def of(cls, train: TaskSet, tasks_per_batch: int, processes: Processes) -> "Shares":
        """The shares of these processes, whose own part of the tasks is `train`."""
        tasks = processes.each(train.tasks)
        steps = -(-max(tasks) // tasks_per_batch)
        each = [tasks_per_batch] if processes.world == 1 else [max(1, -(-own // max(steps, 1))) for own in tasks]
        return cls(steps, each[processes.rank], sum(each))


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the other processes, if torchrun's environment variables say that there are any.

    Raises:
        ConfigError: the variables are incomplete.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {world}, but {', '.join(missing)} is not set: start by torchrun, or unset WORLD_SIZE"
        )
    rank = int(os.environ["RANK"])
    store, _, _ = next(rendezvous("env://", rank, world, timeout=PATIENCE))
    # Messages and counts lie in main memory, gradients on the device: each goes its own way.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(
        backend, store=_of_this_start(store, rank, world), rank=rank, world_size=world, timeout=PATIENCE
    )
    yield Processes(rank, world, int(os.environ.get("LOCAL_RANK", "0")))
    # Not after an error: peers may be in the middle of a step, and this process is about to end.
    torch.distributed.destroy_process_group()


def _of_this_start(store: Store, rank: int, world: int) -> Store:
    """The part of torchrun's store that belongs to the processes now starting.

    The store outlives a restart, and with it the addresses of dead processes (pytorch/pytorch#135712), which the living
    would call. So each process takes a new name, the first one announces the names it sees, and a process answers
    only to an announcement that has its own.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"name/{rank}", name)
        while name not in (names := json.loads(store.get("names"))):
            time.sleep(POLL_SECONDS)
        store.set(f"{names[0]}/{rank}", name)
        return PrefixStore(names[0], store)
    answers = [f"{name}/{other}" for other in range(1, world)]
    while not all(store.check([answer]) for answer in answers):
        seen = [key for other in range(1, world) if store.check([key := f"name/{other}"])]
        store.set("names", json.dumps([name, *(store.get(key).decode() for key in seen)]))
        time.sleep(POLL_SECONDS)
    return PrefixStore(name, store)
