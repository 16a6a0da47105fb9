"""Compare your own ports: any two models in PyTorch, JAX, Keras, Gluon, or as a function of NumPy arrays.

Both models get the same weights, under names that a mapping makes equal, and the same batch. They are compared like
the suite's own networks: every common layer, gradients and training steps, each framework in its own environment. If
they differ, the report names the layer and a known mistake that explains it.

    from common.testing import Port, assert_same

    def test_port():
        torch_net = Port("torch", "my_package.torch_net:Net")
        keras_net = Port("tf", "my_package.keras_net:make", names={"conv2d": "conv1", "conv2d_1": "conv2"})
        assert_same(torch_net, keras_net, x, labels, flattened={"fc1": (16, 5, 5)})

In pytest, the fixture `parity` does the same, keeps the worker processes between tests, and prints one report of all
comparisons at the end; `--parity-html` and `--parity-json` write it to a file.
"""

from __future__ import annotations

from common.testing.comparison import assert_same, compare, table
from common.testing.ports import Port, Workers

__all__ = ["Port", "Workers", "assert_same", "compare", "table"]
