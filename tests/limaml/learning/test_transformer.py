"""What a meta block that looks back, a transformer or deep sets, sees of a task, and when."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from limaml.learning.adaptation import embed, served_logit
from limaml.learning.network import Network
from limaml.learning.rows import Rows
from tests.limaml.learning.conftest import random_batch, split

MakeNetwork = Callable[..., Network]
LENGTHS, SUPPORT = [9, 4, 2, 6], [6, 2, 0, 4]

pytestmark = pytest.mark.parametrize("meta_block", ["transformer", "deep_sets"])


def embeddings(network: Network, rows: Rows, support: Rows) -> torch.Tensor:
    return network.meta_block(network.encode(rows)[0], None, rows, network.history(support)).detach()


def test_a_sample_sees_the_samples_before_it_and_a_query_row_all_of_them(
    make_network: MakeNetwork, meta_block: str
) -> None:
    network = make_network(meta_block=meta_block)
    batch = random_batch(LENGTHS, SUPPORT)
    support, query = split(batch)
    of_support, of_query = embeddings(network, support, support), embeddings(network, query, support)
    for row in range(len(support.label_R)):
        support.label_R[row] = 1 - support.label_R[row]
        now_support, now_query = embeddings(network, support, support), embeddings(network, query, support)
        support.label_R[row] = 1 - support.label_R[row]
        same_task = support.task_R == support.task_R[row]
        later = same_task & (torch.arange(len(support.label_R)) > row)
        changed = (now_support != of_support).any(1)
        assert torch.equal(changed, later)
        assert torch.equal((now_query != of_query).any(1), query.task_R == support.task_R[row])


def test_without_samples_only_the_mlp_speaks(make_network: MakeNetwork, meta_block: str) -> None:
    network = make_network(meta_block=meta_block)
    support, query = split(random_batch(LENGTHS, SUPPORT))
    plain = network.meta_block(network.encode(query)[0]).detach()
    with_history = embeddings(network, query, support)
    cold = query.task_R == 2
    torch.testing.assert_close(with_history[cold], plain[cold])
    assert (with_history[~cold] != plain[~cold]).any(1).all()
    first = support.position_R == 0
    of_support = embeddings(network, support, support)
    torch.testing.assert_close(of_support[first], network.meta_block(network.encode(support)[0]).detach()[first])


def test_what_is_stored_looks_back_on_every_sample(make_network: MakeNetwork, meta_block: str) -> None:
    network = make_network(meta_block=meta_block, adapted="embedding")
    support, _ = split(random_batch([6, 3], [6, 3]))
    stored = embed(network, support, 0)
    support.label_R[-1] = 1 - support.label_R[-1]
    changed = (embed(network, support, 0) != stored).any(1)
    assert changed.tolist() == [False, True]


def test_company_and_padding_change_nothing(make_network: MakeNetwork, meta_block: str) -> None:
    network = make_network(meta_block=meta_block, adapted="embedding")
    batch = random_batch(LENGTHS, SUPPORT)
    support, query = split(batch)
    together = served_logit(network, support, query, 2)
    order = [3, 0, 2]
    apart = served_logit(network, *split(batch.take(np.array(order))), 2)
    expected = torch.cat([together[query.task_R == task] for task in order])
    torch.testing.assert_close(apart, expected, rtol=1e-10, atol=1e-12)


def test_not_a_number_stays_inside_its_task(make_network: MakeNetwork, meta_block: str) -> None:
    network = make_network(meta_block=meta_block, adapted="embedding")
    support, query = split(random_batch(LENGTHS, SUPPORT))
    clean = served_logit(network, support, query, 2)
    support.label_R[support.task_R == 1] = torch.nan
    broken = served_logit(network, support, query, 2)
    assert broken[query.task_R == 1].isnan().all()
    torch.testing.assert_close(broken[query.task_R != 1], clean[query.task_R != 1])
