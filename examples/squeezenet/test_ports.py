"""What a project with ports of its own tests: `pytest examples/squeezenet`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ports import FLAX, IMAGES, KERAS, LABELS, MXNET, NUMPY, TORCH

from common.testing import Port


@pytest.mark.parametrize("port", [FLAX, KERAS, MXNET], ids=["flax", "keras", "gluon"])
def test_port_is_torchs_network(parity: Callable, port: Port) -> None:
    """Forward, gradients and ten steps."""
    parity(TORCH, port, IMAGES, LABELS)


def test_torchs_network_is_the_function(parity: Callable) -> None:
    """Forward, and gradients against difference quotients of the function."""
    parity(NUMPY, TORCH, IMAGES, LABELS)
