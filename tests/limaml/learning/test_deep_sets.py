"""A task's samples as a set."""

from collections.abc import Callable

import torch

from limaml.learning.deep_sets import SHRINKAGE, DeepSetsBlock
from limaml.learning.network import Network
from tests.limaml.learning.conftest import random_batch, split

MakeNetwork = Callable[..., Network]


def test_the_order_of_samples_says_nothing(make_network: MakeNetwork) -> None:
    network = make_network(meta_block="deep_sets", base="frozen", adapted="embedding")
    support, query = split(random_batch([7, 5], [5, 3]))
    turned = support._at(torch.tensor([4, 2, 0, 1, 3, 7, 6, 5]))
    found, expected = (network(query, None, rows).detach() for rows in (turned, support))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert bool((expected != network(query).detach()).all())


def test_what_is_read_is_the_set_shrunk_by_its_size(make_network: MakeNetwork) -> None:
    network = make_network(meta_block="deep_sets", base="frozen", adapted="embedding")
    block = network.meta_block
    assert isinstance(block, DeepSetsBlock)
    support, query = split(random_batch([7], [4]))
    with torch.no_grad():
        sample_RI = torch.cat([network.encode_other(support), support.label_R[:, None]], 1)
        total_H = block.deeper(block.sample(sample_RI).relu()).relu().sum(0) / (4 + SHRINKAGE)
        read_P = block.read(block.mix(torch.cat([total_H, torch.tensor([5.0]).double().log()])).relu())
        x_RM = network.encode_meta(query)
        found = block(x_RM, None, query, network.history(support))
        torch.testing.assert_close(found[:, -len(read_P) :], read_P.expand(3, -1))
        torch.testing.assert_close(found[:, : -len(read_P)], block(x_RM)[:, : -len(read_P)])
