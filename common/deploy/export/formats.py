"""The artifacts that a network can be exported to: who makes each, who serves it, and what it can express."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from common.catalog import Network
from common.errors import ConfigError, unknown

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FORMATS", "Export", "Format", "Signature", "get"]


@dataclass(frozen=True)
class Format:
    """A kind of artifact.

    `makers`: which ports make it, by backend, each with the environment that this takes; the first is what one gets
    unless asked. `servers`: the modules of `common.deploy.serving` that load it again; `environment` holds what they
    import. `dtypes`: what weights and activations may be kept in. `folder`: whether it is a folder of files.
    """

    name: str
    suffix: str
    makers: Mapping[str, str]
    servers: tuple[str, ...]
    environment: str
    dtypes: tuple[str, ...]
    about: str
    folder: bool = False


def _named(formats: Iterable[Format]) -> Mapping[str, Format]:
    return {each.name: each for each in formats}


_FLOATS = ("float32", "float64")

FORMATS = _named(
    (
        *(
            Format(name, ".pt2", {"torch": "torch"}, ("exported_program",), "torch", _FLOATS, about)
            for name, about in (
                ("torch-export", "torch.export program"),
                ("torch-aot", "AOTInductor package"),
                ("torch-aot-winograd", "AOTInductor package with Winograd's convolutions"),
            )
        ),
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
        Format(
            "saved-model", "", {"tf": "tf", "jax": "jax_tf"}, ("saved_model",), "tf", _FLOATS, "SavedModel", folder=True
        ),
        Format(
            "litert",
            ".tflite",
            {"tf": "tf", "jax": "jax_tf"},
            ("lite_rt",),
            "runtimes",
            ("float32", "float16", "int8"),
            "LiteRT (TFLite)",
        ),
        Format(
            "mxnet-symbol",
            "",
            {"mxnet": "mxnet"},
            ("mxnet_symbol",),
            "mxnet",
            _FLOATS,
            "symbol and parameters",
            folder=True,
        ),
    )
)


def get(name: str) -> Format:
    """Return the format of that name. Raises ConfigError for an unknown one."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


@dataclass(frozen=True)
class Export:
    """What is asked of a port's `export(network, tensors, request) -> Signature`, of `<package>.export`.

    `path` does not exist yet: the file, or the folder, to write. `batch` and `size` (height, width) are None where any
    is to do. `dtype` is one of the format's; the weights come in float64 where it is that, else in float32.
    `calibration`: real images (N, C, H, W) of float32, for whole numbers.
    """

    format: str
    dtype: str
    path: Path
    batch: int | None
    size: tuple[int, int] | None
    calibration: np.ndarray | None = None


@dataclass(frozen=True)
class Signature:
    """What an artifact calls its input and output, the layout of its images, and who made it, by name and version.

    `processor`: its `machine` and `vectors` where it was compiled for one, and runs on no lesser; else nothing.
    """

    input: str
    output: str
    layout: str
    versions: Mapping[str, str]
    processor: Mapping[str, str] = field(default_factory=dict)


def check_any_size(network: Network) -> None:
    """Raise ConfigError where a network's weights fit one size of image, since it flattens images into features."""
    from common import reference

    height, width = network.config.input_size
    other = network.configured(input_size=(2 * height, 2 * width))
    if reference.describe(other).manifest != reference.describe(network).manifest:
        raise ConfigError(
            f"{network.name} flattens images into features, so its weights fit one size of them; "
            f"give the size ({height}x{width} as it is configured) in place of any"
        )
