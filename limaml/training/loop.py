"""The outer loop (Alg. 2a) by the recipe of §6.4, for LiMAML and for the vanilla baseline alike.

It runs in one process or in several that go in step, each on its own part of the tasks (`limaml.training.distributed`).
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limaml import storage
from limaml.config import Embeddings, Training
from limaml.console import progress
from limaml.data.batches import TaskBatch
from limaml.data.tasks import TaskSet
from limaml.errors import DataError
from limaml.learning.adaptation import served_logit
from limaml.learning.buffers import keep_freed_memory
from limaml.learning.network import Network
from limaml.learning.objective import drop_support, limaml_loss, vanilla_loss
from limaml.learning.rows import rows_of, support_and_query
from limaml.model import Algorithm
from limaml.training.checkpoints import (
    optimizer_tensors,
    parse_checkpoint,
    read_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from limaml.training.distributed import ALONE, Processes, Shares
from limaml.training.metrics import auc
from limaml.training.stored import embed_further, for_rows
from limaml.windows import TaskSplit

log = logging.getLogger(__name__)

RECIPE_TASKS = 128  # the batch size at which global_learning_rate is stated; others scale it linearly


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed: mean training loss, validation AUC, tasks per second."""

    number: int
    loss: float
    validation_auc: float
    tasks_per_second: float


def fit(
    network: Network,
    algorithm: Algorithm,
    train: TaskSet,
    validation: TaskSet,
    settings: Training,
    embeddings: Embeddings,
    checkpoint: str | Path,
    processes: Processes = ALONE,
) -> list[Epoch]:
    """Train `network` in place, keep the weights of the best validation AUC, and return the epochs.

    Validation makes each task's embedding from its support rows and scores its query rows with it, as generation and
    serving will; the vanilla baseline scores without one. The run continues from the file `checkpoint` where there is
    one, on a CPU with as many threads and processes to the same bits; the caller removes the file.

    Several processes call this alike, each with the whole task sets: it takes its own part of them. All return the
    same epochs and hold the same weights.

    Raises:
        DataError: the loss is not finite, or validation has one class only.
    """
    train, validation = (tasks.part(processes.rank, processes.world) for tasks in (train, validation))
    shares = Shares.of(train, settings.tasks_per_batch, processes)
    run = _Run(network, algorithm, settings, storage.normalize(checkpoint), shares, processes)
    if settings.support_split == "random_day":
        split = TaskSplit.model_validate(train.manifest.details["split"])
        # Where tasks can't be split apart (`limaml.data.tasks.training_boundary`), a drawn day divides them all.
        run.utc_offset_hours, run.together = split.window.utc_offset_hours, split.boundary is not None
    keep_freed_memory()
    with progress() as bar:
        task = bar.add_task(f"train {algorithm}", total=run.total_steps, completed=run.step, note="")
        while not run.finished:
            started = time.monotonic()
            before = run.tasks_seen
            with _products(run.device, settings.tf32):
                for batch in run.remaining(train.batches(shares.own, settings.seed, run.epoch)):
                    run.train_on(batch)
                    bar.update(task, completed=run.step, note=f"loss {run.mean_loss:.4f}")
            seconds = time.monotonic() - started
            score = validation_auc(network, algorithm, validation, embeddings, processes)
            run.end_epoch(score, (run.tasks_seen - before) / max(seconds, 1e-9))
            last = run.history[-1]
            log.info(
                "train %s: epoch %d of %d, loss %.4f, validation AUC %.4f, %.0f tasks/s",
                algorithm, last.number, settings.epochs, last.loss, last.validation_auc, last.tasks_per_second,
            )  # fmt: skip
    network.load_state_dict(run.best)
    return run.history


