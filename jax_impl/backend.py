"""JAX with Flax NNX behind the Backend protocol."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from common import layout, reference
from common.backends.protocol import Calls, Gradients, check_all_ran, kind_of
from common.catalog import Network
from common.errors import no_device
from common.optimizers import OptimizerConfig
from common.reference import Call
from common.weights import DTypeName
from jax_impl import build, layers, uninitialized
from jax_impl.layers import RUN_ONCE
from jax_impl.training import Trainer, few_loops_gradients, gradients
from jax_impl.weights import from_canonical, state_to_canonical, to_canonical

__all__ = ["Backend"]

_FEW = 12
"""Convolutions whose loops are optimized in less time than they then save."""

Observer = Callable[[str, nnx.Module | str, Array | None, Array], Array | None]


@contextmanager
def _wrapped(classes: set[type[nnx.Module]], wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """Have `wrap(call)` in place of each class's `__call__`; Python looks for it on the class, never on the object."""
    own = {cls: vars(cls).get("__call__") for cls in classes}
    wrappers = {cls: wrap(cls.__call__) for cls in classes}
    for cls, wrapper in wrappers.items():
        cls.__call__ = wrapper
    try:
        yield
    finally:
        for cls, call in own.items():
            if call is None:
                del cls.__call__
            else:
                cls.__call__ = call


def _observed(model: nnx.Module, x: Array, observe: Observer) -> Array:
    """Run the model and call `observe(path, module, input, output)` after each module below it.

    What it returns goes on in place of the module's output. An activation is no module: observed is its name. Modules
    that do not make one array of another are left out.
    """
    modules = list(nnx.iter_modules(model))
    paths = {id(module): ".".join(map(str, path)) for path, module in modules}
    running: list[str] = []

    def wrap(call: Callable) -> Callable:
        @functools.wraps(call)
        def wrapper(module: nnx.Module, *given: Array, **options: Any) -> Array:
            path = paths[id(module)]
            again = running[-1:] == [path]  # by `super().__call__`
            running.append(path)
            y = call(module, *given, **options)
            running.pop()
            single = len(given) == 1 and isinstance(y, Array)
            other = observe(path, module, given[0], y) if path and single and not again else None
            return y if other is None else other

        return wrapper

    def observe_activation(name: str, y: Array) -> None:
        observe(f"{running[-1]}.{name}" if running[-1] else name, name, None, y)

    token = layers.observer.set(observe_activation)
    try:
        with _wrapped({type(module) for _, module in modules}, wrap):
            return model(x)
    finally:
        layers.observer.reset(token)


def _moved(model: nnx.Module) -> nnx.State:
    """Return what a run in training changes: the running statistics, and where dropout has got to."""
    return nnx.state(model, (nnx.BatchStat, nnx.RngState))


# Pure functions of the split model: compiled once for each network, mode, dtype and input shape, whichever model of
# that network it is. What a run changes in the model inside comes out as a value.
@functools.partial(jax.jit, static_argnums=0)
def _run(graphdef: nnx.GraphDef, state: nnx.State, x: Array) -> tuple[Array, nnx.State]:
    model = nnx.merge(graphdef, state)
    return model(x), _moved(model)


# A trace is asked for once: optimizing it would take longer than it runs.
@functools.partial(jax.jit, static_argnums=0, compiler_options=RUN_ONCE)
def _trace(
    graphdef: nnx.GraphDef, state: nnx.State, x: Array, given: dict[str, Array]
) -> tuple[list[Array], nnx.State]:
    model = nnx.merge(graphdef, state)
    outputs: dict[str, Array] = {}

    def observe(path: str, _: nnx.Module | str, __: Array | None, output: Array) -> Array | None:
        outputs[path] = output
        return given.get(path)

    outputs["logits"] = _observed(model, x, observe)
    check_all_ran(model.network, (".".join(map(str, path)) for path, _ in nnx.iter_modules(model) if path), outputs)
    return [outputs[tap] for tap in reference.describe(model.network).taps], _moved(model)


