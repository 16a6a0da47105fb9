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
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

from common import layout, reference
from common.backends.protocol import Calls, Gradients, check_all_ran, kind_of
from common.catalog import Network
from common.errors import no_device
from common.optimizers import OptimizerConfig
from common.reference import Call, ExternalNetwork
from common.weights import DTypeName
from jax_impl import build, uninitialized
from jax_impl.compilation import RUN_ONCE
from jax_impl.training import Trainer, few_loops_gradients, gradients
from jax_impl.weights import from_canonical, modules_by_path, state_to_canonical, to_canonical

__all__ = ["Backend"]

_FEW_CONVOLUTIONS = 12
"""Up to this number of convolutions, optimizing the loops of their gradients takes less time than it saves."""

_FUNCTIONS = {"relu": "relu", "logistic": "sigmoid", "reshape": "flatten"}
"""Functions that the reference has layers for, by what JAX calls them in a traced program."""

_START, _END = ":start", ":end"
"""Suffixes of the names that mark in a traced program where a module starts and ends."""

Interceptor = Callable[[str, Callable[[Array], Array], Array], Array]
"""Called as `intercept(path, module, x)` in place of `module(x)`."""


@contextmanager
def _wrapped(classes: set[type[nnx.Module]], wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """Replace `__call__` of each class by `wrap(__call__)`, and restore it on every way out.

    Python looks up `__call__` on the class, and Flax NNX has no hook for it: `nnx.tabulate` and `nnx.capture` replace
    methods of classes too. `nnx.capture` records no inputs, cannot change outputs, and skips inherited methods.
    """
    own = {cls: vars(cls).get("__call__") for cls in classes}
    wrappers = {cls: wrap(cls.__call__) for cls in classes}
    try:
        for cls, wrapper in wrappers.items():
            cls.__call__ = wrapper
        yield
    finally:
        for cls, call in own.items():
            if call is not None:
                cls.__call__ = call
            elif "__call__" in vars(cls):
                del cls.__call__


def _intercepted(model: nnx.Module, x: Array, intercept: Interceptor) -> Array:
    """Run the model, and let `intercept` make each call of a module inside it that takes one positional argument."""
    paths = {id(module): path for path, module in modules_by_path(model).items()}
    running: list[str] = []

    def wrap(call: Callable) -> Callable:
        @functools.wraps(call)
        def wrapper(module: nnx.Module, *given: Any, **options: Any) -> Any:
            path = paths[id(module)]
            by_super = running[-1:] == [path]  # a subclass called `super().__call__`
            running.append(path)
            try:
                if not path or by_super or len(given) != 1:
                    return call(module, *given, **options)
                return intercept(path, functools.partial(call, module, **options), given[0])
            finally:
                running.pop()

        return wrapper

    with _wrapped({type(module) for module in modules_by_path(model).values()}, wrap):
        return model(x)


def _run_state(model: nnx.Module) -> nnx.State:
    """Return what a run in training mode changes: running statistics and the state of dropout's generators."""
    return nnx.state(model, (nnx.BatchStat, nnx.RngState))


# These are pure functions of the split model. XLA compiles them once for each network, mode, dtype and input shape, and
# shares the program between models. They return what a run changes in the model.
@functools.partial(jax.jit, static_argnums=0)
def _run(graphdef: nnx.GraphDef, state: nnx.State, x: Array) -> tuple[Array, nnx.State]:
    model = nnx.merge(graphdef, state)
    return model(x), _run_state(model)


# A trace runs once: optimizing it would take longer than running it.
@functools.partial(jax.jit, static_argnums=0, compiler_options=RUN_ONCE)
def _trace(
    graphdef: nnx.GraphDef, state: nnx.State, x: Array, given: dict[str, Array]
) -> tuple[list[Array], nnx.State]:
    model = nnx.merge(graphdef, state)
    outputs: dict[str, Array] = {}

    def record(path: str, module: Callable[[Array], Array], x: Array) -> Array:
        y = module(x)
        if not isinstance(y, Array):
            return y
        outputs[path] = y
        return given.get(path, y)

    outputs["logits"] = _intercepted(model, x, record)
    check_all_ran(model.network, (path for path in modules_by_path(model) if path), outputs)
    return [outputs[tap] for tap in reference.describe(model.network).taps], _run_state(model)


def _equations(program: Jaxpr) -> Iterator[JaxprEqn]:
    """Iterate over the equations of a traced program and of the programs that it calls, in order of execution."""
    for equation in program.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner)


