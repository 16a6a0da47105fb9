"""Common base of the checks in training mode: gradients and training runs.

The reference has no backward pass. It gives the taps and the updated running statistics in training mode, and
derivatives of the loss by finite differences. Gradients and runs are compared with the elementwise median over all
frameworks: a single wrong one cannot move the median beyond the range of the others.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from common import catalog
from common.catalog import Network
from common.files import map_safetensors
from common.parity.cases import Case
from common.parity.comparison import Limit, TapError, first_divergence
from common.parity.perturbation import blocks, differences
from common.parity.results import Cell, Pair, Settings
from common.reference import ExternalNetwork
from common.weights import DTypeName

__all__ = ["TrainingModeCase", "elementwise_median", "reduced_for_training"]


_REDUCED_SIZES = {"alexnet": (67, 67), "nin": (67, 67), "vgg": (32, 32), "densenet": (65, 65)}
_REDUCED_SIZE = (33, 33)
"""Input sizes of networks in training checks, by family, and for all others: small enough for minutes, not hours.

alexnet and nin get their smallest possible input; in the others the last stage still has several pixels.
"""


def reduced_for_training(network: Network) -> Network:
    """Return the network without dropout and, unless its input size was configured, at a small input."""
    if isinstance(network, ExternalNetwork):
        return network
    settings = network.settings()
    changed: dict[str, Any] = {}
    if "dropout" in settings:
        changed["dropout"] = 0.0
    usual = catalog.get(network.name).settings()["input_size"]
    size = _REDUCED_SIZES.get(network.family, _REDUCED_SIZE)
    if settings["input_size"] == usual and min(usual) > max(size):
        changed["input_size"] = list(size)
    return catalog.get(network.name, **{**settings, **changed}) if changed else network


def elementwise_median(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the elementwise median; NaN counts only where all are NaN.

    A sorting network, because np.median takes ten times as long.
    """
    middle = np.empty(arrays[0].shape, np.result_type(*arrays))
    for target, *ranked in blocks([middle, *arrays]):
        for last in range(len(ranked) - 1, 0, -1):
            for i in range(last):
                ranked[i], ranked[i + 1] = np.fmin(ranked[i], ranked[i + 1]), np.fmax(ranked[i], ranked[i + 1])
        low, high = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
        target[:] = low if low is high else (low + high) / 2
    return middle


def _median(arrays: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the elementwise median of each tensor, over the arrays of its most common shape."""
    by_name: dict[str, list[np.ndarray]] = {}
    for tensors in arrays:
        for name, values in tensors.items():
            by_name.setdefault(name, []).append(values)
    medians = {}
    for name, candidates in by_name.items():
        shape = statistics.mode(each.shape for each in candidates)
        medians[name] = elementwise_median([each for each in candidates if each.shape == shape])
    return medians


class TrainingModeCase(Case):
    """Common base of GradientCase and TrainingCase."""

    batch = 4
    copies = 6

    def __init__(self, network: Network, settings: Settings, folder: Path, variant: str = "") -> None:
        super().__init__(reduced_for_training(network), settings, folder, variant)
        self._measured_by: dict[DTypeName, str] = {}
        self.rounding_spread: dict[DTypeName, dict[str, float]] = {}

    scales: Mapping[str, str]
    """The other tensor whose size also scales a tensor's error; see `perturbation.differences`."""
    has_truth: ClassVar[bool] = False
    """True if one model's gradients and runs are the truth, rather than the median of all."""

    def _measures_spread(self, name: str, dtype: DTypeName) -> bool:
        """Return whether this backend measures the effect of rounding: the first one that asks."""
        with self.lock:
            return self._measured_by.setdefault(dtype, name) == name

    def cell(self, worker: Any, name: str, dtype: DTypeName) -> Cell:
        cell = super().cell(worker, name, dtype)
        with self.lock:  # another backend measures it if this one failed to
            self._measured_by = {
                key: who for key, who in self._measured_by.items() if who != name or key in self.rounding_spread
            }
        return cell

    def set_rounding_spread(self, dtype: DTypeName, answer: Mapping[str, Any], errors: Iterable[TapError]) -> None:
        """Keep the measured effect of rounding, if it is finite and the backend that measured it has no errors."""
        found = answer.get("rounding_spread")
        if not found or not isinstance(found, dict) or first_divergence(errors) is not None:
            return
        if all(isinstance(error, (int, float)) and math.isfinite(error) for error in found.values()):
            with self.lock:
                self.rounding_spread[dtype] = found

    def spread_dtypes(self) -> list[tuple[DTypeName, DTypeName]]:
        """Return pairs: dtype whose rounding is measured, dtype of the request that measures it."""
        raise NotImplementedError

    def to_repeat(self) -> Iterator[tuple[str, DTypeName]]:
        for dtype, requested in self.spread_dtypes():
            for cell in self.cells:
                if (
                    dtype not in self.rounding_spread
                    and cell.dtype == requested
                    and cell.status in ("agree", "vacuous")
                ):
                    yield cell.backend, requested

    def limit(self, dtype: DTypeName, name: str) -> Limit:
        """Return the limit of a tensor's distance from the frameworks' median."""
        raise NotImplementedError

    def read(self, name: str, dtype: DTypeName) -> dict[str, np.ndarray]:
        """Return the tensors that one backend wrote."""
        return map_safetensors(self.outputs[name, dtype]["result"])[1]

    def truth(self, select: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the median over the frameworks, in float64 if available; empty if none has finished.

        Frameworks already known to differ are left out, unless all do.
        """
        wrong = {(cell.backend, cell.dtype) for cell in self.cells if cell.status == "disagree"}
        keys = [key for key in self.outputs if key not in wrong] or list(self.outputs)
        for dtype in ("float64", "float32"):
            found = [select(self.read(*key)) for key in keys if key[1] == dtype]
            if found:
                return _median(found)
        return {}

    def pairs(self, select: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]) -> list[Pair]:
        """Compare every two backends."""
        found = []
        for dtype in self.dtypes:
            names = [name for name in self.settings.backends if (name, dtype) in self.outputs]
            arrays = {name: select(self.read(name, dtype)) for name in names}
            for first, second in itertools.combinations(names, 2):
                errors = [
                    TapError("", name, error, self.limit(dtype, name) * 2)
                    for name, error in differences(arrays[first], arrays[second], self.scales).items()
                ]
                found.append(self.pair(dtype, (first, second), errors))
        return found
