"""The network of the other files of this folder as a function of arrays, built from the reference's layers."""

from collections.abc import Mapping

import numpy as np

from common.reference.layers import AvgPool2d, BatchNorm2d, Conv2d, Layer, Linear


def network(x: np.ndarray, weights: Mapping[str, np.ndarray], training: bool = False) -> dict[str, np.ndarray]:
    def run(name: str, layer: Layer, x: np.ndarray) -> np.ndarray:
        for leaf in layer.tensors():
            setattr(layer, leaf, weights[f"{name}.{leaf}"])
        layer.training = training
        return layer(x)

    norm = BatchNorm2d(4)
    norm.epsilon = 1e-3
    taps = {"conv1": run("conv1", Conv2d(3, 4, 3, 2, 1), x)}
    taps["bn1"] = run("bn1", norm, taps["conv1"])
    taps["conv2"] = run("conv2", Conv2d(4, 8, 3, 1, 1, groups=2), np.maximum(taps["bn1"], 0))
    taps["pool"] = run("pool", AvgPool2d(2), np.maximum(taps["conv2"], 0))
    flat = taps["pool"].reshape(len(x), -1)
    taps["fc1"] = run("fc1", Linear(flat.shape[1], 6), flat)
    taps["logits"] = run("fc2", Linear(6, 5), np.maximum(taps["fc1"], 0))
    return taps
