"""Every engine gives torch's results, whatever the network and the rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limaml.config import parse_application
from limaml.errors import ConfigError
from limaml.model import Model, load_model
from limaml.online import graphs, runtime
from limaml.online.runtime import TOLERANCE, GraphRuntime, load_runtime
from tests.conftest import SMALL
from tests.limaml.online.chain import interactions, write_model

NETWORK = SMALL["network"]
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "mlp": {"network": NETWORK | {"meta_block": "mlp"}},
    "plain": {"network": NETWORK | {"item_product": False, "adapted_bias": False, "bias_gate": False}},
    "wide": {"network": NETWORK | {"global_hidden": [256, 128], "meta_hidden": [64], "embedding_width": 16}},
    "frozen base": {"training": {"base": "frozen"}, "network": NETWORK | {"meta_block": "deep_sets"}},
    "no meta": {"features": SMALL["features"] | {"meta": []}},
    "no categories": {
        "features": {"meta": ["member_x0"], "other": [{"name": "item_x0", "transform": "log"}, "item_x1"]}
    },
    "several definitions": {
        "also": [
            {
                "name": "member_type",
                "keys": ["member_id", "notification_type"],
                "meta": ["member_x1", "notification_type"],
            },
            {"name": "item", "keys": ["item_id"], "meta": ["item_x0", "member_kind"]},
        ]
    },
}
VARIANTS["several on a frozen base"] = VARIANTS["several definitions"] | {"training": {"base": "frozen"}}


def model_of(folder: Path, variant: str) -> Model:
    application = parse_application(SMALL | VARIANTS[variant], "tests")
    return load_model(write_model(folder, "m1", application, interactions()), application)


def agree(model: Model, found: runtime.Runtime, rows: int, seed: int = 0) -> None:
    embedding, (meta, other) = runtime._example(model, rows)
    np.testing.assert_allclose(found.score(embedding, *other), model.score(embedding, *other), rtol=0, atol=TOLERANCE)
    expected = model.zero_shot(*meta, *other)
    np.testing.assert_allclose(found.zero_shot(*meta, *other), expected, rtol=1e-5, atol=TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_onnxruntime_equals_torch(tmp_path: Path, variant: str) -> None:
    model = model_of(tmp_path, variant)
    found = load_runtime(model, "onnxruntime")
    assert found.name == "onnxruntime"
    for rows in (1, 2, 7, 50, 1000):
        agree(model, found, rows)


@pytest.mark.heavy
def test_compiled_equals_torch(tmp_path: Path) -> None:
    model = model_of(tmp_path, "several definitions")
    found = load_runtime(model, "compiled")
    for rows in (1, 2, 7, 50, 1000):
        agree(model, found, rows)


def test_the_faster_one_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path, "default")
    seconds = {"torch": [3e-5, 4e-5], "onnxruntime": [2e-5, 4e-5]}
    monkeypatch.setattr(runtime, "seconds_of", lambda _, each: {it: seconds[it.name] for it in each})
    assert load_runtime(model).name == "onnxruntime"
    seconds["onnxruntime"] = [2.9e-5, 5e-5]
    assert load_runtime(model).name == "torch"
    assert load_runtime(model, "torch").name == "torch"


def test_what_differs_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path, "plain")

    def wrong(module: torch.nn.Module, inputs: Any) -> graphs.Graph:
        right = graphs.onnx_graph(module, inputs)
        return lambda *values: right(*values) + np.float32(3e-6)

    def refuses(module: torch.nn.Module, inputs: Any) -> graphs.Graph:
        raise graphs.GraphFailed("no such operator")

    for make, message in ((wrong, "differ from torch's by"), (refuses, "no such operator")):
        monkeypatch.setattr(runtime, "_MAKERS", {"onnxruntime": make})
        assert load_runtime(model).name == "torch"
        with pytest.raises(ConfigError, match=message):
            load_runtime(model, "onnxruntime")


def test_codes_outside_the_vocabulary(tmp_path: Path) -> None:
    model = model_of(tmp_path, "default")
    found = load_runtime(model, "onnxruntime")
    assert isinstance(found, GraphRuntime)
    embedding, (_, (numeric, category)) = runtime._example(model, 4)
    for code in (0, 1, -1, 2**63 - 1):
        category[:] = code
        expected = model.score(embedding, numeric, category)
        np.testing.assert_allclose(found.score(embedding, numeric, category), expected, rtol=0, atol=TOLERANCE)