class _Run:
    """State of a run between steps: all of it is in the checkpoint."""

    def __init__(
        self,
        network: Network,
        algorithm: Algorithm,
        settings: Training,
        checkpoint: str,
        shares: Shares,
        processes: Processes,
    ) -> None:
        self.utc_offset_hours, self.together = 0, False
        self.network, self.settings = network, settings
        self.algorithm: Algorithm = algorithm
        self.checkpoint, self.shares, self.processes = checkpoint, shares, processes
        self.total_steps = max(1, shares.steps * settings.epochs)
        self.optimizer = torch.optim.AdamW(_parameter_groups(network, settings.weight_decay), lr=1.0)
        self.epoch = self.batch = self.step = 0
        self.tasks_seen = 0
        self.loss_sum = 0.0
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = _copy(network)
        self.device = next(network.parameters()).device
        # One process reads, so that all go on from the same file.
        if saved := processes.share(read_checkpoint(checkpoint) if processes.first else b""):
            self._restore(*parse_checkpoint(saved, checkpoint))
        processes.equalize(network)

    def _restore(self, tensors: dict[str, dict[str, Tensor]], position: dict[str, Any]) -> None:
        self.network.load_state_dict(tensors["network"])
        restore_optimizer(self.optimizer, tensors["optimizer"])
        self.best = tensors["best"]
        self.history = [Epoch(**epoch) for epoch in position["history"]]
        self.epoch, self.batch, self.step = position["epoch"], position["batch"], position["step"]
        self.loss_sum = position["loss_sum"]
        if position["processes"] != self.processes.world:
            self._go_on_with_other_processes(position)
        log.info("train %s: continuing at epoch %d, step %d", self.algorithm, self.epoch + 1, self.step)

    def _go_on_with_other_processes(self, position: dict[str, Any]) -> None:
        """Tasks now lie in other parts: leave out as large a share of the epoch's batches as was done of it before."""
        self.batch = position["batch"] * self.shares.steps // max(position["steps"], 1)
        self.step = self.epoch * self.shares.steps + self.batch
        self.loss_sum *= self.batch / max(position["batch"], 1)
        if self.processes.first:
            log.warning(
                "train %s: %d processes wrote the checkpoint, %d go on: of epoch %d, %d of %d steps count as done, "
                "and a task may be used twice in it or not at all",
                self.algorithm, position["processes"], self.processes.world, self.epoch + 1, self.batch,
                self.shares.steps,
            )  # fmt: skip

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / max(self.batch, 1)

    @property
    def best_epoch(self) -> Epoch | None:
        return max(self.history, key=lambda epoch: epoch.validation_auc, default=None)

    @property
    def finished(self) -> bool:
        best = self.best_epoch
        waited = 0 if best is None else self.history[-1].number - best.number
        return self.epoch >= self.settings.epochs or waited >= self.settings.patience

    def remaining(self, batches: Iterator[TaskBatch]) -> Iterator[TaskBatch | None]:
        """An epoch's batches from the checkpoint's position on; None in steps this process has no tasks left for."""
        for number in range(self.shares.steps):
            batch = next(batches, None)
            if number >= self.batch:
                yield batch

    def train_on(self, batch: TaskBatch | None) -> None:
        """One outer step of all processes; this one brings a batch, or nothing."""
        settings = self.settings
        # Randomness depends on the position alone, so that a resumed run draws what an unbroken one would.
        position = (settings.seed, self.epoch, self.batch)
        torch.manual_seed(hash(position if self.processes.first else (*position, self.processes.rank)))
        if batch is not None and settings.support_split == "random_day":
            generator = np.random.default_rng([*position, self.processes.rank])
            batch = batch.split_before_random_day(generator, self.utc_offset_hours, self.together)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._share_of_loss(batch)
        if loss.requires_grad:
            loss.backward()
        value = self.processes.sum_gradients(self.network.parameters(), loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["factor"]
        if not math.isfinite(value):
            raise DataError(
                f"the {self.algorithm} training loss became {value} at epoch {self.epoch + 1}, batch {self.batch + 1}: "
                "look for extreme feature values, or lower training.global_learning_rate"
            )
        self.optimizer.step()
        self.loss_sum += value
        self.batch += 1
        self.step += 1
        if self.step % settings.checkpoint_steps == 0:
            self.save()

    def _share_of_loss(self, batch: TaskBatch | None) -> Tensor:
        """What this batch adds to the loss of all processes' batches taken as one.

        That loss has a mean over query rows and, for the un-adapted term, one over all rows. A process's own means
        count by its share of those rows, which is 1 for a process alone.
        """
        settings = self.settings
        is_query = np.zeros(0, bool) if batch is None else batch.is_query
        tasks, rows_all, query_all = self.processes.sum(
            0 if batch is None else batch.tasks, len(is_query), int(is_query.sum())
        )
        self.tasks_seen += int(tasks)
        if batch is None:
            return torch.zeros((), device=self.device)
        rows = rows_of(batch, self.device)
        of_rows = batch.rows / rows_all
        if self.algorithm == "vanilla":
            return of_rows * vanilla_loss(self.network, rows)
        unadapted_weight = settings.unadapted_weight * of_rows
        if not is_query.any():
            return unadapted_weight * vanilla_loss(self.network, rows)
        of_query = int(is_query.sum()) / query_all
        query_R = torch.as_tensor(is_query).to(self.device)
        support, query = rows.where(~query_R), rows.where(query_R)
        support = drop_support(support, settings.support_drop, torch.default_generator)
        return of_query * limaml_loss(
            self.network, support, query, settings.inner_steps, settings.global_gradient,
            unadapted_weight / of_query, rows, settings.meta_gradient,
        )  # fmt: skip

    def end_epoch(self, score: float, tasks_per_second: float) -> None:
        before = self.best_epoch
        self.epoch += 1
        self.history.append(Epoch(self.epoch, self.mean_loss, score, tasks_per_second))
        if before is None or score > before.validation_auc:
            self.best = _copy(self.network)
        self.batch, self.loss_sum = 0, 0.0
        self.save()

    def save(self) -> None:
        """Write the checkpoint, from one process: the others hold the same."""
        if not self.processes.first:
            return
        tensors = {
            "network": dict(self.network.state_dict()),
            "optimizer": optimizer_tensors(self.optimizer),
            "best": self.best,
        }
        position = {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "history": [vars(epoch) for epoch in self.history],
            "processes": self.processes.world,
            "steps": self.shares.steps,
        }
        save_checkpoint(self.checkpoint, tensors, position)

    def _rate(self) -> float:
        """Linear warm-up, then cosine decay to a twentieth; scaled linearly with the batch (§6.4)."""
        settings = self.settings
        peak = settings.global_learning_rate * self.shares.all / RECIPE_TASKS
        warmup = settings.warmup_fraction * self.total_steps
        if self.step < warmup:
            return peak * (self.step + 1) / (warmup + 1)
        done = min(1.0, (self.step - warmup) / max(self.total_steps - warmup, 1))
        return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def validation_auc(
    network: Network, algorithm: Algorithm, validation: TaskSet, embeddings: Embeddings, processes: Processes = ALONE
) -> float:
    """AUC of a task set's query rows as served, on embeddings made from its support rows; vanilla has none.

    Each process scores its own part `validation`; the AUC is that of all rows together.
    """
    network.eval()
    device = next(network.parameters()).device
    options = (embeddings.finetune_steps, embeddings.pooling)
    further = [] if algorithm == "vanilla" else embed_further(network, validation, *options)
    labels, scores = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    for batch in validation.batches(512):
        support, query = support_and_query(batch, device)
        if algorithm == "vanilla":
            with torch.no_grad():
                logit_R = network(query)
        else:
            stored = for_rows(further, batch.also[batch.is_query], device)
            logit_R = served_logit(network, support, query, *options, stored)
        scores.append(logit_R.cpu().numpy())
        labels.append(query.label_R.cpu().numpy())
    label, score = (processes.gather(np.concatenate(parts)) for parts in (labels, scores))
    value = auc(label, score)
    if value is None:
        raise DataError(
            f"the validation rows of {validation.uri} hold one class only: "
            "widen windows.validation_days or check the label"
        )
    return value


@contextmanager
def _products(device: torch.device, tf32: bool) -> Iterator[None]:
    """TF32 products on a GPU, where asked for: they can move an embedding as far as an inner step does.

    A CPU's faster float32 products (`limaml.learning.precision`) are not for training: its batches have another number
    of rows each time, and a kernel made anew for every shape costs more than it saves.
    """
    if device.type == "cpu":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _parameter_groups(network: Network, weight_decay: float) -> list[dict]:
    """Weights decay; biases and vectors of categories don't; step sizes and shrinkage live on a log scale, faster."""
    decayed, plain, inner = [], [], []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(("log_rate", "log_ridge", "log_shrinkage")):
            inner.append(parameter)
        elif name.endswith("bias") or ".tables." in name:
            plain.append(parameter)
        else:
            decayed.append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay, "factor": 1.0},
        {"params": plain, "weight_decay": 0.0, "factor": 1.0},
        {"params": inner, "weight_decay": 0.0, "factor": 3.0},
    ]


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
