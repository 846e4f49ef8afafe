"""A trained model as files, and the model a reader gets back: numpy in, numpy out.

`model/<version>/` holds `theta.safetensors` (LiMAML), `vanilla.safetensors` (the baseline, same network trained without
an inner loop), `model.json` (network, feature statistics, configuration) and a manifest. Nothing in it is executable.
"""

import copy
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor

from limaml import storage
from limaml.config import Application, Definition, Feature, parse_application
from limaml.data.batches import TaskBatch
from limaml.errors import ConfigError, DataError
from limaml.learning.adaptation import embed
from limaml.learning.encoders import FeatureStatistics
from limaml.learning.network import Network, NetworkSpec
from limaml.learning.rows import Rows, rows_of
from limaml.manifest import read_manifest, verify_files

Algorithm = Literal["limaml", "vanilla"]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

_WEIGHTS: dict[str, str] = {"limaml": "theta.safetensors", "vanilla": "vanilla.safetensors"}
_DESCRIPTION = "model.json"
_DEFAULT_EMBEDDING = "default_embedding"
# What a model needs to know of its application: others may change their fields without making it unreadable.
_SECTIONS = {"name", "title", "task", "also", "features", "network", "training", "embeddings"}


def network_spec(application: Application, algorithm: Algorithm = "limaml") -> NetworkSpec:
    """The network an application asks for; vanilla is the same whether LiMAML learns beside it or on top of it."""
    network, training = application.network, application.training

    def widths(features: tuple[Feature, ...]) -> tuple[int, ...]:
        return tuple(f.width or network.category_width for f in features if f.kind == "categorical")

    return NetworkSpec(
        embedding_width=network.embedding_width,
        meta_block=network.meta_block,
        meta_hidden=network.meta_hidden,
        global_hidden=network.global_hidden,
        meta_category_widths=widths(application.features.meta),
        other_category_widths=widths(application.features.other),
        item_product=network.item_product,
        adapted_bias=network.adapted_bias,
        bias_gate=network.bias_gate,
        dropout=network.dropout,
        adapted=network.adapted,
        task_learning_rate=training.task_learning_rate,
        learned_task_learning_rate=training.learned_task_learning_rate,
        inner_loss=training.inner_loss,
        shrinkage=training.shrinkage,
        bias_step=training.bias_step,
        bias_ridge=training.bias_ridge,
        base="joint" if algorithm == "vanilla" else training.base,
        also_columns=_also_columns(application),
    )


def _also_columns(application: Application) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """For each further task definition, the places of its features among all numeric and all categorical ones."""

    def places(definition: Definition, kind: str) -> tuple[int, ...]:
        listed = [feature for feature in application.features.all if feature.kind == kind]
        own = application.meta_features(definition)
        return tuple(place for place, feature in enumerate(listed) if feature in own)

    return tuple((places(each, "numeric"), places(each, "categorical")) for each in application.also)


@dataclass(frozen=True)
class Model:
    """One trained network with what surrounds it; every method takes raw feature arrays (`limaml.data.features`).

    A row is scored by the embeddings of all K task definitions, side by side: K·W columns, W of each.
    """

    version: str
    digest: str
    application: Application
    algorithm: Algorithm
    network: Network
    default_embedding: Floats

    @property
    def embedding_width(self) -> int:
        """W: the width of a task's embedding, with the adapted bias where there is one."""
        return self.network.width

    @property
    def definitions(self) -> int:
        """K: how many task definitions there are."""
        return self.network.definitions

    @cached_property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    def embed(
        self, batch: TaskBatch, steps: int | None = None, pooling: str | None = None, definition: int = 0
    ) -> Floats:
        """[T, W] float32 meta embeddings from the batch's support rows (Alg. 2b).

        `steps` and `pooling` default to the application's. Every task must have at least one support row. `definition`
        is the number of the task definition that the batch is grouped by.
        """
        support = rows_of(batch, self.device)
        if (batch.support < batch.lengths).any():
            support = support.where(torch.as_tensor(~batch.is_query).to(self.device))
        options = self.application.embeddings
        steps = options.finetune_steps if steps is None else steps
        return _numpy(embed(self.network, support, steps, pooling or options.pooling, definition))

    @torch.no_grad()
    def zero_shot(
        self,
        meta_numeric: Floats,
        meta_category: Codes,
        other_numeric: Floats | None = None,
        other_category: Codes | None = None,
    ) -> Floats:
        """[R, K·W] float32: the un-adapted meta blocks on live meta features [R, Mn], [R, Mc].

        Further task definitions need the other features as well.
        """
        empty = (len(meta_numeric), 0)
        other_numeric = np.empty(empty, np.float32) if other_numeric is None else other_numeric
        other_category = np.empty(empty, np.int64) if other_category is None else other_category
        meta, other = self._tensors(meta_numeric, meta_category), self._tensors(other_numeric, other_category)
        label_R = meta[0].new_zeros(len(meta_numeric))
        rows = Rows(*meta, *other, label_R, label_R.long(), 1)
        return _numpy(torch.cat(self.network.unadapted(rows), 1))

    @torch.no_grad()
    def score(self, embedding: Floats, other_numeric: Floats, other_category: Codes) -> Floats:
        """[R] float32 probabilities from embeddings [R, K·W] and the other features [R, On], [R, Oc]."""
        z_RO = self.network.other_encoder(*self._tensors(other_numeric, other_category))
        embeddings = torch.as_tensor(embedding, dtype=torch.float32).to(self.device).split(self.network.width, 1)
        embedding_RW = self.network.beside(embeddings)
        return _numpy(torch.sigmoid(self.network.global_block(z_RO, embedding_RW)))

    def predict_unadapted(
        self, meta_numeric: Floats, meta_category: Codes, other_numeric: Floats, other_category: Codes
    ) -> Floats:
        """[R] float32 probabilities of the network without any adaptation: how the vanilla baseline scores."""
        embedding = self.zero_shot(meta_numeric, meta_category, other_numeric, other_category)
        return self.score(embedding, other_numeric, other_category)

    def _tensors(self, numeric: Floats, category: Codes) -> tuple[Tensor, Tensor]:
        return (
            torch.as_tensor(numeric, dtype=torch.float32).to(self.device),
            torch.as_tensor(category, dtype=torch.int64).to(self.device),
        )


