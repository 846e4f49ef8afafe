"""The stage that trains θ and its vanilla baseline on the same batches, and writes both as one model."""

import json
import logging
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limaml import pages, storage
from limaml.config import Application, Feature
from limaml.console import progress
from limaml.data.tasks import TaskSet
from limaml.learning.encoders import FeatureStatistics, fit_statistics
from limaml.learning.network import Network
from limaml.manifest import Manifest, read_manifest
from limaml.model import Algorithm, network_spec, save_model
from limaml.stage import Stage, entries
from limaml.training.distributed import ALONE, Processes, processes
from limaml.training.loop import Epoch, fit

if TYPE_CHECKING:
    from limaml.training.registry import Registry

log = logging.getLogger(__name__)

SECTIONS = ("task", "also", "features", "network", "training", "embeddings")
ALGORITHMS: tuple[Algorithm, ...] = ("vanilla", "limaml")
PAGE = "training.html"
_TRAIN = b"train"


def train_model(
    train: str,
    validation: str,
    model_root: str,
    application: Application,
    tracking_uri: str,
    as_of: date,
    algorithms: tuple[Algorithm, ...] = ALGORITHMS,
) -> Manifest:
    """Train LiMAML and the vanilla baseline, and log the run to MLflow.

    Under torchrun every process calls this alike and returns the same; the first one alone writes and logs. Checkpoints
    lie below `model_root`, so that a run that was killed goes on from them wherever it is started again.

    Args:
        train: URI of the training task set (support and query by fraction).
        validation: URI of the validation task set (older rows adapt, newer rows score).
        model_root: folder below which `<model version>/` is written.
        application: the configuration.
        tracking_uri: MLflow's.
        as_of: the run's logical date, part of the version's name.
        algorithms: what to train; without a vanilla baseline the model can be scored, but the gate can't judge it.
            LiMAML on a frozen base always has one.

    Returns:
        The model's manifest; `details` has `model_version`, `uri` and the best validation AUCs.

    Raises:
        DataError: a task set is incomplete, or training diverged.
        ConfigError: the wanted device is not there, or torchrun's environment is not whole.
    """
    if application.training.base == "frozen" and "limaml" in algorithms:
        algorithms = ALGORITHMS
    with processes() as group:
        job = _Job(train, validation, model_root, application, tracking_uri, as_of, algorithms, group)
        return job.lead() if group.first else job.follow()


def plan_model(train: str, validation: str, model_root: str, application: Application, as_of: date) -> Stage:
    """The stage that `train_model` will run: where its model will lie, and what it is made from.

    Raises:
        DataError: a task set is incomplete.
    """
    made_from = read_manifest(train, "task_set"), read_manifest(validation, "task_set")
    return _planned(*made_from, model_root, application, as_of, ALGORITHMS)[1]


def _planned(
    train: Manifest,
    validation: Manifest,
    model_root: str,
    application: Application,
    as_of: date,
    algorithms: tuple[Algorithm, ...],
) -> tuple[str, Stage]:
    """A model's version and stage."""
    inputs: dict[str, Any] = {
        "train": train.digest,
        "validation": validation.digest,
        "as_of": as_of.isoformat(),
    }
    if algorithms != ALGORITHMS:
        inputs["algorithms"] = list(algorithms)
    unplaced = Stage("model", model_root, application, SECTIONS, inputs)
    version = f"{as_of:%Y%m%d}-{unplaced.fingerprint[:10]}"
    return version, Stage("model", storage.join(model_root, version), application, SECTIONS, inputs)


