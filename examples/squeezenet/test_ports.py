"""Parity tests for a project with its own ports: `pytest examples/squeezenet`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ports import FLAX, IMAGES, KERAS, LABELS, MXNET, NUMPY, TORCH

from common.testing import Port


@pytest.mark.parametrize("port", [FLAX, KERAS, MXNET], ids=["flax", "keras", "gluon"])
def test_port_is_torchs_network(parity: Callable, port: Port) -> None:
    """Compare the forward pass, the gradients and ten training steps."""
    parity(TORCH, port, IMAGES, LABELS)


def test_pytorch_network_computes_the_numpy_function(parity: Callable) -> None:
    """Compare the forward pass, and the gradients with finite differences of the NumPy function."""
    parity(NUMPY, TORCH, IMAGES, LABELS)
