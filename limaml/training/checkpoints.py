"""Where a killed training run goes on, to the bit: weights, optimizer, best weights so far, position and history."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

_STATE = "state"


def save_checkpoint(path: Path, tensors: dict[str, dict[str, Tensor]], position: dict[str, Any]) -> None:
    """Write groups of tensors and a JSON position as one file, replacing the last checkpoint at once."""
    flat = {
        f"{group}/{name}": value.detach().cpu().contiguous().clone()
        for group, values in tensors.items()
        for name, value in values.items()
    }
    temporary = path.with_name(f".{path.name}")
    # Through bytes: on a full disk safetensors' own file writer raises no OSError.
    temporary.write_bytes(save(flat, metadata={_STATE: json.dumps(position)}))
    temporary.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Groups of tensors and the position, or None where there is no checkpoint."""
    if not path.exists():
        return None
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        position = json.loads(file.metadata()[_STATE])
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
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
