"""The ports to compare, and the names of layers that differ from those of the PyTorch network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.testing import Port

HERE = Path(__file__).parent

FIRES = ("fire2", "fire3", "fire4")

TORCH = Port("torch", "squeezenet_torch:SqueezeNet", folder=HERE)
NUMPY = Port("numpy", "squeezenet_numpy:squeezenet", folder=HERE)
MXNET = Port("mxnet", "squeezenet_gluon:SqueezeNet", folder=HERE)
KERAS = Port(
    "tf",
    "squeezenet_keras:make",
    names={f"{fire}_{part}": f"{fire}.{part}" for fire in FIRES for part in ("squeeze", "expand1x1", "expand3x3")},
    folder=HERE,
)

_FLAX_NAMES = {"stem": "conv1", "head": "classifier"}
for number, fire in enumerate(FIRES):
    _FLAX_NAMES[f"fires.{number}"] = fire
    _FLAX_NAMES[f"fires.{number}.narrow"] = f"{fire}.expand1x1"
    _FLAX_NAMES[f"fires.{number}.wide"] = f"{fire}.expand3x3"

FLAX_FIRST_TRY = Port("jax", "squeezenet_flax:first_try", names=_FLAX_NAMES, folder=HERE)
FLAX = Port("jax", "squeezenet_flax:fixed", names=_FLAX_NAMES, folder=HERE)

IMAGES = np.random.default_rng(0).standard_normal((4, 3, 32, 48))
LABELS = np.array([3, 1, 4, 1])
