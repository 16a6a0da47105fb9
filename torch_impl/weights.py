"""Native parameters <-> canonical names: torch's own state dict, but for a counter that nobody else keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import weights

__all__ = ["from_canonical", "load_weights", "save_weights", "to_canonical"]


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's own tensors by canonical name; `num_batches_tracked` has no counterpart elsewhere."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def to_canonical(model: nn.Module) -> dict[str, np.ndarray]:
    """Return the weights by canonical name, in network order; on the CPU they share the model's memory."""
    return {name: tensor.numpy(force=True) for name, tensor in _state(model).items()}


def from_canonical(model: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model, in the model's dtype and on its device."""
    for name, tensor in _state(model).items():
        tensor.copy_(torch.from_numpy(tensors[name]))


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Copy the weights of a file into a model that `build` made.

    Raises WeightsError where the file is not valid or is another network's; the model is then as it was.
    """
    from_canonical(model, weights.read_for(model, path).tensors)


def save_weights(model: nn.Module, path: Path | str) -> None:
    """Write the weights of a model that `build` made to a file.

    Raises WeightsError where a weight is not finite, InputError where the file cannot be written.
    """
    weights.write(Path(path), weights.network_of(model), to_canonical(model))
