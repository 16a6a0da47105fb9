"""A user's network in Flax: a list of layers, with functions between them."""

from flax import nnx
from jax import Array


class Net(nnx.Module):
    def __init__(self, epsilon: float, keep: float, rectified: bool, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List(
            [
                nnx.Conv(3, 4, (3, 3), strides=2, padding=1, rngs=rngs),
                nnx.BatchNorm(4, momentum=keep, epsilon=epsilon, use_fast_variance=False, rngs=rngs),
                nnx.Conv(4, 8, (3, 3), feature_group_count=2, rngs=rngs),
            ]
        )
        self.hidden = nnx.Linear(96, 6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, 5, rngs=rngs)
        self.rectified = rectified

    def __call__(self, x: Array) -> Array:
        conv1, bn1, conv2 = self.layers
        x = nnx.relu(conv2(nnx.relu(bn1(conv1(x)))))
        x = self.hidden(nnx.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1))
        return self.head(self.dropout(nnx.relu(x) if self.rectified else x))


def make(epsilon: float = 1e-3, keep: float = 0.8, rectified: bool = True) -> nnx.Module:
    return Net(epsilon, keep, rectified, nnx.Rngs(0))


NAMES = {"layers.0": "conv1", "layers.1": "bn1", "layers.2": "conv2", "hidden": "fc1", "head": "fc2"}
