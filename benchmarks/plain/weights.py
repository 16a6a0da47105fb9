"""Canonical weights in network order, for models without canonical names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from common import layout, reference
from common.catalog import Network

__all__ = ["Kind", "Layer", "Layers"]

Kind = Literal["conv", "dense", "norm"]
Layer = Mapping[str, np.ndarray]
"""Arrays of a layer: `weight`, `bias`, and for batch normalization `running_mean` and `running_var`."""


class Layers:
    """The weights of a network's layers as contiguous arrays, in network order for each kind of layer.

    Call `next` for each layer of the model, in order, then `finish`. `channels_last` selects the layout of JAX and
    TensorFlow.
    """

    def __init__(self, network: Network, tensors: Mapping[str, np.ndarray], channels_last: bool = False) -> None:
        manifest = reference.describe(network).manifest
        layers: dict[str, dict[str, np.ndarray]] = {}
        for name, tensor in manifest.items():
            path, _, leaf = name.rpartition(".")
            array = layout.to_channels_last(tensor, tensors[name]) if channels_last else tensors[name]
            layers.setdefault(path, {})[leaf] = np.ascontiguousarray(array)

        def of_kind(kind: Kind) -> Iterator[Layer]:
            # The weight of batch normalization is a vector.
            kinds = {path: manifest[f"{path}.weight"].kind for path in layers}
            return iter([layers[path] for path in layers if kinds[path] == ("vector" if kind == "norm" else kind)])

        self._kinds: dict[Kind, Iterator[Layer]] = {kind: of_kind(kind) for kind in ("conv", "dense", "norm")}

    def next(self, kind: Kind) -> Layer:
        """Return the next layer of this kind. Raises ValueError if there is none."""
        layer = next(self._kinds[kind], None)
        if layer is None:
            raise ValueError(f"the model has more layers of kind {kind!r} than the network")
        return layer

    def finish(self) -> None:
        """Raise ValueError unless all layers were used."""
        left = [kind for kind, layers in self._kinds.items() if next(layers, None) is not None]
        if left:
            raise ValueError(f"the model has fewer layers than the network, of kind {', '.join(left)}")
