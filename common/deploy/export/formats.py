"""Artifact formats: which ports write each, which runtimes serve it, which dtypes it supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.catalog import Network
from common.errors import ConfigError, unknown

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FORMATS", "Export", "Format", "Signature", "check_any_size", "get"]


@dataclass(frozen=True)
class Format:
    """An artifact format.

    `makers`: the backends that can write it, each with the environment that this needs; the first is the default.
    `servers`: the modules of `common.deploy.serving` that load it; `environment` has what they import. `dtypes`: of
    weights and activations.
    """

    name: str
    suffix: str
    makers: Mapping[str, str]
    servers: tuple[str, ...]
    environment: str
    dtypes: tuple[str, ...]
    about: str


_FLOATS = ("float32", "float64")
_pt2 = partial(
    Format,
    suffix=".pt2",
    makers={"torch": "torch"},
    servers=("exported_program",),
    environment="torch",
    dtypes=_FLOATS,
)

_FORMATS = (
    _pt2("torch-export", about="torch.export program"),
    _pt2("torch-aot", about="AOTInductor package"),
    _pt2("torch-aot-winograd", about="AOTInductor package with Winograd's convolutions"),
    Format(
        "onnx",
        ".onnx",
        {"torch": "torch", "mxnet": "mxnet"},
        ("onnx_runtime", "open_vino"),
        "runtimes",
        ("float32",),
        "ONNX",
    ),
    Format("stablehlo", ".stablehlo", {"jax": "jax"}, ("stable_hlo",), "jax", _FLOATS, "StableHLO by jax.export"),
    Format("saved-model", "", {"tf": "tf", "jax": "jax_tf"}, ("saved_model",), "tf", _FLOATS, "SavedModel"),
    Format(
        "litert",
        ".tflite",
        {"tf": "tf", "jax": "jax_tf"},
        ("lite_rt",),
        "runtimes",
        ("float32", "float16", "int8"),
        "LiteRT (TFLite)",
    ),
    Format("mxnet-symbol", "", {"mxnet": "mxnet"}, ("mxnet_symbol",), "mxnet", _FLOATS, "symbol and parameters"),
)
FORMATS: Mapping[str, Format] = {each.name: each for each in _FORMATS}
"""All formats by name."""


def get(name: str) -> Format:
    """Return the format of that name. Raises ConfigError for an unknown one."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


@dataclass(frozen=True)
class Export:
    """The request to a port's `export(network, tensors, request) -> Signature`, in `<package>.export`.

    `path`: the file or folder to write; it does not exist yet. `batch` and `size` (height, width): None for any.
    `dtype`: one of the format's; the weights are float64 if it is float64, otherwise float32. `calibration`: real
    images (N, C, H, W) in float32, for int8.
    """

    format: str
    dtype: str
    path: Path
    batch: int | None
    size: tuple[int, int] | None
    calibration: np.ndarray | None = None


@dataclass(frozen=True)
class Signature:
    """A port's description of an artifact that it wrote.

    `input` and `output`: their names in the artifact. `layout`: of the input, NCHW or NHWC. `versions`: of the
    libraries that wrote it. `processor`: the `machine` and `vectors` that compiled code needs; empty if portable.
    """

    input: str
    output: str
    layout: Literal["NCHW", "NHWC"]
    versions: dict[str, str]
    processor: dict[str, str] = field(default_factory=dict)


def check_any_size(network: Network) -> None:
    """Raise ConfigError if a network takes only one image size, because it flattens feature maps."""
    from common import reference

    height, width = network.config.input_size
    other = network.configured(input_size=(2 * height, 2 * width))
    if reference.describe(other).manifest != reference.describe(network).manifest:
        raise ConfigError(
            f"{network.name} flattens feature maps, so it takes one image size; "
            f"use its configured size ({height}x{width}) instead of any"
        )