class Backend:
    """JAX; see `common.backends.protocol.Backend`."""

    container = "Sequential"

    def __init__(self, device: str = "cpu") -> None:
        try:
            first, *_ = jax.devices(device)
        except RuntimeError:
            raise no_device("JAX") from None
        jax.config.update("jax_default_device", first)
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_default_matmul_precision", "highest")

    def build(self, network: Network, dtype: DTypeName) -> nnx.Module:
        model = uninitialized(network, dtype)
        # `load` gives values to the weights only; the random generators need theirs here.
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
        calls: Calls = {}
        manifest = reference.describe(model.network).manifest

        def record(path: str, module: Callable[[Array], Array], x: Array) -> Array:
            y = module(x)
            if isinstance(y, Array):
                given, output = layout.nhwc_to_nchw(np.asarray(x)), layout.nhwc_to_nchw(np.asarray(y))
                calls[path] = layout.canonical_input(manifest.get(f"{path}.weight"), given), output
            return y

        if training:
            model.train()
        else:
            model.eval()
        _intercepted(model, jnp.asarray(self._input(nnx.state(model), x)), record)
        return calls

    def summary(self, model: nnx.Module) -> list[Call]:
        def mark(path: str, module: Callable[[Array], Array], x: Array) -> Array:
            y = module(checkpoint_name(x, path + _START))
            return checkpoint_name(y, path + _END) if isinstance(y, Array) else y

        model.eval()
        graphdef, state = nnx.split(model)
        image = self._input(state, np.zeros((1, *model.network.input_shape)))
        # A traced program names functions but no modules, so each module marks where it starts and ends.
        program = jax.make_jaxpr(lambda state, x: _intercepted(nnx.merge(graphdef, state), x, mark))(state, image)
        modules = modules_by_path(model)
        # Functions inside a layer are part of the layer. Those of an external model cannot be compared by name.
        blocks = set() if isinstance(model.network, ExternalNetwork) else {path.rpartition(".")[0] for path in modules}
        running = [""]
        calls: list[Call] = []
        for equation in _equations(program.jaxpr):
            operation = equation.primitive.name
            name = equation.params["name"] if operation in ("name", "jit") else operation
            if operation == "name" and name.endswith(_START):
                running.append(name.removesuffix(_START))
            elif operation == "name" and name.endswith(_END):
                running.pop()
                path = name.removesuffix(_END)
                own, kind = type(modules[path]).__name__, kind_of(modules[path], "jax_impl", (nnx.Module,))
                calls.append(Call(path, kind, equation.outvars[0].aval.shape, own=own))
            elif name in _FUNCTIONS and running[-1] in blocks:
                path = f"{running[-1]}.{_FUNCTIONS[name]}".lstrip(".")
                calls.append(Call(path, _FUNCTIONS[name], equation.outvars[0].aval.shape))
        return calls

    def gradients(self, model: nnx.Module, x: np.ndarray, labels: np.ndarray) -> Gradients:
        model.train()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        images = self._input(params, x)
        kernels = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
        few_loops = images.dtype == np.float64 and kernels <= _FEW_CONVOLUTIONS
        differentiate = few_loops_gradients if few_loops else gradients
        loss, by_params, by_images, rest = differentiate(graphdef, params, rest, images, labels)
        nnx.update(model, rest)
        arrays = state_to_canonical(model.network, by_params)
        return Gradients(float(loss), arrays, layout.nhwc_to_nchw(np.asarray(by_images)))

    def trainer(self, model: nnx.Module, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        return Trainer(model, optimizer, seed)

    def _apply(
        self, function: Callable, model: nnx.Module, training: bool, *arrays: np.ndarray | Mapping[str, np.ndarray]
    ) -> Array | list[Array]:
        """Run a pure function of the model, and update the model with what a run in training mode changed."""
        if training:
            model.train()
        else:
            model.eval()
        graphdef, state = nnx.split(model)
        output, changed = function(graphdef, state, *jax.tree.map(functools.partial(self._input, state), arrays))
        if training:
            nnx.update(model, changed)
        return output

    @staticmethod
    def _input(state: nnx.State, x: np.ndarray) -> np.ndarray:
        parameter, *_ = jax.tree.leaves(nnx.filter_state(state, nnx.Param))
        return np.ascontiguousarray(layout.nchw_to_nhwc(x), dtype=parameter.dtype)
