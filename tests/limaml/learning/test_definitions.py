"""Several task definitions at once, against a loop over definitions, tasks and steps that is slow and obvious."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from limaml.data.batches import TaskBatch
from limaml.learning.adaptation import GlobalGradient, adapt, embed, served_logit
from limaml.learning.network import Network
from limaml.learning.objective import drop_support, limaml_loss
from limaml.learning.rows import Rows, rows_of
from tests.limaml.learning.conftest import random_batch, split
from tests.limaml.learning.test_paths import gradients

MakeNetwork = Callable[..., Network]
# The second block reads a meta feature that the first one reads too, and two features that the global block reads too.
COLUMNS = (((1, 2), (1,)),)
LENGTHS, SUPPORT = [9, 4, 1, 6, 3], [6, 2, 0, 6, 2]
BOTH = {"adapted": "embedding", "also_columns": COLUMNS}


def batch_of(shape: str) -> TaskBatch:
    """A batch whose rows also belong to tasks within the first definition's, or across them, of equal length or not.

    Times are those of a log: chronological inside the first definition's tasks, not from one to the next.
    """
    if shape == "even":
        batch = random_batch([8, 8, 8], [6, 6, 6])
        also = np.arange(batch.rows) % 2
    else:
        batch = random_batch(LENGTHS, SUPPORT)
        also = np.random.default_rng(0).integers(0, 3, batch.rows)
        also = also + 10 * batch.task_of_row if shape == "nested" else also
    time = np.random.default_rng(1).permutation(batch.rows)
    time = time[np.lexsort((time, batch.task_of_row))]
    return replace(batch, also=also[:, None].astype(np.int64), event_time=time)


def as_one_task(rows: Rows) -> Rows:
    """Rows of one task, alone in the world, oldest first."""
    rows = rows.where(torch.ones(len(rows.label_R), dtype=torch.bool))
    order = torch.argsort(rows.time_R)
    rows = rows._at(order)
    return replace(rows, task_R=torch.zeros_like(rows.task_R), tasks=1)


def own_embedding(network: Network, rows: Rows, definition: int, past: Rows | None) -> Tensor:
    """[R, W] a definition's un-shifted embedding of one task's rows, which may look back on its support rows."""
    history = None if past is None else network.history(past, definition)
    return network.block(definition)(network.encode_meta(rows, definition), None, rows, history)


def shifted(embedding_RW: Tensor, shift_P: Tensor) -> Tensor:
    """Embeddings with their last coordinates shifted: all of them, or what is personal above a frozen base."""
    return embedding_RW + F.pad(shift_P, (embedding_RW.shape[1] - len(shift_P), 0))


def reference_shifts(network: Network, support: Rows, steps: int, definition: int, direct: bool) -> dict[int, Tensor]:
    """Each task's shift of one definition's embedding, task by task, by autograd."""
    task_R = support.task_R if definition == 0 else support.also_R[definition - 1]
    rate = network.rate(network.output_shift_of(definition))
    shifts = {}
    for task in task_R[task_R >= 0].unique().tolist():
        rows = as_one_task(support.where(task_R == task))
        base, z_RO = network.unadapted(rows), network.encode_other(rows)
        frozen = {n: p.detach() for n, p in network.global_block.named_parameters()}
        shift = torch.zeros_like(rate, requires_grad=True)
        for _ in range(steps):
            e_RW = list(base)
            e_RW[definition] = shifted(base[definition], shift)
            arguments = (z_RO.detach() if direct else z_RO, network.beside(e_RW))
            if direct:
                logit_R = torch.func.functional_call(network.global_block, frozen, arguments)
            else:
                logit_R = network.global_block(*arguments)
            loss = F.binary_cross_entropy_with_logits(logit_R, rows.label_R, reduction="sum")
            loss = loss / (len(rows.label_R) + network.shrinkage(definition))
            (gradient,) = torch.autograd.grad(loss, shift, create_graph=True)
            shift = shift - rate * gradient
        shifts[task] = shift
    return shifts


def reference_logit(network: Network, support: Rows, query: Rows, shifts: list[dict[int, Tensor]]) -> Tensor:
    """Row by row: every definition's embedding with its own task's shift, side by side."""
    logits = []
    for number in range(len(query.label_R)):
        row = query.where(torch.arange(len(query.label_R)) == number)
        embeddings = network.unadapted(row)
        for definition, known in enumerate(shifts):
            task_of = [rows.task_R if definition == 0 else rows.also_R[definition - 1] for rows in (row, support)]
            task = int(task_of[0])
            if task in known:
                past = as_one_task(support.where(task_of[1] == task))
                own_RW = own_embedding(network, as_one_task(row), definition, past)
                embeddings[definition] = shifted(own_RW, known[task])
        logits.append(network.global_block(network.encode_other(row), network.beside(embeddings)))
    return torch.cat(logits)


def reference_loss(support: Rows, query: Rows, steps: int, mode: GlobalGradient, network: Network) -> Tensor:
    shifts = [reference_shifts(network, support, steps, each, mode == "direct") for each in (0, 1)]
    return F.binary_cross_entropy_with_logits(reference_logit(network, support, query, shifts), query.label_R)


def ours(support: Rows, query: Rows, steps: int, mode: GlobalGradient, by_autograd: bool, network: Network) -> Tensor:
    shifts = adapt(network, support, steps, "second_order", mode, by_autograd=by_autograd)
    return F.binary_cross_entropy_with_logits(network(query, shifts, support), query.label_R)


@pytest.mark.parametrize("shape", ["nested", "across", "even"])
@pytest.mark.parametrize("mode", ["direct", "full"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"item_product": False, "adapted_bias": False, "global_hidden": (9,)},
        {"meta_block": "transformer"},
        {"base": "frozen"},
    ],
    ids=["whole", "plain", "transformer", "frozen"],
)
def test_gradients_equal_a_loop_over_tasks(
    make_network: MakeNetwork, changes: dict[str, object], steps: int, mode: GlobalGradient, shape: str
) -> None:
    network = make_network(**BOTH, **changes)
    support, query = split(batch_of(shape))
    expected = gradients(network, partial(reference_loss, support, query, steps, mode))
    # Both inner loops are learned through, and both meta blocks learn beside them unless they are frozen.
    assert all(bool(expected[f"log_rate.{name}"].abs().max() > 1e-6) for name in network.log_rate)
    learned = [name for name in network.adapted_parameters() if network.get_parameter(name).requires_grad]
    assert all(bool(expected[name].abs().max() > 1e-6) for name in learned)
    for by_autograd in (False, True):
        found = gradients(network, partial(ours, support, query, steps, mode, by_autograd))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10, msg=f"{by_autograd}: {name}")


@pytest.mark.parametrize("mode", ["direct", "full"])
def test_newton_steps_and_gates_of_every_definition(make_network: MakeNetwork, mode: GlobalGradient) -> None:
    network = make_network(**BOTH, bias_step="newton", bias_gate=True)
    with torch.no_grad():
        network.log_ridge.copy_(torch.tensor([0.3, 1.2]))
        network.get_parameter("global_block.gate.weight").normal_(std=0.3)
    support, query = split(batch_of("across"))
    fast, general = (gradients(network, partial(ours, support, query, 2, mode, way)) for way in (False, True))
    assert bool((general["log_ridge"] != 0).all()), "each definition has a ridge of its own"
    assert bool((general["log_shrinkage"] != 0).all())
    for name, value in general.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-8, atol=1e-10, msg=name)


def test_first_order_takes_inner_gradients_as_constants(make_network: MakeNetwork) -> None:
    network = make_network(**BOTH)
    support, query = split(batch_of("across"))
    first = gradients(network, lambda net: limaml_loss(net, support, query, 2, meta_gradient="first_order"))
    shifts = adapt(network, support, 2)
    by_hand = gradients(network, lambda net: F.binary_cross_entropy_with_logits(net(query, shifts), query.label_R))
    for name, value in by_hand.items():
        if not name.startswith("log_"):
            torch.testing.assert_close(first[name], value, rtol=1e-8, atol=1e-10, msg=name)


def test_a_definition_nobody_reads_changes_nothing(make_network: MakeNetwork) -> None:
    """With weights of zero on the second embedding, everything is as with one definition."""
    one, both = make_network(adapted="embedding", adapted_bias=False), make_network(**BOTH, adapted_bias=False)
    width, others = one.spec.embedding_width, one.other_encoder.width
    own, weights = one.state_dict(), both.state_dict()
    weights |= {name: value for name, value in own.items() if value.shape == weights[name].shape}
    # The first layer reads the other features, both embeddings, and both products.
    wide, narrow = (state["global_block.hidden.0.weight"] for state in (weights, own))
    wide.zero_()
    wide[:, : others + width] = narrow[:, : others + width]
    wide[:, others + 2 * width : others + 3 * width] = narrow[:, others + width :]
    for name in ("global_block.item.weight", "global_block.item.bias"):
        weights[name].zero_()
        weights[name][:width] = own[name]
    both.load_state_dict(weights)
    batch = batch_of("nested")
    support, query = split(batch)
    plain, asked = (replace(rows, also_R=(), also_tasks=()) for rows in (support, query))
    expected = gradients(one, lambda net: limaml_loss(net, plain, asked, 3, unadapted_weight=0.5, rows=asked))
    found = gradients(both, lambda net: limaml_loss(net, support, query, 3, unadapted_weight=0.5, rows=query))
    assert bool(expected["loss"] > 0)
    for name in ("loss", *one.adapted_parameters(), "meta_block.layers.0.weight", "global_block.out.weight"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12, msg=name)
    assert not found["also_blocks.0.layers.0.weight"].any()


def shift_of(network: Network, support: Rows, steps: int) -> Tensor:
    """[T, W] shifts of the second definition's tasks."""
    shift_TW = adapt(network, support, steps)[network.output_shift_of(1)]
    assert isinstance(shift_TW, Tensor)
    return shift_TW


