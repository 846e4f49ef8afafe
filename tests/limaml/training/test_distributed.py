"""Several processes train as one would: same loss, same gradients, and after one is killed they go on."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from limaml.config import Application
from limaml.data.batches import TaskBatch
from limaml.data.tasks import TaskSet
from limaml.learning.network import Network
from limaml.learning.objective import limaml_loss, vanilla_loss
from limaml.learning.rows import Rows, rows_of
from limaml.model import Algorithm
from limaml.training.loop import fit, validation_auc
from tests.limaml.training.planted import APPLICATION, TaskSets, group_all, interactions
from tests.limaml.training.workers import (
    fit_together,
    gradients_of_an_epoch,
    new_network,
    together,
)

DROP = 0.3


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> TaskSets:
    """Tasks of 2 to 16 rows: processes never have equally many query rows."""
    log = interactions(members=70)
    rng = np.random.default_rng(1)
    share = rng.uniform(0.1, 1.0, 70)[log["member_id"].to_numpy()]
    return group_all(tmp_path_factory.mktemp("ragged"), log=log.filter(pa.array(rng.random(len(log)) < share)))


def changed(adapted: str = "embedding", **training: object) -> Application:
    network = APPLICATION.network.model_copy(update={"adapted": adapted})
    # One boundary for a task whatever batch it is in: random days are drawn a process at a time.
    settings = APPLICATION.training.model_copy(update={"support_split": "fraction"} | training)
    return APPLICATION.model_copy(update={"network": network, "training": settings})


def batches_of(sets: TaskSets, application: Application, world: int) -> list[list[TaskBatch | None]]:
    """Per step, what every process brings to it."""
    train, settings = TaskSet.open(sets.train), application.training
    parts = [train.part(rank, world) for rank in range(world)]
    tasks = [part.tasks for part in parts]
    assert sum(tasks) == train.tasks
    steps = -(-max(tasks) // settings.tasks_per_batch)
    streams = [part.batches(-(-part.tasks // steps), settings.seed, 0) for part in parts]
    found = [[next(stream, None) for stream in streams] for _ in range(steps)]
    assert not any(next(stream, None) for stream in streams)
    return found


def loss_of_one_process(network: Network, application: Application, algorithm: Algorithm, step: int, batches: list):
    """The loss of all batches as one, each task's support dropped as its own process would drop it."""
    settings = application.training
    keep = []
    for rank, batch in enumerate(batches):
        torch.manual_seed(hash((settings.seed, 0, step) + ((rank,) if rank else ())))
        keep.append(torch.rand(0 if batch is None else batch.tasks) >= settings.support_drop)
    whole = TaskBatch.concatenate([batch for batch in batches if batch is not None])
    rows = rows_of(whole)
    if algorithm == "vanilla":
        return vanilla_loss(network, rows)
    is_query = torch.as_tensor(whole.is_query)
    support: Rows = rows.where(~is_query & torch.cat(keep)[rows.task_R])
    return limaml_loss(
        network, support, rows.where(is_query), settings.inner_steps, settings.global_gradient,
        settings.unadapted_weight, rows, settings.meta_gradient,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("algorithm", "adapted", "base", "world", "tasks_per_batch"),
    [
        pytest.param("limaml", "embedding", "joint", 2, 16, id="two processes"),
        pytest.param("limaml", "meta_block", "joint", 2, 16, id="two processes, meta block"),
        pytest.param("limaml", "embedding", "frozen", 2, 16, id="two processes, frozen base"),
        pytest.param("vanilla", "embedding", "joint", 2, 16, id="two processes, vanilla"),
        pytest.param("limaml", "embedding", "joint", 3, 2, id="three processes, one without tasks in the last step"),
    ],
)
def test_every_step_has_the_loss_and_gradients_of_one_process_on_all_batches(
    sets: TaskSets, tmp_path: Path, algorithm: Algorithm, adapted: str, base: str, world: int, tasks_per_batch: int
) -> None:
    application = changed(
        adapted,
        base=base,
        tasks_per_batch=tasks_per_batch,
        support_drop=DROP,
        global_learning_rate=1e-30,
        gradient_clip=1e9,
    )
    assert together(world, gradients_of_an_epoch, sets, application, algorithm, tmp_path) == [0] * world
    steps = batches_of(sets, application, world)
    assert (None in steps[-1]) == (world == 3)
    network = new_network(application, TaskSet.open(sets.train))
    written = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(world)]
    for step, batches in enumerate(steps):
        network.zero_grad(set_to_none=True)
        loss = loss_of_one_process(network, application, algorithm, step, batches)
        loss.backward()
        means = [batch.is_query.sum() for batch in batches if batch is not None]
        expected = {f"{step}/{n}": p.grad for n, p in network.named_parameters() if p.grad is not None}
        expected[f"{step}/loss"] = loss.detach()
        for own in written:
            assert {name for name in own if name.startswith(f"{step}/")} == set(expected), "other parameters move"
            for name, value in expected.items():
                torch.testing.assert_close(own[name].to(value.dtype), value, rtol=1e-6, atol=1e-6, msg=name)
                assert torch.equal(own[name], written[0][name]), "processes differ"
        assert len(set(means)) > 1 or world == 3, "query rows are equally many: weights of 1/world would do"


class Joined(TaskSet):
    """A task set whose batches are those of two processes, joined."""

    application = changed()

    def batches(self, *arguments, **options):
        sets = TaskSets(self.uri, "", "")
        for batches in batches_of(sets, Joined.application, 2):
            yield TaskBatch.concatenate([batch for batch in batches if batch is not None])


def test_two_processes_train_as_one_and_score_all_of_validation(sets: TaskSets, tmp_path: Path) -> None:
    application = changed(epochs=1, tasks_per_batch=16, support_drop=0.0)
    Joined.application = application
    assert together(2, fit_together, sets, application, "limaml", tmp_path) == [0, 0]
    weights = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    histories = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    figures = [[(epoch["loss"], epoch["validation_auc"]) for epoch in history] for history in histories]
    assert figures[0] == figures[1]

    train, validation = Joined.open(sets.train), TaskSet.open(sets.validation)
    shares = sum(-(-train.part(rank, 2).tasks // len(batches_of(sets, application, 2))) for rank in range(2))
    alone = new_network(application, TaskSet.open(sets.train))
    settings = application.training.model_copy(update={"tasks_per_batch": shares})
    (epoch,) = fit(alone, "limaml", train, validation, settings, application.embeddings, tmp_path / "alone")
    assert figures[0][0] == pytest.approx((epoch.loss, epoch.validation_auc), abs=1e-6)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(weights[0][name], value, rtol=0, atol=1e-5, msg=name)
    alone.load_state_dict(weights[0])
    assert validation_auc(alone, "limaml", validation, application.embeddings) == pytest.approx(
        figures[0][0][1], abs=1e-9
    )
