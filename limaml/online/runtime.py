"""What computes scores once embeddings are there: the global block, on the engine that runs it fastest.

Shapes: R candidates, K task definitions, W width of an embedding, On and Oc other features.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from limaml.model import Model


class Runtime(Protocol):
    """Scores of one model; safe to share between threads."""

    name: str

    def score(
        self,
        embedding: npt.NDArray[np.float32],
        other_numeric: npt.NDArray[np.float32],
        other_category: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float32]:
        """[R] probabilities from embeddings [R, K·W] and other features [R, On], [R, Oc]."""
        ...


class TorchRuntime:
    """The network as it was trained."""

    name = "torch"

    def __init__(self, model: Model) -> None:
        self.score = model.score


def load_runtime(model: Model, choice: str = "auto") -> Runtime:
    """The engine to score a model with."""
    del choice
    return TorchRuntime(model)
