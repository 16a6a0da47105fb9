"""The Backend protocol, numpy in, numpy out, and what backends there are."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from common.catalog import Network
from common.errors import BackendError, unknown
from common.reference import Call, Foreign
from common.training.optimizers import OptimizerConfig
from common.weights import DTypeName

__all__ = [
    "BACKENDS",
    "DEVICES",
    "PROJECT",
    "Backend",
    "BackendInfo",
    "Calls",
    "Gradients",
    "Interpreter",
    "Trainer",
    "check_all_ran",
    "find_environment",
    "find_interpreter",
    "get",
    "install_hint",
    "kind_of",
    "load",
]

PROJECT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages: the checkout, or where they are installed."""


@dataclass(frozen=True)
class BackendInfo:
    """Where a backend's code is, what it needs (modules that it imports, whose versions matter), its image layout."""

    name: str
    package: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    layout: Literal["NCHW", "NHWC"] = "NCHW"


BACKENDS: Mapping[str, BackendInfo] = {
    info.name: info
    for info in (
        BackendInfo("numpy", "common.reference", ("numpy",), ("numpy",)),
        BackendInfo("torch", "torch_impl", ("torch",), ("torch", "numpy")),
        BackendInfo("jax", "jax_impl", ("jax", "flax"), ("jax", "flax", "numpy"), "NHWC"),
        BackendInfo("tf", "tf_impl", ("tensorflow", "keras"), ("tensorflow-cpu", "keras", "numpy"), "NHWC"),
        BackendInfo("mxnet", "mxnet_impl", ("mxnet",), ("mxnet", "numpy")),
    )
}


DEVICES = ("cpu", "gpu")


Calls = dict[str, tuple[np.ndarray, np.ndarray]]
"""What each layer was given and what it made of it, by path."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of a loss: by every parameter, by its canonical name and in its canonical layout, and by the input."""

    loss: float
    parameters: dict[str, np.ndarray]
    input: np.ndarray


class Trainer(Protocol):
    """A model being trained: `step` by `step`, with batches of images (N, C, H, W) and labels (N,) of int64.

    The loss is the cross-entropy of the logits, averaged over the batch. What dropout draws at a step depends on the
    seed and the number of steps taken, and on nothing else.
    """

    steps: int
    """How many steps have been taken."""

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        """Take one step, and return the batch's loss and how many it got right, both from before the update."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits in evaluation mode, (N, num_classes)."""

    def state(self) -> dict[str, np.ndarray]:
        """Return the optimiser's slots, `<slot>.<parameter>`, in the parameters' canonical layouts; at first zeros."""

    def load_state(self, slots: Mapping[str, np.ndarray], steps: int) -> None:
        """Go on from where another trainer was after `steps` steps: its `state`, the model having its weights."""


