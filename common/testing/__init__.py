"""Bring your own port: hold any two models to each other, of any of the four frameworks or functions of NumPy arrays.

They are given the same weights, by names that a map of your own makes the same, and the same batch, and are compared as
parity compares the suite's own networks: forward, every layer that both have, gradients, training steps, each framework
in its own environment; and where they part, the layer is named and known mistakes are tried on it.

    from common.testing import Port, assert_same

    def test_port():
        torch_net = Port("torch", "my_package.torch_net:Net")
        keras_net = Port("tf", "my_package.keras_net:make", names={"conv2d": "conv1", "conv2d_1": "conv2"})
        assert_same(torch_net, keras_net, x, labels, flattened={"fc1": (16, 5, 5)})

In pytest the fixture `parity` does the same, keeps the frameworks' processes from one test to the next, and reports all
comparisons at the end; `--parity-html`, `--parity-json` write them to a file.
"""

from __future__ import annotations

from common.testing.comparison import assert_same, compare, table
from common.testing.ports import Port, Workers

__all__ = ["Port", "Workers", "assert_same", "compare", "table"]
