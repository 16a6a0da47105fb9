"""The networks as each framework's tutorials would write them: baselines for the speed of the ports.

Nothing is tuned or folded: default layers, eager modules in PyTorch, `nnx.jit` in JAX, eager execution or `tf.function`
in TensorFlow, blocks hybridized or not in MXNet. Each module has the functions of a port's `deploy` (see
`common.backends.sessions`). `tests/benchmarks/test_plain.py` checks that they compute the reference's logits.
"""

from __future__ import annotations

from typing import Any

from common.catalog import Network

__all__ = ["arguments"]


def arguments(network: Network) -> dict[str, Any]:
    """Return the settings that a plain network accepts; its depths and widths are fixed."""
    accepted = ("in_channels", "num_classes", "dropout")
    return {name: value for name, value in network.settings().items() if name in accepted}