@pytest.mark.parametrize("shape", ["nested", "across"])
def test_generation_makes_what_training_adapts(make_network: MakeNetwork, shape: str) -> None:
    """Tasks of the second definition gathered whole, against the same tasks where they lie in the first's batch."""
    network, batch = make_network(**BOTH), batch_of(shape)
    rows = rows_of(batch, dtype=torch.float64)
    support = rows.where(torch.as_tensor(~batch.is_query))
    shift_TW = shift_of(network, support, 3)
    codes = np.unique(batch.also)
    for code in codes[np.isin(codes, batch.also[~batch.is_query])]:
        of_task = ~batch.is_query & (batch.also[:, 0] == code)
        own = rows.where(torch.as_tensor(of_task))
        whole = replace(own, task_R=torch.zeros_like(own.task_R), tasks=1)
        made = embed(network, whole, 3, definition=1)
        newest = network.unadapted(whole.newest())[1]
        assert bool((made - newest).abs().max() > 1e-4), "it adapts"
        number = int(np.searchsorted(codes, code))
        torch.testing.assert_close(made - newest, shift_TW[number : number + 1].detach(), rtol=1e-10, atol=1e-12)


def test_served_rows_read_every_stored_embedding(make_network: MakeNetwork) -> None:
    network, batch = make_network(**BOTH), batch_of("nested")
    support, query = split(batch)
    stored = torch.randn(3, network.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    place_R = torch.arange(len(query.label_R)) % 4 - 1
    logit_R = served_logit(network, support, query, 2, stored=[(place_R, stored)])
    for number in range(len(query.label_R)):
        row = query.where(torch.arange(len(query.label_R)) == number)
        own = support.where(support.task_R == row.task_R)
        embeddings = network.unadapted(row)
        if len(own.label_R):
            alone = replace(own, task_R=torch.zeros_like(own.task_R), tasks=1)
            embeddings[0] = embed(network, alone, 2)
        if place_R[number] >= 0:
            embeddings[1] = stored[place_R[number]][None]
        expected = network.global_block(network.encode_other(row), network.beside(embeddings))
        torch.testing.assert_close(logit_R[number : number + 1], expected.detach())


def test_support_is_dropped_of_each_definition(make_network: MakeNetwork) -> None:
    network = make_network(**BOTH)
    batch = random_batch([6] * 60, [4] * 60)
    batch = replace(batch, also=(np.arange(batch.rows) // 2)[:, None])
    support, _ = split(batch)
    dropped = drop_support(support, 0.3, torch.Generator().manual_seed(0))
    gone = 60 - len(dropped.task_R.unique())
    assert 8 <= gone <= 28
    left = dropped.by(1)
    whole = 2 * (60 - gone)
    assert 0.15 * whole < whole - len(left.task_R.unique()) < 0.45 * whole, "beside those dropped with their first task"
    assert not (dropped.also_R[0] < 0).all()
    shift_TW = shift_of(network, dropped, 2)
    untouched = torch.ones(len(shift_TW), dtype=torch.bool)
    untouched[left.task_R] = False
    assert bool((shift_TW[untouched] == 0).all())
    assert bool((shift_TW[~untouched].abs().amax(1) > 0).all())
    empty = drop_support(support, 1.0, torch.Generator())
    assert adapt(network, empty, 2) == {}
    assert drop_support(support, 0.0, torch.Generator()) is support


def test_tasks_of_every_definition_are_alone_in_the_world(make_network: MakeNetwork) -> None:
    """Neither the order of the batch nor what else is in it matters to a task within the first one's."""
    network, batch = make_network(**BOTH), batch_of("nested")
    support, query = split(batch)
    together = network(query, adapt(network, support, 2))
    order = [3, 0, 4]
    support_few, query_few = split(batch.take(order))
    apart = network(query_few, adapt(network, support_few, 2))
    expected = torch.cat([together[query.task_R == task] for task in order])
    torch.testing.assert_close(apart, expected, rtol=1e-10, atol=1e-12)