def save_model(
    directory: Path,
    version: str,
    application: Application,
    networks: dict[Algorithm, Network],
    meta: FeatureStatistics,
    other: FeatureStatistics,
) -> None:
    """Write weights and description of both networks into a directory in the making."""
    description = {
        "format": 1,
        "version": version,
        "application": application.model_dump(mode="json", include=_SECTIONS),
        "meta": asdict(meta),
        "other": asdict(other),
    }
    (directory / _DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
    for algorithm, network in networks.items():
        tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        tensors[_DEFAULT_EMBEDDING] = _default_embedding(network, meta, other)
        # Through bytes: on a full disk safetensors' own file writer raises no OSError.
        (directory / _WEIGHTS[algorithm]).write_bytes(save(tensors))


@torch.no_grad()
def _default_embedding(network: Network, meta: FeatureStatistics, other: FeatureStatistics) -> Tensor:
    """[K·W] the un-adapted embeddings of a member of whom nothing is known: every feature null."""
    network = copy.deepcopy(network).to("cpu")
    numeric = [torch.full((1, len(statistics.mean)), torch.nan) for statistics in (meta, other)]
    category = [torch.zeros((1, len(statistics.vocabulary)), dtype=torch.int64) for statistics in (meta, other)]
    task_R = torch.zeros(1, dtype=torch.int64)
    rows = Rows(numeric[0], category[0], numeric[1], category[1], torch.zeros(1), task_R, 1)
    return torch.cat(network.unadapted(rows), 1)[0].contiguous()


def load_model(
    uri: str, application: Application | None = None, algorithm: Algorithm = "limaml", device: str = "cpu"
) -> Model:
    """The model at a URI, its sums checked.

    Raises:
        DataError: not a model directory of a known format.
        IntegrityError: a file does not match the manifest.
        ConfigError: `application` asks for other task keys or features than the model was trained with.
    """
    manifest = read_manifest(uri, kind="model")
    verify_files(uri, manifest)
    description = json.loads(storage.read_bytes(storage.join(uri, _DESCRIPTION)))
    if description.get("format") != 1:
        raise DataError(f"{uri}: model format {description.get('format')!r} is not known to this version")
    trained = parse_application(description["application"], f"{uri}/{_DESCRIPTION}")
    if application is not None and (changes := schema_changes(trained, application)):
        raise ConfigError(
            f"the model {uri} does not fit the configuration; train again or restore it\n  " + "\n  ".join(changes)
        )
    meta, other = (FeatureStatistics(**description[block]) for block in ("meta", "other"))
    network = Network(network_spec(trained, algorithm), meta, other)
    tensors = load_tensors(storage.read_bytes(storage.join(uri, _WEIGHTS[algorithm])))
    default = tensors.pop(_DEFAULT_EMBEDDING)
    network.load_state_dict(tensors)
    network.eval().requires_grad_(False).to(device)
    return Model(description["version"], manifest.digest, trained, algorithm, network, _numpy(default))


def schema_changes(trained: Application, wanted: Application) -> list[str]:
    """How the task keys or features one application was trained with differ from another's; empty where they fit."""

    def names(application: Application) -> dict[str, Any]:
        return {
            "task.keys": list(application.task.keys),
            "also": [(each.name, list(each.keys), list(each.meta)) for each in application.also],
            "features.meta": [(f.name, f.kind) for f in application.features.meta],
            "features.other": [(f.name, f.kind) for f in application.features.other],
        }

    before, now = names(trained), names(wanted)
    return [
        f"{field}: trained with {before[field]}, configured {now[field]}"
        for field in now
        if before[field] != now[field]
    ]


def _numpy(tensor: Tensor) -> Floats:
    return tensor.detach().cpu().numpy().astype(np.float32, copy=False)
