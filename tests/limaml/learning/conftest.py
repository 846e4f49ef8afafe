"""Small random task batches and networks in float64, where a reference can be exact."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from limaml.data.batches import TaskBatch
from limaml.learning.encoders import FeatureStatistics
from limaml.learning.network import Network, NetworkSpec
from limaml.learning.rows import Rows, rows_of

SPEC = NetworkSpec(
    embedding_width=4,
    meta_block="mlp",
    meta_hidden=(6,),
    global_hidden=(7, 5),
    meta_category_widths=(3,),
    other_category_widths=(3,),
    item_product=True,
    adapted_bias=True,
    bias_gate=True,
    dropout=0.0,
    adapted="meta_block",
    task_learning_rate=0.3,
    learned_task_learning_rate=True,
    inner_loss="shrunk",
    shrinkage=5.0,
    bias_step="gradient",
    bias_ridge=2.0,
    base="joint",
)
STATISTICS = FeatureStatistics([False, True], [0.1, 0.2], [1.0, 2.0], [True, False], [[11, 22, 33]])


def random_batch(lengths: list[int], support: list[int], seed: int = 0) -> TaskBatch:
    """Tasks of these lengths and support sizes with two numeric and one categorical feature in both blocks."""
    random = np.random.default_rng(seed)
    rows = sum(lengths)

    def numeric() -> np.ndarray:
        values = random.normal(size=(rows, 2)).astype(np.float32)
        values[random.random((rows, 2)) < 0.1] = np.nan
        return values

    def category() -> np.ndarray:
        return random.choice(np.array([0, 11, 22, 33, 44]), size=(rows, 1))

    return TaskBatch(
        task_ids=[f"task{i}" for i in range(len(lengths))],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        support=np.array(support, dtype=np.int64),
        label=(random.random(rows) < 0.4).astype(np.float32),
        event_time=np.arange(rows, dtype=np.int64),
        row_id=np.arange(rows, dtype=np.int64),
        meta_numeric=numeric(),
        meta_category=category(),
        other_numeric=numeric(),
        other_category=category(),
    )


def split(batch: TaskBatch) -> tuple[Rows, Rows]:
    """Support and query rows in float64."""
    rows = rows_of(batch, dtype=torch.float64)
    query = torch.as_tensor(batch.is_query)
    return rows.where(~query), rows.where(query)


@pytest.fixture
def make_network() -> Callable[..., Network]:
    def make(seed: int = 0, **changes: object) -> Network:
        torch.manual_seed(seed)
        network = Network(replace(SPEC, **changes), STATISTICS, STATISTICS).double().eval()
        # Layers that start at zero would hide what they are fed.
        for parameter in network.meta_block.parameters():
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
        return network

    return make
