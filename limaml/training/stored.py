"""Embeddings of whole tasks of further definitions, for scoring rows that lie in batches of the first one's tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from limaml.data.features import hash_texts
from limaml.data.tasks import TaskSet
from limaml.learning.adaptation import embed
from limaml.learning.network import Network
from limaml.learning.rows import rows_of

TASKS_PER_BATCH = 512


@dataclass(frozen=True)
class Stored:
    """One definition's embeddings.

    Attributes:
        code: [N] int64 codes of its tasks (`limaml.data.task_ids.task_codes`), ascending.
        vector: [N, W] float32.
    """

    code: npt.NDArray[np.int64]
    vector: npt.NDArray[np.float32]

    @classmethod
    def of(cls, task_ids: list[str], vector: npt.NDArray[np.float32]) -> Self:
        """From canonical texts of tasks in any order."""
        code = hash_texts(pa.array(task_ids, pa.string()))
        order = np.argsort(code)
        return cls(code[order], vector[order])

    def place(self, code: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """[R] where in `vector` the task of each row is, −1 where it has no embedding."""
        place = np.searchsorted(self.code, code)
        return np.where(np.append(self.code, -1)[place] == code, place, -1)


def embed_further(network: Network, tasks: TaskSet, steps: int, pooling: str) -> list[Stored]:
    """Every further definition's embeddings of a task set's support rows, each made from whole tasks.

    Memory holds all of them. A part of a task set gets those of the whole set: a row's other tasks may lie in any part.
    """
    whole = tasks.part(0, 1)
    return [_embed(network, whole.of(name), steps, pooling, number) for number, name in enumerate(tasks.further, 1)]


def for_rows(
    stored: Sequence[Stored], code: npt.NDArray[np.int64], device: torch.device | str = "cpu"
) -> list[tuple[Tensor, Tensor]]:
    """What `limaml.learning.adaptation.served_logit` asks for, given the codes [R, A] of rows in each definition."""
    pairs = zip(stored, code.T, strict=True)
    return [(torch.as_tensor(s.place(c)).to(device), torch.as_tensor(s.vector).to(device)) for s, c in pairs]


def _embed(network: Network, tasks: TaskSet, steps: int, pooling: str, definition: int) -> Stored:
    device = next(network.parameters()).device
    ids: list[str] = []
    vectors = [np.empty((0, network.width), np.float32)]
    for batch in tasks.batches(TASKS_PER_BATCH):
        support = batch.support_only()
        if support.tasks:
            ids += support.task_ids
            vectors.append(embed(network, rows_of(support, device), steps, pooling, definition).cpu().numpy())
    return Stored.of(ids, np.concatenate(vectors))
