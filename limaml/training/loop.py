"""The outer loop (Alg. 2a) by the recipe of §6.4, for LiMAML and for the vanilla baseline alike."""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limaml.config import Embeddings, Training
from limaml.console import progress
from limaml.data.batches import TaskBatch
from limaml.data.tasks import TaskSet
from limaml.errors import DataError
from limaml.learning.adaptation import served_logit
from limaml.learning.network import Network
from limaml.learning.objective import drop_support, limaml_loss, vanilla_loss
from limaml.learning.rows import rows_of, support_and_query
from limaml.model import Algorithm
from limaml.training.checkpoints import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from limaml.training.metrics import auc

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
    checkpoint: Path,
) -> list[Epoch]:
    """Train `network` in place, keep the weights of the best validation AUC, and return the epochs.

    Validation makes each task's embedding from its support rows and scores its query rows with it, as generation and
    serving will; the vanilla baseline scores without one. The run continues from `checkpoint` where there is one, on a
    CPU with as many threads to the same bits; the caller removes the file.

    Raises:
        DataError: the loss is not finite, or validation has one class only.
    """
    run = _Run(network, algorithm, settings, checkpoint, train.batch_count(settings.tasks_per_batch))
    # Only per-task matrices are padded; batches that look like the data learn better.
    by_length = network.spec.adapted == "meta_block"
    with progress() as bar:
        task = bar.add_task(f"train {algorithm}", total=run.total_steps, completed=run.step, note="")
        while not run.finished:
            started, tasks_seen = time.monotonic(), 0
            for batch in run.remaining(train.batches(settings.tasks_per_batch, settings.seed, run.epoch, by_length)):
                run.train_on(batch)
                tasks_seen += batch.tasks
                bar.update(task, completed=run.step, note=f"loss {run.mean_loss:.4f}")
            seconds = time.monotonic() - started
            score = validation_auc(network, algorithm, validation, embeddings)
            run.end_epoch(score, tasks_seen / max(seconds, 1e-9))
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
        self, network: Network, algorithm: Algorithm, settings: Training, checkpoint: Path, per_epoch: int
    ) -> None:
        self.network, self.settings = network, settings
        self.algorithm: Algorithm = algorithm
        self.checkpoint = checkpoint
        self.total_steps = max(1, per_epoch * settings.epochs)
        self.optimizer = torch.optim.AdamW(_parameter_groups(network, settings.weight_decay), lr=1.0)
        self.epoch = self.batch = self.step = 0
        self.loss_sum = 0.0
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = _copy(network)
        self.device = next(network.parameters()).device
        if (saved := load_checkpoint(checkpoint)) is not None:
            tensors, position = saved
            network.load_state_dict(tensors["network"])
            restore_optimizer(self.optimizer, tensors["optimizer"])
            self.best = tensors["best"]
            self.epoch, self.batch, self.step = position["epoch"], position["batch"], position["step"]
            self.loss_sum = position["loss_sum"]
            self.history = [Epoch(**epoch) for epoch in position["history"]]
            log.info("train %s: continuing at epoch %d, step %d", algorithm, self.epoch + 1, self.step)

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

    def remaining(self, batches: Iterator[TaskBatch]) -> Iterator[TaskBatch]:
        """An epoch's batches from the checkpoint's position on."""
        for number, batch in enumerate(batches):
            if number >= self.batch:
                yield batch

    def train_on(self, batch: TaskBatch) -> None:
        settings = self.settings
        # Randomness depends on the position alone, so that a resumed run draws what an unbroken one would.
        torch.manual_seed(hash((settings.seed, self.epoch, self.batch)))
        self.network.train()
        rows = rows_of(batch, self.device)
        is_query = torch.as_tensor(batch.is_query).to(self.device)
        if self.algorithm == "vanilla":
            loss = vanilla_loss(self.network, rows)
        else:
            support, query = rows.where(~is_query), rows.where(is_query)
            support = drop_support(support, settings.support_drop, torch.default_generator)
            loss = limaml_loss(
                self.network, support, query, settings.inner_steps, settings.global_gradient,
                settings.unadapted_loss_weight, rows,
            )  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["factor"]
        value = float(loss.detach())
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

    def end_epoch(self, score: float, tasks_per_second: float) -> None:
        before = self.best_epoch
        self.epoch += 1
        self.history.append(Epoch(self.epoch, self.mean_loss, score, tasks_per_second))
        if before is None or score > before.validation_auc:
            self.best = _copy(self.network)
        self.batch, self.loss_sum = 0, 0.0
        self.save()

    def save(self) -> None:
        tensors = {
            "network": dict(self.network.state_dict()),
            "optimizer": optimizer_tensors(self.optimizer),
            "best": self.best,
        }
        position = {"epoch": self.epoch, "batch": self.batch, "step": self.step, "loss_sum": self.loss_sum}
        position["history"] = [vars(epoch) for epoch in self.history]
        save_checkpoint(self.checkpoint, tensors, position)

    def _rate(self) -> float:
        """Linear warm-up, then cosine decay to a twentieth; scaled linearly with the batch (§6.4)."""
        settings = self.settings
        peak = settings.global_learning_rate * settings.tasks_per_batch / RECIPE_TASKS
        warmup = settings.warmup_fraction * self.total_steps
        if self.step < warmup:
            return peak * (self.step + 1) / (warmup + 1)
        done = min(1.0, (self.step - warmup) / max(self.total_steps - warmup, 1))
        return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def validation_auc(network: Network, algorithm: Algorithm, validation: TaskSet, embeddings: Embeddings) -> float:
    """AUC of a task set's query rows as served, on embeddings made from its support rows; vanilla has none."""
    network.eval()
    device = next(network.parameters()).device
    labels, scores = [], []
    for batch in validation.batches(512):
        support, query = support_and_query(batch, device)
        if algorithm == "vanilla":
            with torch.no_grad():
                logit_R = network(query)
        else:
            logit_R = served_logit(network, support, query, embeddings.finetune_steps, embeddings.pooling)
        scores.append(logit_R.cpu().numpy())
        labels.append(query.label_R.cpu().numpy())
    value = auc(np.concatenate(labels), np.concatenate(scores))
    if value is None:
        raise DataError(
            f"the validation rows of {validation.uri} hold one class only: "
            "widen windows.validation_days or check the label"
        )
    return value


def _parameter_groups(network: Network, weight_decay: float) -> list[dict]:
    """Weights decay; biases and vectors of categories don't; step sizes and shrinkage live on a log scale, faster."""
    decayed, plain, inner = [], [], []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(("log_rate", "log_shrinkage")):
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