class Backend:
    """JAX; see `common.backends.protocol.Backend`."""

    container = "Sequential"

    def __init__(self, device: str = "cpu") -> None:
        try:
            found, *_ = jax.devices(device)
        except RuntimeError:
            raise no_device("JAX") from None
        jax.config.update("jax_default_device", found)
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_default_matmul_precision", "highest")

    def build(self, network: Network, dtype: DTypeName) -> nnx.Module:
        model = uninitialized(network, dtype)
        # All of it is shapes without values now, and only the weights get theirs from `load`.
        nnx.reseed(model, default=0)
        model.eval()
        return model

    def initial(self, network: Network, dtype: DTypeName, seed: int) -> dict[str, np.ndarray]:
        return to_canonical(build(network.name, dtype=dtype, seed=seed, **network.settings()))

    def load(self, model: nnx.Module, tensors: Mapping[str, np.ndarray]) -> None:
        from_canonical(model, tensors)

    def weights(self, model: nnx.Module) -> dict[str, np.ndarray]:
        return to_canonical(model)

    def run(self, model: nnx.Module, x: np.ndarray, training: bool = False) -> np.ndarray:
        return np.asarray(self._apply(_run, model, training, x))

    def trace(
        self, model: nnx.Module, x: np.ndarray, training: bool = False, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        outputs = self._apply(_trace, model, training, x, given or {})
        taps = reference.describe(model.network).taps
        return {tap: layout.nhwc_to_nchw(np.asarray(output)) for tap, output in zip(taps, outputs, strict=True)}

    def calls(self, model: nnx.Module, x: np.ndarray, training: bool = False) -> Calls:
        found: Calls = {}

        manifest = reference.describe(model.network).manifest

        def observe(path: str, _: nnx.Module | str, given: Array | None, output: Array) -> None:
            if given is not None:
                x, y = layout.nhwc_to_nchw(np.asarray(given)), layout.nhwc_to_nchw(np.asarray(output))
                found[path] = layout.canonical_input(manifest.get(f"{path}.weight"), x), y

        if training:
            model.train()
        else:
            model.eval()
        _observed(model, jnp.asarray(self._input(nnx.state(model), x)), observe)
        return found

    def summary(self, model: nnx.Module) -> list[Call]:
        calls: list[Call] = []

        def observe(path: str, module: nnx.Module | str, _: Array | None, output: Array) -> None:
            if isinstance(module, str):
                calls.append(Call(path, module, output.shape))
            else:
                kind = kind_of(module, "jax_impl", (nnx.Module,))
                calls.append(Call(path, kind, output.shape, own=type(module).__name__))

        model.eval()
        graphdef, state = nnx.split(model)
        image = self._input(state, np.zeros((1, *model.network.input_shape)))
        jax.eval_shape(lambda state, x: _observed(nnx.merge(graphdef, state), x, observe), state, image)
        return calls

    def gradients(self, model: nnx.Module, x: np.ndarray, labels: np.ndarray) -> Gradients:
        model.train()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        images = self._input(params, x)
        kernels = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
        differentiate = few_loops_gradients if images.dtype == np.float64 and kernels <= _FEW else gradients
        loss, by_params, by_images, moved = differentiate(graphdef, params, rest, images, labels)
        nnx.update(model, moved)
        arrays = state_to_canonical(model.network, by_params)
        return Gradients(float(loss), arrays, layout.nhwc_to_nchw(np.asarray(by_images)))

    def trainer(self, model: nnx.Module, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        return Trainer(model, optimizer, seed)

    def _apply(
        self, function: Callable, model: nnx.Module, training: bool, *arrays: np.ndarray | Mapping[str, np.ndarray]
    ) -> Array | list[Array]:
        """Run a pure function on the model, and leave in the model what moved."""
        if training:
            model.train()
        else:
            model.eval()
        graphdef, state = nnx.split(model)
        output, moved = function(graphdef, state, *jax.tree.map(functools.partial(self._input, state), arrays))
        if training:
            nnx.update(model, moved)
        return output

    @staticmethod
    def _input(state: nnx.State, x: np.ndarray) -> np.ndarray:
        parameter, *_ = jax.tree.leaves(nnx.filter_state(state, nnx.Param))
        return np.ascontiguousarray(layout.nchw_to_nhwc(x), dtype=parameter.dtype)
