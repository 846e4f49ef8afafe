"""The stage that trains θ and its vanilla baseline on the same batches, and writes both as one model."""

import json
import logging
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limaml import pages, storage
from limaml.config import Application, Feature
from limaml.console import progress
from limaml.data.tasks import TaskSet
from limaml.errors import ConfigError
from limaml.learning.encoders import FeatureStatistics, fit_statistics
from limaml.learning.network import Network
from limaml.manifest import Manifest
from limaml.model import Algorithm, network_spec, save_model
from limaml.stage import Stage, entries
from limaml.training.loop import Epoch, fit

if TYPE_CHECKING:
    from limaml.training.registry import Registry

log = logging.getLogger(__name__)

SECTIONS = ("task", "features", "network", "training", "embeddings")
ALGORITHMS: tuple[Algorithm, ...] = ("vanilla", "limaml")
PAGE = "training.html"


def train_model(
    train: str, validation: str, model_root: str, application: Application, tracking_uri: str, as_of: date
) -> Manifest:
    """Train LiMAML and the vanilla baseline, and log the run to MLflow.

    Args:
        train: URI of the training task set (support and query by fraction).
        validation: URI of the validation task set (older rows adapt, newer rows score).
        model_root: folder below which `<model version>/` is written.
        application: the configuration.
        tracking_uri: MLflow's.
        as_of: the run's logical date, part of the version's name.

    Returns:
        The model's manifest; `details` has `model_version`, `uri` and the best validation AUCs.

    Raises:
        DataError: a task set is incomplete, or training diverged.
        ConfigError: the wanted device is not there.
    """
    from limaml.training.registry import Registry

    train_set, validation_set = TaskSet.open(train), TaskSet.open(validation)
    inputs = {
        "train": train_set.manifest.digest,
        "validation": validation_set.manifest.digest,
        "as_of": as_of.isoformat(),
    }
    unplaced = Stage("model", model_root, application, SECTIONS, inputs)
    version = f"{as_of:%Y%m%d}-{unplaced.fingerprint[:10]}"
    stage = Stage("model", storage.join(model_root, version), application, SECTIONS, inputs)

    def build(directory: Path) -> Manifest:
        registry = Registry(tracking_uri, application.name)  # first, so that a wrong address costs no training
        epochs = _train(directory, version, train_set, validation_set, application)
        _log(registry, stage, version, epochs, train_set, validation_set)
        for checkpoint in directory.glob("checkpoint-*"):
            checkpoint.unlink()
        (directory / PAGE).write_text(_page(application, version, epochs).html())
        best = {name: max(history, key=lambda e: e.validation_auc) for name, history in epochs.items()}
        return stage.manifest(
            entries(directory),
            {"tasks": train_set.tasks, "rows": train_set.rows},
            {
                "model_version": version,
                "uri": stage.output,
                "train": train_set.uri,
                "validation_auc": {name: epoch.validation_auc for name, epoch in best.items()},
            },
        )

    return stage.run(build, resumable=True)


def _train(
    directory: Path, version: str, train: TaskSet, validation: TaskSet, application: Application
) -> dict[Algorithm, list[Epoch]]:
    settings = application.training
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = _device(settings.device)
    meta, other = _statistics(application, train)
    networks: dict[Algorithm, Network] = {}
    histories: dict[Algorithm, list[Epoch]] = {}
    for algorithm in ALGORITHMS:
        torch.manual_seed(settings.seed)
        network = Network(network_spec(application), meta, other).to(device)
        checkpoint = directory / f"checkpoint-{algorithm}.safetensors"
        embeddings = application.embeddings
        histories[algorithm] = fit(network, algorithm, train, validation, settings, embeddings, checkpoint)
        networks[algorithm] = network
    save_model(directory, version, application, networks, meta, other)
    return histories


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device: cuda was asked for, but torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _statistics(application: Application, train: TaskSet) -> tuple[FeatureStatistics, FeatureStatistics]:
    """Feature statistics of both blocks; one pass each, so that memory stays at one batch and the vocabularies."""

    def settings(features: tuple[Feature, ...]) -> tuple[list[bool], list[int]]:
        numeric = [f.transform == "log" for f in features if f.kind == "numeric"]
        return numeric, [f.vocabulary for f in features if f.kind == "categorical"]

    with progress() as bar:
        task = bar.add_task("feature statistics", total=None, note="")
        features = application.features
        meta = fit_statistics(
            ((b.meta_numeric, b.meta_category) for b in train.batches(4096)), *settings(features.meta)
        )
        other = fit_statistics(
            ((b.other_numeric, b.other_category) for b in train.batches(4096)), *settings(features.other)
        )
        bar.update(task, completed=1, total=1)
    return meta, other


def _log(
    registry: "Registry",
    stage: Stage,
    version: str,
    epochs: dict[Algorithm, list[Epoch]],
    train: TaskSet,
    validation: TaskSet,
) -> None:
    application = stage.application
    params: dict[str, Any] = {"model_version": version, "config_hash": application.config_hash}
    for section in ("network", "training", "embeddings"):
        for name, value in getattr(application, section).model_dump(mode="json").items():
            params[f"{section}.{name}"] = value
    curves = {}
    for algorithm, history in epochs.items():
        curves[f"{algorithm}.loss"] = [epoch.loss for epoch in history]
        curves[f"{algorithm}.tasks_per_second"] = [epoch.tasks_per_second for epoch in history]
        curves[f"{algorithm}.validation_auc"] = [epoch.validation_auc for epoch in history]
    data = {"train": train.manifest.model_dump(mode="json"), "validation": validation.manifest.model_dump(mode="json")}
    texts = {"data.json": json.dumps(data, indent=1), "application.json": application.model_dump_json(indent=1)}
    registry.log_training(stage.fingerprint, version, params, curves, texts, {"curves.png": _curves(epochs)})


def _curves(epochs: dict[Algorithm, list[Epoch]]) -> Any:
    figure = pages.new_figure(8, 3)
    loss, score = figure.subplots(1, 2)
    for algorithm, history in epochs.items():
        numbers = [epoch.number for epoch in history]
        loss.plot(numbers, [epoch.loss for epoch in history], marker="o", label=algorithm)
        score.plot(numbers, [epoch.validation_auc for epoch in history], marker="o", label=algorithm)
    loss.set(title="Training loss", xlabel="epoch")
    score.set(title="Validation AUC", xlabel="epoch")
    for axes in (loss, score):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    return figure


def _page(application: Application, version: str, epochs: dict[Algorithm, list[Epoch]]) -> pages.Page:
    rows = [
        [algorithm, epoch.number, f"{epoch.loss:.4f}", f"{epoch.validation_auc:.4f}"]
        for algorithm, history in epochs.items()
        for epoch in history
    ]
    best = {name: max(history, key=lambda e: e.validation_auc) for name, history in epochs.items()}
    return pages.Page(
        f"Training of {application.title}",
        [
            f"Model {version}. Best validation AUC: LiMAML {best['limaml'].validation_auc:.4f} on embeddings made from "
            f"the days before, vanilla {best['vanilla'].validation_auc:.4f}."
        ],
        sections=[
            pages.Section(
                "Curves",
                figures=[_curves(epochs)],
                notes=["The training losses are not comparable: LiMAML's adds the un-adapted loss to the query loss."],
            ),
            pages.Section(
                "Epochs",
                tables=[pages.Table(["algorithm", "epoch", "loss", "validation AUC"], rows, (1, 2, 3))],
            ),
        ],
    )
