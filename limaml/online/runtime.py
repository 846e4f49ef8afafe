"""What computes scores once embeddings are there: the network on the engine that runs it fastest, with equal outputs.

Shapes: R candidates, K task definitions, W width of an embedding; Mn, Mc meta and On, Oc other features.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from limaml.errors import ConfigError
from limaml.learning.encoders import FeatureEncoder
from limaml.learning.network import Network
from limaml.model import Model
from limaml.online.graphs import GraphFailed, Maker, compiled_graph, onnx_graph

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Choice = Literal["auto", "torch", "onnxruntime", "compiled"]

# Two float32 engines sum in another order: on the widest networks here scores differ by some 1e-7.
TOLERANCE = 1e-6
PROBE_ROWS = (1, 50)
_ROUNDS = 30


class Runtime(Protocol):
    """Scores of one model; safe to share between threads."""

    name: str

    def score(self, embedding: Floats, other_numeric: Floats, other_category: Codes) -> Floats:
        """[R] probabilities from embeddings [R, K·W] and other features [R, On], [R, Oc]."""
        ...

    def zero_shot(
        self, meta_numeric: Floats, meta_category: Codes, other_numeric: Floats, other_category: Codes
    ) -> Floats:
        """[R, K·W] embeddings without adaptation."""
        ...


class TorchRuntime:
    """The network as it was trained."""

    name = "torch"

    def __init__(self, model: Model) -> None:
        self.score = model.score
        self.zero_shot = model.zero_shot


class _Scores(nn.Module):
    """Probabilities; categorical values come as places of their vectors."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, embedding: Tensor, numeric: Tensor, place: Tensor) -> Tensor:
        network = self.network
        beside = network.beside(embedding.split(network.width, 1))
        return torch.sigmoid(network.global_block(network.other_encoder.of_places(numeric, place), beside))


class _ZeroShot(nn.Module):
    """Un-adapted embeddings of every definition, side by side."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, meta_numeric: Tensor, meta_place: Tensor, numeric: Tensor, place: Tensor) -> Tensor:
        network = self.network
        all_numeric, all_place = torch.cat([meta_numeric, numeric], 1), torch.cat([meta_place, place], 1)
        embeddings = [network.meta_block(network.meta_encoder.of_places(meta_numeric, meta_place))]
        for number, (numbers, categories) in enumerate(network.spec.also_columns, 1):
            encoder: FeatureEncoder = network.also_encoders[number - 1]  # type: ignore[assignment]
            columns = all_numeric[:, list(numbers)], all_place[:, list(categories)]
            embeddings.append(network.block(number)(encoder.of_places(*columns)))
        return torch.cat(embeddings, 1)


class _Places:
    """Where the codes of each categorical feature have their vectors; 0 for those that have none."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        codes = [getattr(encoder, f"codes_{column}").tolist() for column in range(len(encoder.tables))]
        self._known = [{code: place + 1 for place, code in enumerate(each)} for each in codes]

    def of(self, category: Codes) -> Codes:
        places = np.empty_like(category)
        for column, known in enumerate(self._known):
            places[:, column] = [known.get(code, 0) for code in category[:, column].tolist()]
        return places


class GraphRuntime:
    """The network as two graphs that know no codes, only places."""

    def __init__(self, model: Model, name: str, make: Maker) -> None:
        """Make the graphs.

        Raises:
            GraphFailed: the engine can't run this network.
        """
        self.name = name
        network = model.network
        meta, other = _Places(network.meta_encoder), _Places(network.other_encoder)
        self._meta, self._other = meta, other
        embedding, (meta_inputs, inputs) = _example(model, 2)
        places = inputs[0], other.of(inputs[1])
        self._score = make(_Scores(network), {"task_embedding": embedding, "numeric": places[0], "place": places[1]})
        self._zero_shot = make(
            _ZeroShot(network),
            {
                "meta_numeric": meta_inputs[0],
                "meta_place": meta.of(meta_inputs[1]),
                "numeric": places[0],
                "place": places[1],
            },
        )

    def score(self, embedding: Floats, other_numeric: Floats, other_category: Codes) -> Floats:
        """See `Runtime`."""
        return self._score(embedding, other_numeric, self._other.of(other_category))

    def zero_shot(
        self, meta_numeric: Floats, meta_category: Codes, other_numeric: Floats, other_category: Codes
    ) -> Floats:
        """See `Runtime`."""
        places = self._meta.of(meta_category), self._other.of(other_category)
        return self._zero_shot(meta_numeric, places[0], other_numeric, places[1])


