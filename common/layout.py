"""Convert arrays between the canonical layout and channels last.

Canonical, as in PyTorch and MXNet: activations NCHW, convolution kernels OIHW, dense weights (out, in), images
flattened in C, H, W order. Channels last, as in JAX and TensorFlow: activations NHWC, kernels HWIO, dense weights
(in, out), images flattened in H, W, C order. All functions return a view if possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Tensor", "canonical_input", "nchw_to_nhwc", "nhwc_to_nchw", "to_canonical", "to_channels_last"]


@dataclass(frozen=True)
class Tensor:
    """Canonical shape and kind of a weight tensor; the kind determines its layout conversion.

    `image` is the (channels, height, width) of the flattened image that a dense layer reads, for its weight only.
    """

    shape: tuple[int, ...]
    kind: Literal["conv", "dense", "vector"]
    image: tuple[int, int, int] | None = None


def nchw_to_nhwc(array: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> (N, H, W, C); arrays of any other rank are returned unchanged."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def nhwc_to_nchw(array: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> (N, C, H, W); arrays of any other rank are returned unchanged."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def canonical_input(weight: Tensor | None, array: np.ndarray) -> np.ndarray:
    """Convert the input of a channels-last layer with this weight to the input of the canonical layer.

    Only a flattened image changes: (N, H * W * C) -> (N, C * H * W).
    """
    if weight is None or weight.image is None:
        return array
    channels, height, width = weight.image
    return array.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).reshape(array.shape)


def to_channels_last(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Convert a canonical weight to channels last: OIHW -> HWIO, (out, in) -> (in, out)."""
    if tensor.kind == "conv":
        return array.transpose(2, 3, 1, 0)
    if tensor.kind == "dense":
        if tensor.image is not None:
            outputs = array.shape[0]
            return array.reshape(outputs, *tensor.image).transpose(2, 3, 1, 0).reshape(-1, outputs)
        return array.T
    return array


def to_canonical(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Convert a channels-last weight to canonical; the inverse of `to_channels_last`."""
    if tensor.kind == "conv":
        return array.transpose(3, 2, 0, 1)
    if tensor.kind == "dense":
        if tensor.image is not None:
            channels, height, width = tensor.image
            outputs = array.shape[1]
            return array.reshape(height, width, channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, -1)
        return array.T
    return array
