"""LiMAML on a vanilla network that stays as it is."""

from collections.abc import Callable

import pytest
import torch

from limaml.learning.adaptation import adapt, embed, served_logit
from limaml.learning.network import Network
from limaml.learning.objective import limaml_loss
from limaml.learning.personal import PersonalBlock
from limaml.learning.rows import Rows
from tests.limaml.learning.conftest import random_batch, split

MakeNetwork = Callable[..., Network]
FROZEN = {"adapted": "embedding", "base": "frozen", "bias_step": "newton"}
COLUMNS = (((1, 2), (1,)),)
LENGTHS, SUPPORT = [9, 4, 2, 6], [6, 2, 0, 4]


def pair(make_network: MakeNetwork, **changes: object) -> tuple[Network, Network]:
    """A vanilla network, and one that stands on it and whose personal part is as if trained."""
    vanilla = make_network(seed=1, adapted="embedding", **changes)
    network = make_network(seed=2, **FROZEN, **changes)
    network.stand_on(vanilla)
    for name, parameter in network.named_parameters():
        if name.startswith("global_block.gate"):
            torch.nn.init.normal_(parameter, std=0.3)
    return vanilla, network


def loss_of(network: Network, support: Rows, query: Rows) -> torch.Tensor:
    return limaml_loss(network, support, query, 2)


@pytest.mark.parametrize("meta_block", ["mlp", "transformer"])
@pytest.mark.parametrize("also_columns", [(), COLUMNS], ids=["one", "two"])
def test_un_adapted_it_is_vanilla_to_the_bit(
    make_network: MakeNetwork, meta_block: str, also_columns: tuple[object, ...]
) -> None:
    vanilla, network = pair(make_network, meta_block=meta_block, also_columns=also_columns)
    _, query = split(random_batch(LENGTHS, SUPPORT))
    assert torch.equal(network(query), vanilla(query))


@pytest.mark.parametrize("meta_block", ["mlp", "transformer"])
def test_rows_without_support_are_served_by_vanilla_and_others_are_not(
    make_network: MakeNetwork, meta_block: str
) -> None:
    vanilla, network = pair(make_network, meta_block=meta_block)
    support, query = split(random_batch(LENGTHS, SUPPORT))
    logit_R, plain_R, cold_R = served_logit(network, support, query, 2), vanilla(query).detach(), query.task_R == 2
    assert torch.equal(logit_R[cold_R], plain_R[cold_R])
    assert bool(((logit_R - plain_R).abs() > 1e-4)[~cold_R].all())


@pytest.mark.parametrize("meta_block", ["mlp", "transformer"])
def test_only_what_is_personal_learns(make_network: MakeNetwork, meta_block: str) -> None:
    vanilla, network = pair(make_network, meta_block=meta_block)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    support, query = split(random_batch(LENGTHS, SUPPORT))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss = loss_of(network, support, query)
    loss.backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    personal = {"global_block.item.weight", "global_block.gate.0.weight", "log_ridge", "log_shrinkage"}
    assert personal < moved
    assert ("meta_block.read.weight" in moved) == (meta_block == "transformer")
    assert torch.equal(network(query), vanilla(query))
    assert loss_of(network, support, query) < loss


def test_the_shift_is_that_of_a_linear_model_on_the_base_s_logit(make_network: MakeNetwork) -> None:
    """One step from zero, written out: e against the gradient, b by a ridge Newton step on its gated slope."""
    vanilla, network = pair(make_network)
    support, _ = split(random_batch([5, 3], [5, 3]))
    with torch.no_grad():
        z_RO, p_R = network.encode_other(support), torch.sigmoid(vanilla(support))
        assert isinstance(network.global_block, PersonalBlock)
        slope_RP = network.global_block.slope(z_RO)
        item_RD, open_R = slope_RP[:, :-1], slope_RP[:, -1]
        residual_R = p_R - support.label_R
        rate = network.rate("meta_block.personal")
        e_TD = -rate[:-1] * support.sum_by_task(residual_R[:, None] * item_RD) / (support.count_T[:, None] + 5.0)
        curvature_T = support.sum_by_task(p_R * (1 - p_R) * open_R**2)
        b_T = -rate[-1] * support.sum_by_task(residual_R * open_R) / (curvature_T + 2.0)
        expected = torch.cat([e_TD, b_T[:, None]], 1)
    torch.testing.assert_close(adapt(network, support, 1)["meta_block.personal"], expected)


def test_what_is_stored_is_the_base_s_embedding_then_the_personal_one(make_network: MakeNetwork) -> None:
    vanilla, network = pair(make_network)
    support, _ = split(random_batch([5, 3], [5, 3]))
    stored = embed(network, support, 2)
    assert stored.shape == (2, network.width) == (2, 2 * vanilla.width)
    torch.testing.assert_close(stored[:, : vanilla.width], vanilla.unadapted(support.newest())[0].detach())
    torch.testing.assert_close(stored[:, vanilla.width :], adapt(network, support, 2)["meta_block.personal"])


def test_nothing_of_the_base_is_dropped_out(make_network: MakeNetwork) -> None:
    vanilla, network = pair(make_network, dropout=0.5)
    _, query = split(random_batch(LENGTHS, SUPPORT))
    assert torch.equal(network.train()(query), vanilla.eval()(query))