_MAKERS: Mapping[str, Maker] = {"onnxruntime": onnx_graph, "compiled": compiled_graph}


def load_runtime(model: Model, choice: Choice = "auto") -> Runtime:
    """The engine to score a model with; `auto` measures torch and onnxruntime at 1 and 50 candidates.

    Raises:
        ConfigError: the engine that was asked for can't run this network, or scores it differently.
    """
    torch_runtime = TorchRuntime(model)
    if choice == "torch":
        return torch_runtime
    name = "onnxruntime" if choice == "auto" else choice
    try:
        other = GraphRuntime(model, name, _MAKERS[name])
        _check(model, torch_runtime, other)
    except GraphFailed as error:
        if choice != "auto":
            raise ConfigError(f"serve.runtime {choice}: {error}; choose torch") from error
        log.warning("runtime: torch, since onnxruntime can't take its place: %s", error)
        return torch_runtime
    if choice != "auto":
        return other
    cost = seconds_of(model, (torch_runtime, other))
    shown = {runtime.name: [round(1e6 * seconds) for seconds in each] for runtime, each in cost.items()}
    log.info("runtime: microseconds at %s candidates: %s", PROBE_ROWS, shown)
    return min(cost, key=lambda runtime: sum(a / b for a, b in zip(cost[runtime], cost[torch_runtime], strict=True)))


def seconds_of(model: Model, runtimes: Sequence[Runtime]) -> dict[Runtime, list[float]]:
    """What a score takes at each number of `PROBE_ROWS`; the least of many rounds, which met no other process."""
    found: dict[Runtime, list[float]] = {runtime: [] for runtime in runtimes}
    for rows in PROBE_ROWS:
        embedding, (_, other) = _example(model, rows)
        least = dict.fromkeys(runtimes, float("inf"))
        for _ in range(_ROUNDS):
            for runtime in runtimes:
                started = time.perf_counter()
                runtime.score(embedding, *other)
                least[runtime] = min(least[runtime], time.perf_counter() - started)
        for runtime, seconds in least.items():
            found[runtime].append(seconds)
    return found


def _check(model: Model, reference: Runtime, other: Runtime) -> None:
    for rows in PROBE_ROWS:
        embedding, (meta, features) = _example(model, rows)
        pairs = (
            (reference.score(embedding, *features), other.score(embedding, *features)),
            (reference.zero_shot(*meta, *features), other.zero_shot(*meta, *features)),
        )
        for expected, found in pairs:
            difference = float(np.abs(expected - found).max()) if expected.shape == found.shape else np.inf
            if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
                raise GraphFailed(f"its results differ from torch's by {difference:.2g}")


def _example(model: Model, rows: int) -> tuple[Floats, list[tuple[Floats, Codes]]]:
    """Rows of every sort: values near and far, nulls, known and unknown categories."""
    generator = np.random.default_rng(rows)
    sides: list[tuple[Floats, Codes]] = []
    for encoder in (model.network.meta_encoder, model.network.other_encoder):
        mean, scale = encoder.mean.cpu().numpy(), encoder.scale.cpu().numpy()
        numeric = (mean + scale * 3 * generator.standard_normal((rows, len(mean)))).astype(np.float32)
        numeric[generator.random(numeric.shape) < 0.1] = np.nan
        category = generator.integers(1, 1 << 62, (rows, len(encoder.tables)))
        for column in range(category.shape[1]):
            codes = getattr(encoder, f"codes_{column}").cpu().numpy()
            category[::2, column] = generator.choice(codes, len(category[::2]))
        sides.append((numeric, category))
    width = model.definitions * model.embedding_width
    return generator.standard_normal((rows, width)).astype(np.float32), sides
