"""The inner loop against references that are slow and obvious: a copied network per task, plain SGD on it."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limaml.learning.adaptation import GlobalGradient, adapt, embed
from limaml.learning.network import Network
from limaml.learning.objective import drop_support, limaml_loss
from limaml.learning.rows import Rows
from limaml.learning.shifts import below
from tests.limaml.learning.conftest import random_batch, split

LENGTHS, SUPPORT = [9, 4, 1, 6, 3], [6, 2, 0, 6, 2]
MakeNetwork = Callable[..., Network]


def one_task(rows: Rows, task: int) -> Rows:
    """The rows of one task, alone in the world."""
    kept = rows.where(rows.task_R == task)
    return Rows(
        kept.meta_numeric, kept.meta_category, kept.other_numeric, kept.other_category, kept.label_R,
        torch.zeros_like(kept.task_R), 1,
    )  # fmt: skip


def reference_adapted(network: Network, support: Rows, steps: int) -> Network:
    """Adapt one task by plain SGD on a copy of the network, as Alg. 2a reads."""
    fast = copy.deepcopy(network)
    parameters: dict[str, torch.Tensor] = dict(fast.named_parameters())
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(fast(support), support.label_R, reduction="sum")
        samples = len(support.label_R)
        if network.spec.inner_loss == "shrunk":
            loss = loss / (samples + network.log_shrinkage.exp().detach())
        elif samples:
            loss = loss / samples
        gradients = torch.autograd.grad(loss, [parameters[name] for name in network.adapted_parameters()])
        with torch.no_grad():
            for name, gradient in zip(network.adapted_parameters(), gradients, strict=True):
                parameters[name].sub_(network.rate(name) * gradient)
    return fast


@pytest.mark.parametrize("adapted", ["meta_block", "embedding"])
@pytest.mark.parametrize("inner_loss", ["mean", "shrunk"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_all_tasks_at_once_equal_one_copied_network_per_task(
    make_network: MakeNetwork, adapted: str, inner_loss: str, steps: int
) -> None:
    network = make_network(adapted=adapted, inner_loss=inner_loss)
    support, query = split(random_batch(LENGTHS, SUPPORT))
    ours = network(query, adapt(network, support, steps))
    for task in range(len(LENGTHS)):
        expected = reference_adapted(network, one_task(support, task), steps)(one_task(query, task))
        torch.testing.assert_close(ours[query.task_R == task], expected, rtol=1e-9, atol=1e-10)


def test_one_step_on_the_embedding_shift_has_its_closed_form(make_network: MakeNetwork) -> None:
    network = make_network(
        adapted="embedding", item_product=False, adapted_bias=True, learned_task_learning_rate=False, inner_loss="mean"
    )
    support, _ = split(random_batch([8, 5], [8, 5]))
    ours = adapt(network, support, 1)["meta_block.layers.1.bias"]
    assert isinstance(ours, torch.Tensor)
    # The adapted bias is added to the logit, so its gradient is the mean residual, whatever the network.
    residual_R = (torch.sigmoid(network(support)) - support.label_R).detach()
    for task, samples in enumerate([8, 5]):
        expected = -0.3 * residual_R[support.task_R == task].sum() / samples
        torch.testing.assert_close(ours[task, -1], expected.detach())


@pytest.mark.parametrize("adapted", ["meta_block", "embedding"])
def test_the_outer_gradient_matches_finite_differences_through_the_inner_loop(
    make_network: MakeNetwork, adapted: str
) -> None:
    network = make_network(adapted=adapted)
    support, query = split(random_batch(LENGTHS, SUPPORT))

    def loss() -> torch.Tensor:
        return limaml_loss(network, support, query, 2, "full", 0.5)

    loss().backward()
    random = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        direction = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        analytic = float((parameter.grad * direction).sum()) if parameter.grad is not None else 0.0
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * direction
            values.append(loss().item())
            with torch.no_grad():
                parameter -= sign * 1e-6 * direction
        numeric = (values[0] - values[1]) / 2e-6
        assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-8), name


def test_direct_and_full_differ_only_in_what_passes_the_inner_loop(make_network: MakeNetwork) -> None:
    network = make_network()
    support, query = split(random_batch(LENGTHS, SUPPORT))

    def gradients(mode: GlobalGradient) -> dict[str, torch.Tensor]:
        network.zero_grad()
        limaml_loss(network, support, query, 1, mode).backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    direct, full = gradients("direct"), gradients("full")
    for name in direct:
        if name.startswith(("meta_block", "log_")):
            torch.testing.assert_close(direct[name], full[name], msg=name)
    assert not torch.allclose(direct["global_block.out.weight"], full["global_block.out.weight"])


def test_a_task_does_not_depend_on_the_company_it_keeps(make_network: MakeNetwork) -> None:
    network = make_network()
    batch = random_batch(LENGTHS, SUPPORT)
    support, query = split(batch)
    together = network(query, adapt(network, support, 2))
    order = [3, 0, 4]
    support_few, query_few = split(batch.take(np.array(order)))
    apart = network(query_few, adapt(network, support_few, 2))
    expected = torch.cat([together[query.task_R == task] for task in order])
    torch.testing.assert_close(apart, expected, rtol=1e-10, atol=1e-12)


def test_not_a_number_stays_inside_its_task(make_network: MakeNetwork) -> None:
    network = make_network()
    support, query = split(random_batch(LENGTHS, SUPPORT))
    clean = network(query, adapt(network, support, 2))
    support.label_R[support.task_R == 1] = torch.nan
    broken = network(query, adapt(network, support, 2))
    assert broken[query.task_R == 1].isnan().all()
    torch.testing.assert_close(broken[query.task_R != 1], clean[query.task_R != 1])


def test_no_samples_and_no_steps_change_nothing(make_network: MakeNetwork) -> None:
    network = make_network()
    support, query = split(random_batch(LENGTHS, SUPPORT))
    plain = network(query)
    torch.testing.assert_close(network(query, adapt(network, support, 0)), plain)
    empty = drop_support(support, 1.0, torch.Generator())
    torch.testing.assert_close(network(query, adapt(network, empty, 3)), plain)


def test_pooling_latest_mean_max_and_cosine(make_network: MakeNetwork) -> None:
    network = make_network()
    support, _ = split(random_batch([5, 3], [5, 3]))
    adapted = adapt(network, support, 2)
    rows = network.meta_block(network.encode(support)[0], below(adapted, "meta_block"), support).detach()
    for task, samples in enumerate([5, 3]):
        mine = rows[support.task_R == task]
        assert len(mine) == samples
        weight = F.cosine_similarity(mine, mine[-1:]).clamp(min=0)
        expected = {
            "latest": mine[-1],
            "mean": mine.mean(0),
            "max": mine.max(0).values,
            "cosine": (weight[:, None] * mine).sum(0) / weight.sum(),
        }
        for pooling, value in expected.items():
            torch.testing.assert_close(embed(network, support, 2, pooling)[task], value, msg=pooling)
