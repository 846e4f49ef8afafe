"""What an inner loop costs: the time of an outer step against a vanilla step, on the same batches in turns."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from limaml.config import Application
from limaml.data.tasks import TaskSet
from limaml.learning.objective import drop_support, limaml_loss, vanilla_loss
from limaml.learning.rows import Rows, rows_of
from limaml.model import Algorithm, load_model

WARM_UP, ROUNDS = 3, 30


@dataclass(frozen=True)
class Stepping:
    """A trained network whose training steps are timed: the model's URI, how it trains, which of its networks."""

    model: str
    application: Application
    algorithm: Algorithm = "limaml"


def ratios(vanilla: Stepping, others: Mapping[str, Stepping], train: TaskSet) -> dict[str, float]:
    """Median seconds of a step of each over those of a vanilla step.

    Steps take turns on the same batch, so that what else the machine does falls on all alike. A step is loss, backward
    pass, clipping and the optimizer, as in training, on one thread of the CPU.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = _seconds({"": vanilla, **others}, train)
    finally:
        torch.set_num_threads(threads)
    return {name: float(np.median(seconds[name]) / np.median(seconds[""])) for name in others}


def _seconds(timed: Mapping[str, Stepping], train: TaskSet) -> dict[str, list[float]]:
    steps = {name: _Step(stepping) for name, stepping in timed.items()}
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    settings = timed[""].application.training
    done, epoch = 0, 0
    while done < WARM_UP + ROUNDS:
        for batch in train.batches(settings.tasks_per_batch, settings.seed, epoch):
            rows, is_query = rows_of(batch), torch.as_tensor(batch.is_query)
            support, query = rows.where(~is_query), rows.where(is_query)
            for name, step in steps.items():
                taken = step.take(rows, support, query)
                if done >= WARM_UP:
                    seconds[name].append(taken)
            done += 1
            if done == WARM_UP + ROUNDS:
                break
        epoch += 1
    return seconds


class _Step:
    """One algorithm's training step."""

    def __init__(self, stepping: Stepping) -> None:
        self.algorithm, self.settings = stepping.algorithm, stepping.application.training
        model = load_model(stepping.model, stepping.application, algorithm=stepping.algorithm)
        self.network = model.network.train().requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)

    def take(self, rows: Rows, support: Rows, query: Rows) -> float:
        """Seconds of one step."""
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss(rows, support, query).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        return time.perf_counter() - started

    def _loss(self, rows: Rows, support: Rows, query: Rows) -> torch.Tensor:
        settings = self.settings
        if self.algorithm == "vanilla":
            return vanilla_loss(self.network, rows)
        support = drop_support(support, settings.support_drop, torch.default_generator)
        return limaml_loss(
            self.network, support, query, settings.inner_steps, settings.global_gradient,
            settings.unadapted_weight, rows, settings.meta_gradient,
        )  # fmt: skip
