"""Layouts: how the canonical (torch) arrangement of an array becomes that of a framework, and back.

Canonical: activations NCHW, convolution kernels OIHW, dense weights (out, in) with a flattened image in C, H, W order.
The other one, of JAX and TensorFlow: activations NHWC, kernels HWIO, dense weights (in, out), flattened in H, W, C
order. All functions return a view where one exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Tensor", "canonical_input", "nchw_to_nhwc", "nhwc_to_nchw", "to_canonical", "to_channels_last"]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a manifest: its canonical shape and how a layout change treats it.

    `image` is set on the weight of a dense layer that reads a flattened image: that image's (channels, height, width).
    """

    shape: tuple[int, ...]
    kind: Literal["conv", "dense", "vector"]
    image: tuple[int, int, int] | None = None


def nchw_to_nhwc(array: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> (N, H, W, C); an array of any other rank has no image and comes back as it is."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def nhwc_to_nchw(array: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> (N, C, H, W); an array of any other rank has no image and comes back as it is."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def canonical_input(weight: Tensor | None, array: np.ndarray) -> np.ndarray:
    """Return what a channels-last layer with this weight was given, as the canonical layer is given it.

    Where that is a flattened image: (N, H * W * C) -> (N, C * H * W).
    """
    if weight is None or weight.image is None:
        return array
    channels, height, width = weight.image
    return array.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).reshape(array.shape)


def to_channels_last(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Canonical weights -> those of a channels-last framework: OIHW -> HWIO, (out, in) -> (in, out)."""
    if tensor.kind == "conv":
        return array.transpose(2, 3, 1, 0)
    if tensor.kind == "dense":
        if tensor.image is not None:
            outputs = array.shape[0]
            return array.reshape(outputs, *tensor.image).transpose(2, 3, 1, 0).reshape(-1, outputs)
        return array.T
    return array


def to_canonical(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Weights of a channels-last framework -> canonical ones; undoes `to_channels_last`."""
    if tensor.kind == "conv":
        return array.transpose(3, 2, 0, 1)
    if tensor.kind == "dense":
        if tensor.image is not None:
            channels, height, width = tensor.image
            outputs = array.shape[1]
            return array.reshape(height, width, channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, -1)
        return array.T
    return array
