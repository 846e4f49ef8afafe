"""Where a killed training run goes on, to the bit: weights, optimizer, best weights so far, position and history.

A checkpoint is one file on the model's storage, replaced at once: whoever starts next, on whatever machine, finds the
last whole one.
"""

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from limaml import storage
from limaml.errors import DataError

_STATE = "state"


def save_checkpoint(uri: str, tensors: dict[str, dict[str, Tensor]], position: dict[str, Any]) -> None:
    """Write groups of tensors and a JSON position as one file, replacing the last checkpoint at once."""
    flat = {
        f"{group}/{name}": value.detach().cpu().contiguous().clone()
        for group, values in tensors.items()
        for name, value in values.items()
    }
    storage.write_bytes(uri, save(flat, metadata={_STATE: json.dumps(position)}))


def read_checkpoint(uri: str) -> bytes:
    """The file as it is; empty where there is none."""
    return storage.read_bytes(uri) if storage.exists(uri) else b""


def parse_checkpoint(data: bytes, uri: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Groups of tensors and the position.

    Raises:
        DataError: the bytes are not a checkpoint.
    """
    try:
        flat = load(data)
        header = int.from_bytes(data[:8], "little")
        position = json.loads(json.loads(data[8 : 8 + header])["__metadata__"][_STATE])
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{uri}: not a whole checkpoint ({error}); delete it to train from the start") from error
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        group, _, name = key.partition("/")
        tensors.setdefault(group, {})[name] = value
    return tensors, position


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's per-parameter state as named tensors."""
    return {
        f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put named tensors back as an optimizer's state."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
