"""Fold batch normalization into the layer before it; the network computes the same function with fewer operations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common import reference
from common.catalog import Network
from common.reference.graph import graph
from common.reference.layers import BATCH_NORM_EPSILON

__all__ = ["fold", "folded_layers"]

_LINEAR = ("Conv2d", "Linear")


def folded_layers(network: Network) -> dict[str, str]:
    """Return which batch normalizations can be folded: the path of each, and of the layer that it is folded into.

    That layer is a convolution or dense layer whose only consumer is the batch normalization. DenseNet's cannot be
    folded: they read concatenated outputs, or a ReLU stands between them and the next convolution.
    """
    wiring = graph(network)
    sources: dict[str, list[str]] = {}
    targets: dict[str, list[str]] = {}
    for source, target in wiring.edges:
        sources.setdefault(target, []).append(source)
        targets.setdefault(source, []).append(target)
    return {
        path: before
        for path, node in wiring.nodes.items()
        if node.kind.startswith("BatchNorm") and len(sources[path]) == 1
        for before in sources[path]
        if wiring.nodes[before].kind in _LINEAR and targets[before] == [path]
    }


def fold(network: Network, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return canonical weights with every batch normalization of `folded_layers` folded and set to the identity.

    In evaluation mode they compute the same function, with or without those batch normalizations. Folding is computed
    in float64 and rounded once to the weights' dtype.
    """
    folded = {name: np.asarray(array) for name, array in tensors.items()}
    for norm, layer in folded_layers(network).items():
        gamma, beta, mean, variance = (
            np.asarray(tensors[f"{norm}.{leaf}"], np.float64)
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        weight, bias = (np.asarray(tensors[f"{layer}.{leaf}"], np.float64) for leaf in ("weight", "bias"))
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        replaced = {
            f"{layer}.weight": weight * scale.reshape(-1, *[1] * (weight.ndim - 1)),
            f"{layer}.bias": (bias - mean) * scale + beta,
            f"{norm}.weight": np.full_like(scale, np.sqrt(1 + BATCH_NORM_EPSILON)),
            f"{norm}.bias": np.zeros_like(scale),
            f"{norm}.running_mean": np.zeros_like(scale),
            f"{norm}.running_var": np.ones_like(scale),
        }
        folded |= {name: array.astype(tensors[name].dtype) for name, array in replaced.items()}
    return {name: folded[name] for name in reference.describe(network).manifest}
