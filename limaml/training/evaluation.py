"""Scores of every algorithm on the same test rows: what the gate judges and the docs report.

A scorer is one algorithm, bound to its model: a function of a batch of whole tasks. LiMAML is scored as it would be
served: the global block on the *generated* embeddings, rounded as the store rounds them, the un-adapted meta block for
tasks without one. A champion is scored alike, on embeddings of its own. The two controls are favoured: they keep live
meta features, and their strength is chosen on validation. Of several task definitions, they adapt to the first one's.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
from limaml.training.stored import Stored, embed_further, for_rows
from limaml.training.truth import Truth

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
class Tuned:
    """Strengths of the controls, chosen on validation."""

    rate: float
    shrinkage: float
    ridge: float


@dataclass(frozen=True)
class Scene:
    """What scorers are shown: T whole tasks, of which the Q query rows are to be scored."""

    batch: TaskBatch

    @cached_property
    def is_query(self) -> npt.NDArray[np.bool_]:
        """[R] which rows are to be scored."""
        return self.batch.is_query

    @cached_property
    def task_of_query(self) -> npt.NDArray[np.int64]:
        """[Q] index of each query row's task in the batch."""
        return self.batch.task_of_row[self.is_query]

    @cached_property
    def sides(self) -> tuple[Rows, Rows]:
        """Support and query rows as tensors on the CPU, where models are loaded for evaluation."""
        return support_and_query(self.batch)

    @cached_property
    def meta(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Meta features of the query rows: [Q, Mn] and [Q, Mc]."""
        return self.batch.meta_numeric[self.is_query], self.batch.meta_category[self.is_query]

    @cached_property
    def also(self) -> npt.NDArray[np.int64]:
        """[Q, A] codes of the query rows' tasks in the definitions after the first."""
        return self.batch.also[self.is_query]

    @cached_property
    def other(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The other features of the query rows: [Q, On] and [Q, Oc]."""
        return self.batch.other_numeric[self.is_query], self.batch.other_category[self.is_query]


Scorer = Callable[[Scene], npt.NDArray[np.float32]]  # → [Q] probabilities


def unadapted(model: Model) -> Scorer:
    """The network as it is, on live features: the vanilla baseline, or θ before any fine-tuning."""
    return lambda scene: model.predict_unadapted(*scene.meta, *scene.other)


def finetuned(model: Model, steps: int, tuned: Tuned) -> Scorer:
    """A network trained without an inner loop, adapted on each task's support rows all the same."""
    return lambda scene: _probability(_finetuned(model, *scene.sides, steps, tuned.rate, tuned.shrinkage))


def with_intercept(model: Model, tuned: Tuned) -> Scorer:
    """The control every personalization is held against: one intercept per task on top of a fixed model."""
    return lambda scene: _probability(_intercept(model, *scene.sides, tuned.ridge))


def served(model: Model, embeddings: EmbeddingFiles, store_dtype: str) -> Scorer:
    """LiMAML on generated embeddings, in the precision of the store; un-adapted for tasks without one."""
    place, vectors = embeddings.lookup()
    vectors = _rounded(vectors, store_dtype)
    lookups = [embeddings.lookup(each.name) for each in model.application.also]
    further = [Stored.of(list(places), stored) for places, stored in lookups]

    def score(scene: Scene) -> npt.NDArray[np.float32]:
        stored = model.zero_shot(*scene.meta, *scene.other)
        blocks = np.split(stored, model.definitions, axis=1)
        row = np.array([place.get(task, -1) for task in scene.batch.task_ids], dtype=np.int64)[scene.task_of_query]
        blocks[0][row >= 0] = vectors[row[row >= 0]]
        for block, each, code in zip(blocks[1:], further, scene.also.T, strict=True):
            row = each.place(code)
            block[row >= 0] = _rounded(each.vector[row[row >= 0]], store_dtype)
        return model.score(stored, *scene.other)

    return score


def served_alive(model: Model, test: TaskSet | None = None) -> Scorer:
    """Adapted on the support rows on the spot: a champion beside its challenger, or entire-network MAML.

    The latter has no embedding of a fixed size, so it can't be generated ahead; it is what LiMAML is measured by. Of
    the definitions after the first, the tasks are those of the whole test set, which only they need.
    """
    options = (model.application.embeddings.finetune_steps, model.application.embeddings.pooling)
    further = [] if test is None else embed_further(model.network, test, *options)
    return lambda scene: _probability(
        served_logit(model.network, *scene.sides, *options, for_rows(further, scene.also))
    )


def _rounded(vectors: npt.NDArray[np.float32], store_dtype: str) -> npt.NDArray[np.float32]:
    return vectors.astype(store_dtype).astype(np.float32)


def truth_scorer(truth: Truth) -> Scorer:
    """The best possible: the true probabilities."""
    return lambda scene: truth.lookup(scene.batch.row_id[scene.is_query])


def score_rows(test: TaskSet, scorers: Mapping[str, Scorer]) -> Scored:
    """Score the query rows of a test set with every algorithm.

    Raises:
        DataError: the test set has no query rows, or a scorer lacks what it needs for one of them.
    """
    parts: dict[str, list[npt.NDArray]] = {name: [] for name in scorers}
    labels, tasks, samples, task_ids = [], [], [], []
    for batch in test.batches(TASKS_PER_BATCH):
        scene = Scene(batch)
        labels.append(batch.label[scene.is_query].astype(np.int8))
        tasks.append(scene.task_of_query + len(task_ids))
        samples.append(batch.support[scene.task_of_query])
        task_ids.extend(batch.task_ids)
        for name, scorer in scorers.items():
            parts[name].append(scorer(scene).astype(np.float32))
    if sum(map(len, labels)) == 0:
        raise DataError(f"{test.uri}: no query rows to score; is the test window empty?")
    return Scored(
        np.concatenate(labels),
        np.concatenate(tasks),
        np.concatenate(samples),
        task_ids,
        {name: np.concatenate(values) for name, values in parts.items()},
    )


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
    """Score the query rows of a test set with all that the gate compares.

    `store_dtype` is the precision embeddings are served in. `champion` makes its own embeddings from the same support
    rows. `truth` adds the best possible scores.

    Raises:
        DataError: the test set has no query rows, or truth lacks one of them.
    """
    scorers = baselines(vanilla, tuned, limaml.application.embeddings.finetune_steps)
    scorers |= {LIMAML: served(limaml, embeddings, store_dtype), LIMAML_UNADAPTED: unadapted(limaml)}
    if champion is not None:
        scorers[CHAMPION] = served_alive(champion, test)
    if truth is not None:
        scorers[BEST_POSSIBLE] = truth_scorer(truth)
    return score_rows(test, scorers)


def baselines(vanilla: Model, tuned: Tuned, steps: int) -> dict[str, Scorer]:
    """Vanilla and the two controls on top of it; `steps` is how far fine-tuning goes."""
    return {
        VANILLA: unadapted(vanilla),
        INTERCEPT: with_intercept(vanilla, tuned),
        VANILLA_FINETUNED: finetuned(vanilla, steps, tuned),
    }


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
    weights = adapt(model.network, support, steps, rate=rate, shrinkage=shrinkage, definition=0)
    with torch.no_grad():
        return model.network(query, weights)


@torch.no_grad()
def _intercept(model: Model, support: Rows, query: Rows, ridge: float) -> torch.Tensor:
    intercept_T = task_intercept(model.network(support), support, ridge)
    return model.network(query) + intercept_T[query.task_R]


def _probability(logit_Q: torch.Tensor) -> npt.NDArray[np.float32]:
    return torch.sigmoid(logit_Q).cpu().numpy()
