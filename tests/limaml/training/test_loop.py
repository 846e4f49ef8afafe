"""The outer loop: it learns what only adaptation can, and a broken run goes on to the same bits."""

from pathlib import Path

import pytest
import torch

from limaml.data.tasks import TaskSet
from limaml.errors import DataError
from limaml.learning.network import Network
from limaml.model import Algorithm, network_spec
from limaml.training.loop import Epoch, fit
from limaml.training.train import _statistics
from tests.limaml.training.planted import APPLICATION, TaskSets, group_all


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> TaskSets:
    return group_all(tmp_path_factory.mktemp("planted"))


class Broken(TaskSet):
    """A task set whose reader is interrupted after some batches, wherever that is in an epoch."""

    left = 11

    def batches(self, *arguments, **options):
        for batch in super().batches(*arguments, **options):
            if Broken.left == 0:
                raise KeyboardInterrupt
            Broken.left -= 1
            yield batch


def run(sets: TaskSets, checkpoint: Path, algorithm: Algorithm, kind: type[TaskSet] = TaskSet, **changes: object):
    settings = APPLICATION.training.model_copy(update=changes)
    train, validation = kind.open(sets.train), TaskSet.open(sets.validation)
    torch.manual_seed(0)
    network = Network(network_spec(APPLICATION), *_statistics(APPLICATION, TaskSet.open(sets.train)))
    history = fit(network, algorithm, train, validation, settings, APPLICATION.embeddings, checkpoint)
    return network, history


def test_adaptation_learns_a_taste_the_vanilla_network_cannot(sets: TaskSets, tmp_path: Path) -> None:
    _, vanilla = run(sets, tmp_path / "vanilla", "vanilla", epochs=2)
    _, limaml = run(sets, tmp_path / "limaml", "limaml")
    best = max(epoch.validation_auc for epoch in limaml)
    assert max(epoch.validation_auc for epoch in vanilla) < 0.55
    assert best > 0.75
    assert limaml[-1].loss < limaml[0].loss


@pytest.mark.parametrize("algorithm", ["vanilla", "limaml"])
def test_a_broken_run_goes_on_to_the_same_bits(sets: TaskSets, tmp_path: Path, algorithm: Algorithm) -> None:
    whole, history = run(sets, tmp_path / "whole", algorithm, epochs=3, checkpoint_steps=2)
    Broken.left = 11
    with pytest.raises(KeyboardInterrupt):
        run(sets, tmp_path / "broken", algorithm, Broken, epochs=3, checkpoint_steps=2)
    resumed, resumed_history = run(sets, tmp_path / "broken", algorithm, epochs=3, checkpoint_steps=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name

    def figures(epochs: list[Epoch]) -> list[tuple[int, float, float]]:
        return [(epoch.number, epoch.loss, epoch.validation_auc) for epoch in epochs]

    assert figures(history) == figures(resumed_history)


def test_the_best_epoch_is_kept_and_patience_ends_the_run(sets: TaskSets, tmp_path: Path) -> None:
    # A step size that only destroys: the first epoch stays the best.
    network, history = run(
        sets, tmp_path / "c", "limaml", epochs=6, patience=2, global_learning_rate=8.0, gradient_clip=100.0
    )
    best = max(history, key=lambda epoch: epoch.validation_auc)
    assert len(history) == min(6, best.number + 2)
    from limaml.training.loop import validation_auc

    again = validation_auc(network, "limaml", TaskSet.open(sets.validation), APPLICATION.embeddings)
    assert again == pytest.approx(best.validation_auc, abs=1e-12)


def test_a_diverging_loss_names_epoch_and_batch(sets: TaskSets, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"epoch 1, batch \d+: look for extreme feature values"):
        run(sets, tmp_path / "c", "limaml", task_learning_rate=3.0, global_learning_rate=1e30, gradient_clip=1e30)
