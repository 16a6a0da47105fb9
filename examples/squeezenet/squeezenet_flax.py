"""The small SqueezeNet in Flax NNX with other layer names, and a first version with one mistake."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array


class Fire(nnx.Module):
    """conv 1x1, relu, then conv 1x1 and conv 3x3 concatenated, relu: (N, H, W, C) -> (N, H, W, 2e)."""

    def __init__(self, in_features: int, squeeze: int, expand: int, *, rngs: nnx.Rngs) -> None:
        self.squeeze = nnx.Conv(in_features, squeeze, (1, 1), rngs=rngs)
        self.narrow = nnx.Conv(squeeze, expand, (1, 1), rngs=rngs)
        self.wide = nnx.Conv(squeeze, expand, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.squeeze(x))
        return nnx.relu(jnp.concatenate([self.narrow(x), self.wide(x)], axis=-1))


class SqueezeNet(nnx.Module):
    """conv 3x3/2, pool, two fires, pool, a fire, dropout, conv 1x1, mean: (N, H, W, 3) -> (N, 10)."""

    def __init__(self, padding: int | str, *, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 16, (3, 3), strides=2, padding=padding, rngs=rngs)
        self.fires = nnx.List(
            [
                Fire(16, squeeze=8, expand=16, rngs=rngs),
                Fire(32, squeeze=8, expand=16, rngs=rngs),
                Fire(32, squeeze=12, expand=24, rngs=rngs),
            ]
        )
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Conv(48, 10, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.max_pool(nnx.relu(self.stem(x)), (2, 2), (2, 2))
        x = self.fires[1](self.fires[0](x))
        x = self.fires[2](nnx.max_pool(x, (2, 2), (2, 2)))
        return nnx.relu(self.head(self.dropout(x))).mean(axis=(1, 2))


def first_try() -> SqueezeNet:
    """Return the first version of the port, which pads by 'SAME', Flax's default."""
    return SqueezeNet(padding="SAME", rngs=nnx.Rngs(0))


def fixed() -> SqueezeNet:
    """Return the port with the padding of the PyTorch network."""
    return SqueezeNet(padding=1, rngs=nnx.Rngs(0))
