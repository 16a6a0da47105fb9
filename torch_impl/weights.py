"""Weights between a model and NumPy arrays or a file, by canonical name.

The modules' names make torch's state dict keys the canonical names (`stage2.block1.conv1.weight`), in the canonical
layouts. A weights file therefore is a state dict: `model.load_state_dict(safetensors.torch.load_file(path))`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import weights

__all__ = ["from_canonical", "load_weights", "save_weights", "to_canonical"]


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict without `num_batches_tracked`, which no other framework has and the networks never read."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def to_canonical(model: nn.Module) -> dict[str, np.ndarray]:
    """Return the weights by canonical name, in network order; on the CPU they share memory with the model."""
    return {name: tensor.numpy(force=True) for name, tensor in _state(model).items()}


def from_canonical(model: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy weights, by canonical name, into the model, which keeps its dtype and device."""
    for name, tensor in _state(model).items():
        tensor.copy_(torch.from_numpy(tensors[name]))


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Copy the weights of a file into a model that `build` returned.

    Raises WeightsError if the file is invalid or belongs to another network; the model is then unchanged.
    """
    from_canonical(model, weights.read_for(model, path).tensors)


def save_weights(model: nn.Module, path: Path | str) -> None:
    """Write the weights of a model that `build` returned to a file.

    Raises WeightsError if a weight is not finite, InputError if the file cannot be written.
    """
    weights.write(Path(path), weights.network_of(model), to_canonical(model))
