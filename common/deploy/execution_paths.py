"""Execution paths: the ways to run a network, with the environment and the packages that each needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from common.errors import unknown

__all__ = ["PATHS", "ExecutionPath", "get"]


@dataclass(frozen=True)
class ExecutionPath:
    """One way to run a network.

    `backend`: the port that it runs, or that exports its artifact. `environment`: the tox environment with its imports.
    `needs`: the packages to install where it is deployed. `format`: the artifact that it serves, None if it runs the
    port's code. `server`: the module of `common.deploy.serving` that loads the artifact. `dtype`: of the artifact's
    weights. `trains`: whether it supports training steps besides inference. `module`: a module to use in place of the
    port's `deploy`, for models that are not ports. `proven`: whether its output must agree with the reference.
    """

    name: str
    backend: str
    environment: str
    needs: tuple[str, ...]
    about: str
    format: str | None = None
    server: str | None = None
    dtype: str = "float32"
    trains: bool = False
    devices: tuple[str, ...] = ("cpu", "gpu")
    module: str | None = None
    proven: bool = True


_CPU = ("cpu",)
_torch = partial(ExecutionPath, backend="torch", environment="torch", needs=("torch", "numpy"))
_jax = partial(ExecutionPath, backend="jax", environment="jax", needs=("jax", "flax", "numpy"))
_tf = partial(ExecutionPath, backend="tf", environment="tf", needs=("tensorflow-cpu", "numpy"))
_mxnet = partial(ExecutionPath, backend="mxnet", environment="mxnet", needs=("mxnet", "numpy"))
_package = partial(_torch, server="exported_program", devices=_CPU)
_onnx = partial(ExecutionPath, backend="torch", environment="runtimes", format="onnx", devices=_CPU)
_litert = partial(
    ExecutionPath,
    backend="tf",
    environment="runtimes",
    needs=("ai-edge-litert", "numpy"),
    format="litert",
    server="lite_rt",
    devices=_CPU,
)

_PATHS = (
    ExecutionPath("numpy", "numpy", "numpy", ("numpy",), "the reference, in float64", devices=_CPU),
    _torch("torch-eager", about="the port's code, eager", trains=True),
    _torch("torch-channels-last", about="batch norm folded, channels last in memory", trains=True),
    _torch("torch-compile", about="torch.compile with inductor, weights frozen", trains=True),
    _torch("torch-winograd", about="torch-compile with Winograd convolution for wide 3x3 layers"),
    _torch("torch-export", about="a torch.export program", format="torch-export", server="exported_program"),
    _package("torch-aot", about="an AOTInductor package", format="torch-aot"),
    _package(
        "torch-aot-winograd",
        about="torch-aot with Winograd convolution for wide 3x3 layers",
        format="torch-aot-winograd",
    ),
    _jax("jax-jit", about="the port's code, compiled by XLA", trains=True),
    _jax("jax-deploy", about="batch norm folded, weights as constants in XLA"),
    _jax(
        "jax-stablehlo",
        needs=("jax", "flatbuffers", "numpy"),
        about="a jax.export program",
        format="stablehlo",
        server="stable_hlo",
    ),
    _tf("tf-eager", about="the port's code, eager", trains=True),
    _tf("tf-function", about="tf.function: batch norm folded, weights frozen", trains=True),
    _tf("tf-xla", about="tf.function with XLA: batch norm folded, weights frozen", trains=True),
    _tf("tf-savedmodel", about="a SavedModel's signature", format="saved-model", server="saved_model"),
    _mxnet("mxnet-imperative", about="the port's code, eager", trains=True),
    _mxnet("mxnet-hybrid", about="batch norm folded, hybridized with static memory", trains=True),
    _mxnet("mxnet-onednn", about="fused by MXNet's oneDNN subgraphs", devices=_CPU),
    _mxnet(
        "mxnet-symbol",
        about="symbol and parameters, fused by oneDNN",
        format="mxnet-symbol",
        server="mxnet_symbol",
        devices=_CPU,
    ),
    _onnx("onnxruntime", needs=("onnxruntime", "numpy"), about="ONNX", server="onnx_runtime"),
    _onnx("openvino", needs=("openvino", "numpy"), about="ONNX", server="open_vino"),
    _litert("litert", about="LiteRT (TFLite) with XNNPACK, float32"),
    _litert("litert-float16", about="LiteRT (TFLite) with XNNPACK, float16", dtype="float16"),
    _litert("litert-int8", about="LiteRT (TFLite) with XNNPACK, int8", dtype="int8"),
)
PATHS: Mapping[str, ExecutionPath] = {path.name: path for path in _PATHS}
"""All execution paths by name, in the order of the tables."""


def get(name: str) -> ExecutionPath:
    """Return the path of that name. Raises ConfigError for an unknown one."""
    if name not in PATHS:
        raise unknown("execution path", name, PATHS)
    return PATHS[name]
