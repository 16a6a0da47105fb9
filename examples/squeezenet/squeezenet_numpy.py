"""The small SqueezeNet as a function of NumPy arrays: a definition that depends on no framework."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Weights = Mapping[str, np.ndarray]


def convolution(x: np.ndarray, weights: Weights, name: str, stride: int = 1, padding: int = 0) -> np.ndarray:
    """Cross-correlation plus bias: (N, C, H, W) -> (N, O, H', W')."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(padded, kernel.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, kernel) + bias[:, None, None]


def pool(x: np.ndarray) -> np.ndarray:
    """Maximum of each 2x2 window: (N, C, H, W) -> (N, C, H/2, W/2)."""
    return sliding_window_view(x, (2, 2), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    return np.maximum(x, 0)


def fire(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Conv 1x1, relu, then conv 1x1 and conv 3x3 concatenated, relu: (N, C, H, W) -> (N, 2e, H, W)."""
    x = relu(convolution(x, weights, f"{name}.squeeze"))
    narrow = convolution(x, weights, f"{name}.expand1x1")
    return relu(np.concatenate([narrow, convolution(x, weights, f"{name}.expand3x3", padding=1)], axis=1))


def squeezenet(x: np.ndarray, weights: Weights) -> dict[str, np.ndarray]:
    """Return taps by name, the logits last: (N, 3, H, W) -> (N, 10)."""
    taps = {"conv1": convolution(x, weights, "conv1", stride=2, padding=1)}
    taps["pool1"] = pool(relu(taps["conv1"]))
    taps["fire2"] = fire(taps["pool1"], weights, "fire2")
    taps["fire3"] = fire(taps["fire2"], weights, "fire3")
    taps["pool3"] = pool(taps["fire3"])
    taps["fire4"] = fire(taps["pool3"], weights, "fire4")
    taps["classifier"] = convolution(taps["fire4"], weights, "classifier")
    taps["logits"] = relu(taps["classifier"]).mean(axis=(2, 3))
    return taps