class Backend(Protocol):
    """One framework behind arrays. Activations are (N, C, H, W) or (N, features), weights canonical.

    A model is the framework's own object, as `build` of its package makes it; it carries `network`, its entry of the
    catalogue. Making a Backend imports the framework, turns its reduced-precision fast paths off, and chooses the
    device that its models live on. Raises BackendError where the framework sees no such device.
    """

    container: str
    """What the framework calls layers run one after another; a summary's name for several layers in one row."""

    def build(self, network: Network, dtype: DTypeName) -> Any:
        """Return the network in evaluation mode, its weights undefined until `load`."""

    def initial(self, network: Network, dtype: DTypeName, seed: int) -> dict[str, np.ndarray]:
        """Return new weights by canonical name, as the framework's own initialisers draw them."""

    def load(self, model: Any, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy weights into the model, by canonical name, rounding or widening them to its dtype."""

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        """Return the model's weights by canonical name, in network order and the model's dtype."""

    def run(self, model: Any, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Return the logits, (N, num_classes). In training, batch norm uses the batch and moves its statistics."""

    def trace(
        self, model: Any, x: np.ndarray, training: bool = False, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Return every tap of `reference.describe(network).taps` by name, in that order, as `run` computes them.

        A layer that `given` names hands that on in place of what it computed, which is what the trace shows; statistics
        need not move then. Raises BackendError where the network has a layer that did not run.
        """

    def calls(self, model: Any, x: np.ndarray, training: bool = False) -> Calls:
        """Return by path what each layer was given and what it made of it; the statistics may move."""

    def summary(self, model: Any) -> list[Call]:
        """Return every layer's call on one image, in order: path, the framework's class name, shape in its layout."""

    def gradients(self, model: Any, x: np.ndarray, labels: np.ndarray) -> Gradients:
        """Return the gradients in training mode of the cross-entropy averaged over the batch; statistics move."""

    def trainer(self, model: Any, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        """Return a trainer of the model, which changes the model's weights in place."""


def get(name: str) -> BackendInfo:
    """Return what is known of backend `name`. Raises ConfigError for an unknown one."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    return BACKENDS[name]


def load(name: str, device: str = "cpu") -> Backend:
    """Import a backend's framework and return the Backend on a device, "cpu" or "gpu".

    Raises ImportError where it is not installed here, BackendError where it sees no such device.
    """
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    module = importlib.import_module(f"{get(name).package}.backend")
    backend: Backend = module.Backend(device)
    return backend


def check_all_ran(network: Network, layers: Iterable[str], ran: Container[str]) -> None:
    """Raise BackendError where a network has layers that do not run: no output tells of them, in Keras no weight.

    A model from outside may have containers, which never run.
    """
    idle = [path for path in layers if path not in ran]
    if idle and not isinstance(network, Foreign):
        raise BackendError(f"layers that were made and did not run: {', '.join(idle)}; expected none")


def kind_of(layer: object, package: str, abstract: tuple[type, ...]) -> str:
    """Return a layer's class name in its framework's own terms.

    That is the nearest class that `package` did not write, or the layer's own class where that is one of the
    `abstract` ones, which every layer of the framework derives from.
    """
    for base in type(layer).__mro__:
        if not base.__module__.startswith(f"{package}."):
            return type(layer).__name__ if base in abstract else base.__name__
    raise TypeError(f"{type(layer).__name__} derives from nothing outside {package}")


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs a backend, and how it was found."""

    path: Path
    found: str


def _tox_folders() -> list[Path]:
    folders = [Path(os.environ["TOX_WORK_DIR"])] if "TOX_WORK_DIR" in os.environ else []
    return [*folders, PROJECT / ".tox", Path.cwd() / ".tox"]


def find_interpreter(name: str) -> Interpreter | None:
    """Return the interpreter that holds backend `name`, or None where it is not installed; see `find_environment`."""
    return find_environment(name, get(name).modules)


def find_environment(name: str, modules: Iterable[str]) -> Interpreter | None:
    """Return the interpreter of environment `name`, which holds `modules`, or None where it is not installed.

    It is the one that `ROSETTA_PYTHON_<NAME>` names, else that of the tox environment of that name, else this one
    if it holds the modules. Raises BackendError where the variable names no program.
    """
    variable = f"ROSETTA_PYTHON_{name.upper()}"
    given = os.environ.get(variable)
    if given:
        if not os.access(given, os.X_OK) or os.path.isdir(given):
            raise BackendError(f"{variable} (={given!r}) is no program; give the path of a Python interpreter")
        return Interpreter(Path(given), variable)
    if name == "numpy":
        return Interpreter(Path(sys.executable), "this interpreter")
    for folder in _tox_folders():
        for python in (folder / name / "bin" / "python", folder / name / "Scripts" / "python.exe"):
            if python.exists():
                return Interpreter(python, f"tox environment {name}")
    if all(importlib.util.find_spec(module) for module in modules):
        return Interpreter(Path(sys.executable), "this interpreter")
    return None


def install_hint(name: str) -> str:
    """Return how to install environment `name`, a backend's or another, to stand behind "install it"."""
    if (PROJECT / "tox.ini").exists():
        return f"with `tox run --notest -e {name}`"
    return f"as the extra [{name}] of rosetta, in an environment of its own"
