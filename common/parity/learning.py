"""Checks of what happens in training: gradients, and whole runs.

The reference computes forward only. What it says of training is every tap, the moved statistics, and derivatives of the
loss by central differences. Beyond that the frameworks are held to one another: to the median over all of them, entry
by entry, which a single one that is wrong cannot move beyond the others.
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


_SIZES = {"alexnet": (67, 67), "nin": (67, 67), "vgg": (32, 32), "densenet": (65, 65)}
_SIZE = (33, 33)
"""Input sizes at which a network that is usually larger learns, so that all of them take minutes: the smallest that
alexnet and nin can have, and otherwise such that the last stage still has pixels to choose from."""


def reduced_for_training(network: Network) -> Network:
    """Return the network as it learns here: without dropout, and at a small input unless one was asked for."""
    if isinstance(network, ExternalNetwork):
        return network
    settings = network.settings()
    changed: dict[str, Any] = {}
    if "dropout" in settings:
        changed["dropout"] = 0.0
    usual = catalog.get(network.name).settings()["input_size"]
    size = _SIZES.get(network.family, _SIZE)
    if settings["input_size"] == usual and min(usual) > max(size):
        changed["input_size"] = list(size)
    return catalog.get(network.name, **{**settings, **changed}) if changed else network


def elementwise_median(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the entry by entry median: a sorting network, since np.median takes ten times as long.

    Where one has no number, another's stands for it, so that whoever broke down draws nobody along.
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
    """Return the entry by entry median of each tensor, over those that give it the shape that most of them do."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for tensors in arrays:
        for name, values in tensors.items():
            shapes.setdefault(name, []).append(values.shape)
    return {
        name: elementwise_median([a[name] for a in arrays if name in a and a[name].shape == statistics.mode(found)])
        for name, found in shapes.items()
    }


class TrainingModeCase(Case):
    """What gradients and runs have in common."""

    batch = 4
    copies = 6

    def __init__(self, network: Network, settings: Settings, folder: Path, variant: str = "") -> None:
        super().__init__(reduced_for_training(network), settings, folder, variant)
        self._claimed: dict[DTypeName, str] = {}
        self.rounding_spread: dict[DTypeName, dict[str, float]] = {}

    scales: Mapping[str, str]
    """As for `differences`."""
    has_truth: ClassVar[bool] = False
    """Whether somebody's gradients and runs are the truth, and not the median of all."""

    def _claims(self, name: str, dtype: DTypeName) -> bool:
        """Return whether this backend is to measure what rounding alone does: the first that gets here."""
        with self.lock:
            return self._claimed.setdefault(dtype, name) == name

    def cell(self, worker: Any, name: str, dtype: DTypeName) -> Cell:
        cell = super().cell(worker, name, dtype)
        with self.lock:  # so that another measures what it did not
            self._claimed = {
                key: who for key, who in self._claimed.items() if who != name or key in self.rounding_spread
            }
        return cell

    def measured(self, dtype: DTypeName, answer: Mapping[str, Any], errors: Iterable[TapError]) -> None:
        """Note what rounding alone does, if a backend measured it that is not wrong itself and found numbers."""
        found = answer.get("envelope")
        if not found or not isinstance(found, dict) or first_divergence(errors) is not None:
            return
        if all(isinstance(error, (int, float)) and math.isfinite(error) for error in found.values()):
            with self.lock:
                self.rounding_spread[dtype] = found

    def measurements(self) -> list[tuple[DTypeName, DTypeName]]:
        """Return of which dtype it is to be measured what rounding does, and in which it is asked for."""
        raise NotImplementedError

    def again(self) -> Iterator[tuple[str, DTypeName]]:
        for dtype, asked in self.measurements():
            for cell in self.cells:
                if dtype not in self.rounding_spread and cell.dtype == asked and cell.status in ("agree", "vacuous"):
                    yield cell.backend, asked

    def limit(self, dtype: DTypeName, name: str) -> Limit:
        """Return how far something may be from the frameworks' median."""
        raise NotImplementedError

    def read(self, name: str, dtype: DTypeName) -> dict[str, np.ndarray]:
        """Return what one backend wrote."""
        return map_safetensors(self.outputs[name, dtype]["result"])[1]

    def truth(self, select: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the median over the frameworks, in float64 where there is that; empty where there is nobody.

        Those that are known to be wrong have no say in it, unless all are.
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
