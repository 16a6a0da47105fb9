"""The networks as a tutorial of each framework would write them: what a port of ours must not be slower than.

Nothing here is tuned, folded or shared: default layers, eager modules in PyTorch, `nnx.jit` in JAX, `tf.function` or
not in TensorFlow, blocks hybridized or not in MXNet. Each module gives what a port's `deploy` does (see
`common.backends.sessions`). With the same weights they compute the same logits:
`tests/benchmarks/test_plain.py` holds them to it.
"""

from __future__ import annotations

from typing import Any

from common.catalog import Network

__all__ = ["arguments"]


def arguments(network: Network) -> dict[str, Any]:
    """Return what a plain network takes of the catalog's settings: its depths and widths are written out."""
    taken = ("in_channels", "num_classes", "dropout")
    return {name: value for name, value in network.settings().items() if name in taken}
