"""The Backend protocol, which every port implements: NumPy arrays in, NumPy arrays out.

Activations are (N, C, H, W) or (N, features) in every backend. Weights have canonical names and layouts (see
`common.weights`). A tap is a named intermediate activation; `common.reference.describe(network).taps` lists them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from common.catalog import Network
from common.errors import BackendError
from common.optimizers import OptimizerConfig
from common.reference import Call, ExternalNetwork
from common.weights import DTypeName

__all__ = ["Backend", "Calls", "Gradients", "Trainer", "check_all_ran", "kind_of"]

Calls = dict[str, tuple[np.ndarray, np.ndarray]]
"""Input and output of each layer, by path."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of a loss with respect to every parameter, by canonical name and layout, and the input."""

    loss: float
    parameters: dict[str, np.ndarray]
    input: np.ndarray


class Trainer(Protocol):
    """Trains a model step by step on images (N, C, H, W) and int64 labels (N,).

    The loss is the cross-entropy averaged over the batch. Dropout masks depend only on the seed and the step number.
    """

    steps: int
    """Number of steps taken."""

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        """Take one step; return the loss and the number of correct predictions before the update."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits in evaluation mode, (N, num_classes)."""

    def state(self) -> dict[str, np.ndarray]:
        """Return the optimizer's slots, initially zeros, as `<slot>.<parameter>` in canonical layouts."""

    def load_state(self, slots: Mapping[str, np.ndarray], steps: int) -> None:
        """Continue from another trainer's `state` after `steps` steps; the model must have its weights already."""


class Backend(Protocol):
    """One framework with arrays as its interface.

    A model is the framework's own object, built by the port's `build`; its attribute `network` is the catalog entry.
    Creating a Backend imports the framework, turns off fast paths of reduced precision, and selects the device of its
    models. Raises BackendError if the framework has no such device.
    """

    container: str
    """The framework's name for a sequence of layers, which summaries use for several layers in one row."""

    def build(self, network: Network, dtype: DTypeName) -> Any:
        """Return the network in evaluation mode; its weights are undefined until `load`."""

    def initial(self, network: Network, dtype: DTypeName, seed: int) -> dict[str, np.ndarray]:
        """Return new weights from the framework's own initializers, by canonical name."""

    def load(self, model: Any, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy weights into the model by canonical name, converted to its dtype."""

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        """Return the model's weights by canonical name, in network order and the model's dtype."""

    def run(self, model: Any, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Return the logits, (N, num_classes). In training, batch norm uses and updates batch statistics."""

    def trace(
        self, model: Any, x: np.ndarray, training: bool = False, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Return every tap by name, in network order, as computed by `run`.

        A tap in `given` replaces its layer's output for the layers after it, while the trace has the computed output;
        running statistics need not be updated then. Raises BackendError if a layer of the network did not run.
        """

    def calls(self, model: Any, x: np.ndarray, training: bool = False) -> Calls:
        """Return input and output of each layer by path; running statistics may change."""

    def summary(self, model: Any) -> list[Call]:
        """Return every layer's call on one image, in order: path, the framework's class name, shape in its layout."""

    def gradients(self, model: Any, x: np.ndarray, labels: np.ndarray) -> Gradients:
        """Return the gradients of the batch's mean cross-entropy in training mode; running statistics are updated."""

    def trainer(self, model: Any, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        """Return a trainer that updates the model's weights in place."""


def check_all_ran(network: Network, layers: Iterable[str], ran: Container[str]) -> None:
    """Raise BackendError if a layer of the network did not run, because its output would not show that.

    External models may have containers that never run, and are not checked.
    """
    idle = [path for path in layers if path not in ran]
    if idle and not isinstance(network, ExternalNetwork):
        raise BackendError(f"layers that were built but did not run: {', '.join(idle)}; expected none")


def kind_of(layer: object, package: str, abstract: tuple[type, ...]) -> str:
    """Return the name of the nearest base class of a layer outside `package`, as shown in summaries.

    If that is one of the framework's `abstract` base classes, return the name of the layer's own class.
    """
    for base in type(layer).__mro__:
        if not base.__module__.startswith(f"{package}."):
            return type(layer).__name__ if base in abstract else base.__name__
    raise TypeError(f"{type(layer).__name__} derives from nothing outside {package}")
