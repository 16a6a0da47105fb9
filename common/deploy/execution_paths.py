"""The ways to run a network, each with the environment that it runs in and what must be installed for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.errors import unknown

__all__ = ["PATHS", "ExecutionPath", "get"]


@dataclass(frozen=True)
class ExecutionPath:
    """One way to run a network.

    `backend`: whose port it runs, or whose artifact. `environment`: the tox environment that holds what it imports.
    `needs`: what pip must be asked for where it is deployed. `format`: the artifact that it serves, None where it runs
    the port's own code; `server`: the module of `common.deploy.serving` that does. `dtype`: what the artifact's weights
    are kept in. `trains`: whether it can take training steps. `module`: what stands for the port's `deploy`, of a
    network that the port does not hold. `proven`: whether that is the reference's, so that its answers must be.
    """

    name: str
    backend: str
    environment: str
    needs: tuple[str, ...]
    about: str
    format: str | None = None
    server: str | None = None
    dtype: str = "float32"
    infers: bool = True
    trains: bool = False
    devices: tuple[str, ...] = ("cpu", "gpu")
    module: str | None = None
    proven: bool = True


def _named(paths: Iterable[ExecutionPath]) -> Mapping[str, ExecutionPath]:
    return {path.name: path for path in paths}


_TORCH = ("torch", "torch", ("torch", "numpy"))
_JAX = ("jax", "jax", ("jax", "flax", "numpy"))
_TF = ("tf", "tf", ("tensorflow-cpu", "numpy"))
_MXNET = ("mxnet", "mxnet", ("mxnet", "numpy"))
_ONLY_CPU = ("cpu",)

PATHS = _named(
    (
        ExecutionPath("numpy", "numpy", "numpy", ("numpy",), "the reference, in float64", devices=_ONLY_CPU),
        ExecutionPath("torch-eager", *_TORCH, "the port as it is written", trains=True),
        ExecutionPath("torch-channels-last", *_TORCH, "folded, channels last in memory", trains=True),
        ExecutionPath("torch-compile", *_TORCH, "torch.compile: inductor, frozen", trains=True),
        ExecutionPath("torch-winograd", *_TORCH, "the same, wide 3x3 convolutions by Winograd's algorithm"),
        *(
            ExecutionPath(name, *_TORCH, about, format=name, server="exported_program", devices=devices)
            for name, about, devices in (
                ("torch-export", "a torch.export program", ("cpu", "gpu")),
                ("torch-aot", "the same, compiled by AOTInductor: inductor, frozen", _ONLY_CPU),
                ("torch-aot-winograd", "the same, wide 3x3 convolutions by Winograd's algorithm", _ONLY_CPU),
            )
        ),
        ExecutionPath("jax-jit", *_JAX, "the port, compiled by XLA", trains=True),
        ExecutionPath("jax-deploy", *_JAX, "folded, its weights constants to XLA"),
        ExecutionPath(
            "jax-stablehlo",
            "jax",
            "jax",
            ("jax", "flatbuffers", "numpy"),
            "a jax.export program",
            format="stablehlo",
            server="stable_hlo",
        ),
        ExecutionPath("tf-eager", *_TF, "the port as it is written", trains=True),
        ExecutionPath("tf-function", *_TF, "tf.function: folded and frozen", trains=True),
        ExecutionPath("tf-xla", *_TF, "tf.function through XLA: folded and frozen", trains=True),
        ExecutionPath("tf-savedmodel", *_TF, "a SavedModel's signature", format="saved-model", server="saved_model"),
        ExecutionPath("mxnet-imperative", *_MXNET, "the port as it is written", trains=True),
        ExecutionPath("mxnet-hybrid", *_MXNET, "folded, hybridized with static memory", trains=True),
        ExecutionPath("mxnet-onednn", *_MXNET, "fused by MXNet's oneDNN subgraphs", devices=_ONLY_CPU),
        ExecutionPath(
            "mxnet-symbol",
            *_MXNET,
            "symbol and parameters, fused by oneDNN",
            format="mxnet-symbol",
            server="mxnet_symbol",
            devices=_ONLY_CPU,
        ),
        ExecutionPath(
            "onnxruntime",
            "torch",
            "runtimes",
            ("onnxruntime", "numpy"),
            "ONNX",
            format="onnx",
            server="onnx_runtime",
            devices=_ONLY_CPU,
        ),
        ExecutionPath(
            "openvino",
            "torch",
            "runtimes",
            ("openvino", "numpy"),
            "ONNX",
            format="onnx",
            server="open_vino",
            devices=_ONLY_CPU,
        ),
        *(
            ExecutionPath(
                "litert" if dtype == "float32" else f"litert-{dtype}",
                "tf",
                "runtimes",
                ("ai-edge-litert", "numpy"),
                f"LiteRT (TFLite) with XNNPACK, {dtype}",
                format="litert",
                server="lite_rt",
                dtype=dtype,
                devices=_ONLY_CPU,
            )
            for dtype in ("float32", "float16", "int8")
        ),
    )
)
"""In the order in which tables show them."""


def get(name: str) -> ExecutionPath:
    """Return the path of that name. Raises ConfigError for an unknown one."""
    if name not in PATHS:
        raise unknown("execution path", name, PATHS)
    return PATHS[name]
