"""Scores of every algorithm on the same test rows: what the gate judges and the docs report.

LiMAML is scored as it would be served: the global block on the *generated* embeddings, rounded as the store rounds
them, the un-adapted meta block for tasks without one. The champion is scored alike, on embeddings of its own. The two
controls are favoured: they keep live meta features, and their strength is chosen on validation.
"""

import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from limaml.data.batches import TaskBatch
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.tasks import TaskSet
from limaml.errors import DataError
from limaml.learning.adaptation import adapt, served_logit
from limaml.learning.baselines import task_intercept
from limaml.learning.rows import Rows, support_and_query
from limaml.model import Model
from limaml.training.metrics import auc

log = logging.getLogger(__name__)

RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
SHRINKAGES = (3.0, 10.0, 30.0, 100.0)
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)
TASKS_PER_BATCH = 512
TUNING_TASKS = 40 * TASKS_PER_BATCH  # files are in hash order, so the first tasks are a random sample

VANILLA = "vanilla"
VANILLA_FINETUNED = "vanilla_finetuned"
INTERCEPT = "vanilla_intercept"
LIMAML = "limaml"
LIMAML_UNADAPTED = "limaml_unadapted"
CHAMPION = "champion"
BEST_POSSIBLE = "best_possible"


@dataclass(frozen=True)
class Scored:
    """Test rows and each algorithm's probabilities.

    Attributes:
        label: [N] 0 or 1.
        task: [N] number of each row's task.
        samples: [N] support samples of that task.
        task_ids: canonical text of each task.
        scores: algorithm → [N] float32 probabilities.
    """

    label: npt.NDArray[np.int8]
    task: npt.NDArray[np.int64]
    samples: npt.NDArray[np.int64]
    task_ids: list[str]
    scores: dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Truth:
    """What only a simulation knows: [N] int64 row ids, ascending, and [N] float32 true probabilities."""

    row_id: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]

    @classmethod
    def of(cls, row_id: npt.NDArray[np.int64], probability: npt.NDArray[np.float32]) -> "Truth":
        """Sort by row id."""
        order = np.argsort(row_id)
        return cls(row_id[order], probability[order])

    def lookup(self, row_id: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """True probabilities of rows.

        Raises:
            DataError: one of them is not known.
        """
        place = np.searchsorted(self.row_id, row_id)
        known = np.append(self.row_id, -1)[place] == row_id
        if not known.all():
            raise DataError(
                f"no true probability for row_id {row_id[~known][0]}: truth and interactions are from different runs"
            )
        return self.probability[place]


@dataclass(frozen=True)
class Tuned:
    """Strengths of the controls, chosen on validation."""

    rate: float
    shrinkage: float
    ridge: float


def tune_controls(vanilla: Model, validation: TaskSet, steps: int) -> Tuned:
    """The α and κ of vanilla fine-tuning and the ridge of the intercept with the best AUC on a sample of validation."""

    def best(candidates: Iterable[Any], score: Callable[[Rows, Rows, Any], torch.Tensor]) -> Any:
        results = {}
        for value in candidates:
            labels, logits = [], []
            for batch in itertools.islice(validation.batches(TASKS_PER_BATCH), TUNING_TASKS // TASKS_PER_BATCH):
                support, query = support_and_query(batch, vanilla.device)
                logits.append(score(support, query, value).cpu().numpy())
                labels.append(query.label_R.cpu().numpy())
            results[value] = auc(np.concatenate(labels), np.concatenate(logits)) or 0.0
        chosen = max(results, key=results.__getitem__)
        log.info("tuned on validation: %s, AUC %.4f", chosen, results[chosen])
        return chosen

    with torch.no_grad():
        strengths = itertools.product(RATES, SHRINKAGES)
        rate, shrinkage = best(strengths, lambda s, q, strength: _finetuned(vanilla, s, q, steps, *strength))
        return Tuned(rate, shrinkage, best(RIDGES, lambda s, q, ridge: _intercept(vanilla, s, q, ridge)))


def _finetuned(model: Model, support: Rows, query: Rows, steps: int, rate: float, shrinkage: float) -> torch.Tensor:
    adapted = adapt(model.network, support, steps, rate=rate, shrinkage=shrinkage)
    with torch.no_grad():
        return model.network(query, adapted)


def _intercept(model: Model, support: Rows, query: Rows, ridge: float) -> torch.Tensor:
    intercept_T = task_intercept(model.network(support), support, ridge)
    return model.network(query) + intercept_T[query.task_R]


def score_test(
    limaml: Model,
    vanilla: Model,
    embeddings: EmbeddingFiles,
    test: TaskSet,
    tuned: Tuned,
    store_dtype: str,
    champion: Model | None = None,
    truth: Truth | None = None,
) -> Scored:
    """Score the query rows of a test set with every algorithm.

    `store_dtype` is the precision embeddings are served in. `champion` makes its own embeddings from the same support
    rows. `truth` adds the best possible scores.

    Raises:
        DataError: the test set has no query rows, or truth lacks one of them.
    """
    place, vectors = embeddings.lookup()
    vectors = vectors.astype(store_dtype).astype(np.float32)
    parts: dict[str, list[npt.NDArray]] = {}
    labels, tasks, samples, task_ids = [], [], [], []
    for batch in test.batches(TASKS_PER_BATCH):
        support, query = support_and_query(batch, vanilla.device)
        is_query = batch.is_query
        row_task = batch.task_of_row[is_query]
        labels.append(batch.label[is_query].astype(np.int8))
        tasks.append(row_task + len(task_ids))
        samples.append(batch.support[row_task])
        task_ids.extend(batch.task_ids)
        with torch.no_grad():
            scores = {
                VANILLA: torch.sigmoid(vanilla.network(query)).cpu().numpy(),
                INTERCEPT: torch.sigmoid(_intercept(vanilla, support, query, tuned.ridge)).cpu().numpy(),
            }
        steps = limaml.application.embeddings.finetune_steps
        finetuned = _finetuned(vanilla, support, query, steps, tuned.rate, tuned.shrinkage)
        scores[VANILLA_FINETUNED] = torch.sigmoid(finetuned).cpu().numpy()
        scores |= _as_served(limaml, batch, is_query, place, vectors)
        if champion is not None:
            options = champion.application.embeddings
            logit_R = served_logit(champion.network, support, query, options.finetune_steps, options.pooling)
            scores[CHAMPION] = torch.sigmoid(logit_R).cpu().numpy()
        if truth is not None:
            scores[BEST_POSSIBLE] = truth.lookup(batch.row_id[is_query])
        for name, score in scores.items():
            parts.setdefault(name, []).append(score.astype(np.float32))
    if not labels or sum(map(len, labels)) == 0:
        raise DataError(f"{test.uri}: no query rows to score; is the test window empty?")
    return Scored(
        np.concatenate(labels),
        np.concatenate(tasks),
        np.concatenate(samples),
        task_ids,
        {name: np.concatenate(values) for name, values in parts.items()},
    )


def _as_served(
    model: Model, batch: TaskBatch, is_query: npt.NDArray[np.bool_], place: dict[str, int], vectors: npt.NDArray
) -> dict[str, npt.NDArray]:
    row_task = batch.task_of_row[is_query]
    unadapted = model.zero_shot(batch.meta_numeric[is_query], batch.meta_category[is_query])
    found = np.array([place.get(task, -1) for task in batch.task_ids], dtype=np.int64)[row_task]
    stored = np.where((found >= 0)[:, None], vectors[found] if len(vectors) else unadapted, unadapted)
    other = batch.other_numeric[is_query], batch.other_category[is_query]
    return {LIMAML: model.score(stored, *other), LIMAML_UNADAPTED: model.score(unadapted, *other)}
