"""Execution paths: the ways to run a network, with the environment and the packages that each needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.errors import unknown

__all__ = ["PATHS", "ExecutionPath", "get"]


@dataclass(frozen=True)
class ExecutionPath:
    """One way to run a network.

    `backend`: the port that it runs, or that exports its artifact. `environment`: the tox environment with its imports.
    `needs`: the packages to install where it is deployed. `format`: the artifact that it serves, None if it runs the
    port's code. `server`: the module of `common.deploy.serving` that loads the artifact. `dtype`: of the artifact's
    weights. `trains`: whether it supports training steps. `module`: a module to use in place of the port's `deploy`,
    for models that are not ports. `proven`: whether its output must agree with the reference.
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
        ExecutionPath("torch-eager", *_TORCH, "the port's code, eager", trains=True),
        ExecutionPath("torch-channels-last", *_TORCH, "batch norm folded, channels last in memory", trains=True),
        ExecutionPath("torch-compile", *_TORCH, "torch.compile with inductor, weights frozen", trains=True),
        ExecutionPath("torch-winograd", *_TORCH, "the same, with Winograd convolution for wide 3x3 layers"),
        *(
            ExecutionPath(name, *_TORCH, about, format=name, server="exported_program", devices=devices)
            for name, about, devices in (
                ("torch-export", "a torch.export program", ("cpu", "gpu")),
                ("torch-aot", "the same, compiled ahead of time by AOTInductor", _ONLY_CPU),
                ("torch-aot-winograd", "the same, with Winograd convolution for wide 3x3 layers", _ONLY_CPU),
            )
        ),
        ExecutionPath("jax-jit", *_JAX, "the port's code, compiled by XLA", trains=True),
        ExecutionPath("jax-deploy", *_JAX, "batch norm folded, weights as constants in XLA"),
        ExecutionPath(
            "jax-stablehlo",
            "jax",
            "jax",
            ("jax", "flatbuffers", "numpy"),
            "a jax.export program",
            format="stablehlo",
            server="stable_hlo",
        ),
        ExecutionPath("tf-eager", *_TF, "the port's code, eager", trains=True),
        ExecutionPath("tf-function", *_TF, "tf.function: batch norm folded, weights frozen", trains=True),
        ExecutionPath("tf-xla", *_TF, "tf.function with XLA: batch norm folded, weights frozen", trains=True),
        ExecutionPath("tf-savedmodel", *_TF, "a SavedModel's signature", format="saved-model", server="saved_model"),
        ExecutionPath("mxnet-imperative", *_MXNET, "the port's code, eager", trains=True),
        ExecutionPath("mxnet-hybrid", *_MXNET, "batch norm folded, hybridized with static memory", trains=True),
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
"""In the order of the tables."""


def get(name: str) -> ExecutionPath:
    """Return the path of that name. Raises ConfigError for an unknown one."""
    if name not in PATHS:
        raise unknown("execution path", name, PATHS)
    return PATHS[name]
