"""Every way to the meta-gradient against every other: written out, low-rank, autograd, and a loop over tasks."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.loops import loop_loss
from benchmarks.loops import split as tasks_of
from limaml.learning import products
from limaml.learning.adaptation import GlobalGradient, adapt
from limaml.learning.network import GlobalBlock, Network
from limaml.learning.objective import limaml_loss
from limaml.learning.rows import Rows
from limaml.learning.shifts import LowRank
from tests.limaml.learning.conftest import random_batch, split

MakeNetwork = Callable[..., Network]
RAGGED = ([9, 4, 1, 6, 3], [6, 2, 0, 6, 2])
EVEN = ([8, 8, 8], [6, 6, 6])


def gradients(network: Network, loss: Callable[[Network], Tensor]) -> dict[str, Tensor]:
    network.zero_grad()
    value = loss(network)
    value.backward()
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}
    return found | {"loss": value.detach()}


def ours(support: Rows, query: Rows, steps: int, mode: GlobalGradient, by_autograd: bool, network: Network) -> Tensor:
    shifts = adapt(network, support, steps, "second_order", mode, by_autograd=by_autograd)
    return nn.functional.binary_cross_entropy_with_logits(network(query, shifts, support), query.label_R)


@pytest.mark.parametrize("mode", ["direct", "full"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("learned", [True, False], ids=["learned_rates", "one_rate"])
@pytest.mark.parametrize(
    "changes",
    [
        {"adapted": "meta_block"},
        {"adapted": "meta_block", "meta_hidden": (6, 5), "item_product": False, "adapted_bias": False},
        {"adapted": "meta_block", "meta_hidden": (12, 11), "global_hidden": (), "inner_loss": "mean"},
        {"adapted": "embedding"},
        {"adapted": "embedding", "meta_hidden": (), "global_hidden": (9,), "adapted_bias": False},
        {"adapted": "embedding", "bias_step": "newton"},
        {"adapted": "embedding", "bias_step": "newton", "bias_gate": False, "item_product": False},
        {"adapted": "network"},
        {"adapted": "embedding", "meta_block": "transformer"},
        {"adapted": "meta_block", "meta_block": "transformer"},
        {"adapted": "embedding", "base": "frozen", "bias_step": "newton"},
        {"adapted": "embedding", "base": "frozen", "bias_gate": False, "meta_block": "transformer"},
        {"adapted": "embedding", "base": "frozen", "adapted_bias": False, "item_product": False},
        {"adapted": "embedding", "base": "frozen", "bias_step": "newton", "meta_block": "deep_sets"},
        {"adapted": "meta_block", "meta_block": "deep_sets"},
    ],
    ids=[
        "block",
        "block_deep_plain",
        "block_wide_no_hidden",
        "shift",
        "shift_no_hidden",
        "newton",
        "newton_no_gate",
        "network",
        "transformer_shift",
        "transformer",
        "frozen",
        "frozen_transformer",
        "frozen_plain",
        "frozen_deep_sets",
        "deep_sets",
    ],
)
@pytest.mark.parametrize("lengths", [RAGGED, EVEN], ids=["ragged", "even"])
def test_all_ways_give_the_same_gradients(
    make_network: MakeNetwork,
    lengths: tuple[list[int], list[int]],
    changes: dict[str, object],
    learned: bool,
    steps: int,
    mode: GlobalGradient,
) -> None:
    network = make_network(learned_task_learning_rate=learned, **changes)
    support, query = split(random_batch(*lengths))
    fast = gradients(network, partial(ours, support, query, steps, mode, False))
    general = gradients(network, partial(ours, support, query, steps, mode, True))
    pairs = list(zip(tasks_of(support), tasks_of(query), strict=True))
    loop = gradients(network, lambda net: loop_loss(net, pairs, steps, mode))
    assert any(bool(value.abs().max() > 1e-6) for name, value in fast.items() if name.startswith("global_block"))
    for name, value in fast.items():
        torch.testing.assert_close(value, general[name], rtol=1e-8, atol=1e-10, msg=f"autograd: {name}")
        torch.testing.assert_close(value, loop[name], rtol=1e-8, atol=1e-10, msg=f"loop: {name}")


class AnyModule(nn.Module):
    """A global block this library has never seen."""

    def __init__(self, block: GlobalBlock, activation: nn.Module, piecewise_linear: bool) -> None:
        super().__init__()
        self.block, self.activation, self.piecewise_linear = block, activation, piecewise_linear

    def forward(self, z_RO: Tensor, embedding_RW: Tensor) -> Tensor:
        hidden = self.activation(self.block.hidden[0](torch.cat([z_RO, embedding_RW], 1)))
        return self.block.out(hidden).squeeze(1)


@pytest.mark.parametrize("mode", ["direct", "full"])
@pytest.mark.parametrize(("activation", "linear"), [(nn.LeakyReLU(0.2), True), (nn.GELU(), False)])
@pytest.mark.parametrize("adapted", ["meta_block", "embedding"])
def test_any_module_can_be_the_global_block(
    make_network: MakeNetwork, adapted: str, activation: nn.Module, linear: bool, mode: GlobalGradient
) -> None:
    network = make_network(adapted=adapted, global_hidden=(7,), item_product=False, adapted_bias=False)
    network.global_block = AnyModule(network.global_block, activation, linear)  # type: ignore[assignment]
    support, query = split(random_batch(*RAGGED))
    fast = gradients(network, partial(ours, support, query, 2, mode, False))
    pairs = list(zip(tasks_of(support), tasks_of(query), strict=True))
    loop = gradients(network, lambda net: loop_loss(net, pairs, 2, mode))
    for name, value in fast.items():
        torch.testing.assert_close(value, loop[name], rtol=1e-8, atol=1e-10, msg=name)


def test_one_rate_keeps_shifts_as_factors(make_network: MakeNetwork) -> None:
    network = make_network(learned_task_learning_rate=False, meta_hidden=(20,))
    support, _ = split(random_batch([4, 5], [4, 5]))
    shifts = adapt(network, support, 2)
    assert isinstance(shifts["meta_block.layers.0.weight"], LowRank)
    assert isinstance(shifts["meta_block.layers.1.weight"], Tensor)
    learned = adapt(make_network(meta_hidden=(20,)), support, 2)
    assert isinstance(learned["meta_block.layers.0.weight"], Tensor)


@pytest.mark.parametrize("adapted", ["meta_block", "embedding", "network"])
def test_first_order_takes_inner_gradients_as_constants(make_network: MakeNetwork, adapted: str) -> None:
    network = make_network(adapted=adapted)
    support, query = split(random_batch(*RAGGED))
    first = gradients(network, lambda net: limaml_loss(net, support, query, 2, "full", meta_gradient="first_order"))
    # The same by hand: the shifts are numbers, and what is left is the query loss's own gradient.
    shifts = adapt(network, support, 2)
    by_hand = gradients(
        network, lambda net: nn.functional.binary_cross_entropy_with_logits(net(query, shifts), query.label_R)
    )
    for name, value in by_hand.items():
        if not name.startswith("log_"):
            torch.testing.assert_close(first[name], value, rtol=1e-8, atol=1e-10, msg=name)
    assert any(bool(first[name].abs().max() > 0) for name in first if name.startswith("log_rate"))


def test_dropped_units_pass_neither_logit_nor_gradient(make_network: MakeNetwork) -> None:
    network = make_network(adapted="embedding", dropout=0.5).train()
    support, _ = split(random_batch(*RAGGED))
    torch.manual_seed(3)
    linearize = network.global_block.linearized(network.encode(support)[1], constant=False)
    point = network.meta_block(network.encode(support)[0]).detach().requires_grad_()
    logit_R, slope_RW = linearize(point)
    (by_autograd,) = torch.autograd.grad(logit_R.sum(), point)
    torch.testing.assert_close(slope_RW, by_autograd)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(point.shape, generator=generator, dtype=point.dtype)
    moved = [linearize_at(network, support, point + sign * 1e-6 * direction) for sign in (1, -1)]
    expected = (moved[0] - moved[1]) / 2e-6
    torch.testing.assert_close(linearize_slope(network, support, point, direction), expected, rtol=1e-5, atol=1e-7)


def linearize_at(network: Network, support: Rows, point: Tensor) -> Tensor:
    torch.manual_seed(3)
    return network.global_block.linearized(network.encode(support)[1], constant=True)(point)[0].detach()


def linearize_slope(network: Network, support: Rows, point: Tensor, direction: Tensor) -> Tensor:
    torch.manual_seed(3)
    slope_RW = network.global_block.linearized(network.encode(support)[1], constant=True)(point)[1]
    return (slope_RW * direction).sum(1).detach()


@pytest.mark.parametrize("mode", ["direct", "full"])
def test_chunks_change_nothing(
    make_network: MakeNetwork, mode: GlobalGradient, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(adapted="embedding", bias_step="newton")
    support, query = split(random_batch(*RAGGED))
    whole = gradients(network, partial(ours, support, query, 2, mode, False))
    monkeypatch.setattr(products, "PIECES", (5, 2))
    assert len(support.label_R) % 5
    for name, value in gradients(network, partial(ours, support, query, 2, mode, False)).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-10, atol=1e-12, msg=name)
