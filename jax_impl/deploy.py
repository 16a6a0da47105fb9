"""Fast inference and training in JAX: batch norm folded, weights as constants, one XLA program per input shape."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from common.catalog import Network
from common.deploy.export.fold_batch_norm import fold, folded_layers
from common.errors import unknown
from common.layout import nchw_to_nhwc
from common.optimizers import OptimizerConfig
from common.randomness import step_seed
from jax_impl.backend import Backend
from jax_impl.training import make_optimizer, train_step
from jax_impl.weights import from_canonical, modules_by_path

__all__ = ["deployed", "session", "set_threads", "training_step"]

_PATHS = ("jax-jit", "jax-deploy")
"""Execution paths of this package."""


def set_threads(count: int) -> None:
    """Compute on `count` threads, by limiting the CPUs of the process: XLA's CPU backend uses one thread for each."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _built(network: Network, tensors: Mapping[str, np.ndarray], device: str) -> nnx.Module:
    """Return the model with these weights, in their dtype and in evaluation mode."""
    backend = Backend(device)
    model = backend.build(network, next(iter(tensors.values())).dtype.name)
    backend.load(model, tensors)
    return model


def deployed(network: Network, tensors: Mapping[str, np.ndarray], device: str = "cpu") -> nnx.Module:
    """Return the model in evaluation mode with its batch normalization folded into the convolutions.

    Raises BackendError if JAX has no such device.
    """
    model = Backend(device).build(network, next(iter(tensors.values())).dtype.name)
    modules = modules_by_path(model)
    for path in folded_layers(network):
        parent, _, name = path.rpartition(".")
        setattr(modules[parent], name, nnx.identity)
    from_canonical(model, fold(network, tensors))
    return model


def _placed(arrays: Any) -> Any:
    """Copy a tree of arrays to the Backend's device once, so that no call copies them again."""
    return jax.device_put(arrays, jax.config.jax_default_device)


class _Session:
    """Runs a compiled model on images; see `common.backends.sessions.Session`."""

    def __init__(self, dtype: np.dtype, compiled: Callable[[Array], Callable[[Array], Array]]) -> None:
        self._dtype = dtype
        self._compiled = compiled
        self._functions: dict[tuple[int, ...], Callable[[Array], Array]] = {}

    def prepare(self, x: np.ndarray) -> Array:
        return _placed(np.ascontiguousarray(nchw_to_nhwc(x), self._dtype)).block_until_ready()

    def run(self, prepared: Array) -> Array:
        function = self._functions.get(prepared.shape)
        if function is None:
            function = self._functions[prepared.shape] = self._compiled(prepared)
        return function(prepared).block_until_ready()

    def logits(self, answer: Array) -> np.ndarray:
        return np.asarray(answer)


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> _Session:
    """Return a session for inference; see `common.backends.sessions`.

    Raises ConfigError for an execution path of another package, BackendError if JAX has no such device.
    """
    dtype = next(iter(tensors.values())).dtype
    match path:
        case "jax-jit":
            graphdef, state = nnx.split(_built(network, tensors, device))
            state = _placed(state)
            run = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))
            return _Session(dtype, lambda images: functools.partial(run.lower(state, images).compile(), state))
        case "jax-deploy":
            # Arrays that a traced function uses without taking them as arguments are constants to XLA.
            model = deployed(network, tensors, device)
            return _Session(dtype, lambda images: jax.jit(model).lower(images).compile())
    raise unknown("execution path of JAX's own", path, _PATHS)


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> Callable[[], float]:
    """Return a function that takes a training step; see `common.backends.sessions`. Raises the errors of `session`.

    Both execution paths take the same step: training changes the weights and needs batch normalization.
    """
    if path not in _PATHS:
        raise unknown("execution path of JAX's own", path, _PATHS)
    model = _built(network, tensors, device)
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = make_optimizer(OptimizerConfig("sgd"))
    x = np.ascontiguousarray(nchw_to_nhwc(images), next(iter(tensors.values())).dtype)
    state, batch = _placed(((params, rest, optimizer.init(params)), (x, labels)))
    program = train_step.lower(graphdef, optimizer, *state, *batch, learning_rate, step_seed(0, 0)).compile()
    steps = 0

    def step() -> float:
        nonlocal state, steps
        *state, loss, _ = program(*state, *batch, learning_rate, step_seed(0, steps))
        steps += 1
        return float(loss)

    return step
