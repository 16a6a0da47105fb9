"""The interface that every framework's port implements: NumPy arrays in, NumPy arrays out."""

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
        """Return the optimizer's slots, `<slot>.<parameter>`, in the parameters' canonical layouts; at first zeros."""

    def load_state(self, slots: Mapping[str, np.ndarray], steps: int) -> None:
        """Go on from where another trainer was after `steps` steps: its `state`, the model having its weights."""


class Backend(Protocol):
    """One framework behind arrays. Activations are (N, C, H, W) or (N, features), weights canonical.

    A model is the framework's own object, as `build` of its package makes it; it carries `network`, its entry of the
    catalog. Making a Backend imports the framework, turns its reduced-precision fast paths off, and chooses the
    device that its models live on. Raises BackendError where the framework sees no such device.
    """

    container: str
    """What the framework calls layers run one after another; a summary's name for several layers in one row."""

    def build(self, network: Network, dtype: DTypeName) -> Any:
        """Return the network in evaluation mode, its weights undefined until `load`."""

    def initial(self, network: Network, dtype: DTypeName, seed: int) -> dict[str, np.ndarray]:
        """Return new weights by canonical name, as the framework's own initializers draw them."""

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


def check_all_ran(network: Network, layers: Iterable[str], ran: Container[str]) -> None:
    """Raise BackendError where a network has layers that do not run: no output tells of them, in Keras no weight.

    A model from outside may have containers, which never run.
    """
    idle = [path for path in layers if path not in ran]
    if idle and not isinstance(network, ExternalNetwork):
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