class _Job:
    """One training run, as every process sees it.

    The first process sends two messages: `_TRAIN`, unless the model is there already, and at the end the manifest.
    """

    def __init__(
        self,
        train: str,
        validation: str,
        model_root: str,
        application: Application,
        tracking_uri: str,
        as_of: date,
        algorithms: tuple[Algorithm, ...],
        group: Processes,
    ) -> None:
        self.application, self.tracking_uri, self.algorithms, self.group = application, tracking_uri, algorithms, group
        # Sums are checked once, by the process that leads.
        self.train, self.validation = (TaskSet.open(uri, verify=group.first) for uri in (train, validation))
        self.version, self.stage = _planned(
            self.train.manifest, self.validation.manifest, model_root, application, as_of, algorithms
        )
        # Hidden, since it is no model; of its own, since storage may be a bucket, where nothing is half there.
        self.checkpoints = storage.join(model_root, f".{self.version}.checkpoints")

    def lead(self) -> Manifest:
        """Train with the others if there is need to, and write."""
        manifest = self.stage.run(self._build)
        storage.delete(self.checkpoints)
        self.group.share(manifest.model_dump_json().encode())
        return manifest

    def follow(self) -> Manifest:
        """Train with the first process if it says so."""
        message = self.group.share(b"")
        if message == _TRAIN:
            self._fit(*_statistics(self.application, self.train, self.group))
            message = self.group.share(b"")
        return Manifest.model_validate_json(message)

    def _build(self, directory: Path) -> Manifest:
        from limaml.training.registry import Registry

        registry = Registry(
            self.tracking_uri, self.application.name
        )  # first, so that a wrong address costs no training
        self.group.share(_TRAIN)
        meta, other = _statistics(self.application, self.train, self.group)
        networks, epochs = self._fit(meta, other)
        save_model(directory, self.version, self.application, networks, meta, other)
        self._log(registry, epochs)
        (directory / PAGE).write_text(_page(self.application, self.version, epochs).html())
        return self.stage.manifest(
            entries(directory),
            {"tasks": self.train.tasks, "rows": self.train.rows},
            {
                "model_version": self.version,
                "uri": self.stage.output,
                "train": self.train.uri,
                "validation_auc": {name: _best(history).validation_auc for name, history in epochs.items()},
            },
        )

    def _fit(
        self, meta: FeatureStatistics, other: FeatureStatistics
    ) -> tuple[dict[Algorithm, Network], dict[Algorithm, list[Epoch]]]:
        settings, embeddings = self.application.training, self.application.embeddings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        device = self.group.device(settings)
        networks: dict[Algorithm, Network] = {}
        histories: dict[Algorithm, list[Epoch]] = {}
        for algorithm in self.algorithms:
            torch.manual_seed(settings.seed)
            network = networks[algorithm] = Network(network_spec(self.application, algorithm), meta, other).to(device)
            if network.spec.base == "frozen":
                network.stand_on(networks["vanilla"])
            checkpoint = storage.join(self.checkpoints, f"{algorithm}.safetensors")
            histories[algorithm] = fit(
                network,
                algorithm,
                self.train,
                self.validation,
                settings,
                embeddings,
                checkpoint,
                self.group,
            )
        return networks, histories

    def _log(self, registry: "Registry", epochs: dict[Algorithm, list[Epoch]]) -> None:
        application, train, validation = self.application, self.train.manifest, self.validation.manifest
        params: dict[str, Any] = {
            "model_version": self.version,
            "config_hash": application.config_hash,
            "processes": self.group.world,
        }
        for section in ("network", "training", "embeddings"):
            for name, value in getattr(application, section).model_dump(mode="json").items():
                params[f"{section}.{name}"] = value
        curves = {}
        for algorithm, history in epochs.items():
            curves[f"{algorithm}.loss"] = [epoch.loss for epoch in history]
            curves[f"{algorithm}.tasks_per_second"] = [epoch.tasks_per_second for epoch in history]
            curves[f"{algorithm}.validation_auc"] = [epoch.validation_auc for epoch in history]
        data = {"train": train.model_dump(mode="json"), "validation": validation.model_dump(mode="json")}
        texts = {"data.json": json.dumps(data, indent=1), "application.json": application.model_dump_json(indent=1)}
        figures = {"curves.png": _curves(epochs)}
        registry.log_training(self.stage.fingerprint, self.version, params, curves, texts, figures)


def _statistics(
    application: Application, train: TaskSet, group: Processes = ALONE
) -> tuple[FeatureStatistics, FeatureStatistics]:
    """Feature statistics of both blocks, the same in every process: the first one reads the data."""
    own = _fitted(application, train) if group.first else ()
    shared = group.share(json.dumps([asdict(statistics) for statistics in own]).encode())
    meta, other = (FeatureStatistics(**fields) for fields in json.loads(shared))
    return meta, other


def _fitted(application: Application, train: TaskSet) -> tuple[FeatureStatistics, FeatureStatistics]:
    """One pass a block, so that memory stays at one batch and the vocabularies."""

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


def _best(history: list[Epoch]) -> Epoch:
    return max(history, key=lambda epoch: epoch.validation_auc)


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
    parts = {
        "limaml": "LiMAML {:.4f} on embeddings made from the days before",
        "vanilla": "vanilla {:.4f}",
    }
    best = [text.format(_best(epochs[name]).validation_auc) for name, text in parts.items() if name in epochs]
    apart = "" if application.training.base == "frozen" else ", with the un-adapted loss beside it"
    notes = [f"The training losses are not comparable: LiMAML's is of query rows alone{apart}."]
    return pages.Page(
        f"Training of {application.title}",
        [f"Model {version}. Best validation AUC: {', '.join(best)}."],
        sections=[
            pages.Section("Curves", figures=[_curves(epochs)], notes=notes if len(epochs) > 1 else []),
            pages.Section(
                "Epochs",
                tables=[pages.Table(["algorithm", "epoch", "loss", "validation AUC"], rows, (1, 2, 3))],
            ),
        ],
    )
