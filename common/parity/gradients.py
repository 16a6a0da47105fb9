"""The gradients check: taps, updated running statistics and all gradients in training mode."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common import images, reference, weights
from common.catalog import Network
from common.files import map_safetensors
from common.parity import finite_differences
from common.parity.comparison import Limit, TapError, compare
from common.parity.diagnosis import LayerTrace, common_factor, describe_statistics
from common.parity.finite_differences import Derivative
from common.parity.perturbation import differences
from common.parity.results import Cell, Pair
from common.parity.tolerances import CANCELLATION_LIMIT, ROUNDING, SAFETY_FACTOR
from common.parity.training_mode import TrainingModeCase
from common.reference import Description
from common.reference.loss import cross_entropy
from common.weights import DTypeName


def biases_before_normalization(description: Description) -> frozenset[str]:
    """Return the biases whose gradient is zero because a batch norm subtracts them again."""
    biases, last = set(), None
    for call in description.calls:
        if call.kind in ("Conv2d", "Linear"):
            last = call.path
        elif call.kind.startswith("BatchNorm") and last is not None:
            biases.add(f"{last}.bias")
        elif call.kind in ("ReLU", "Sigmoid", "MaxPool2d"):
            last = None
    return frozenset(biases)


def gradient_scales(network: Network) -> dict[str, str]:
    """Return the gradients whose error is scaled by another gradient, as for `differences`.

    The gradient of a bias in front of a batch norm is mathematically zero. What is computed is the rounding error of
    sums as large as those in the gradient of the layer's weight, so that gradient scales it.
    """
    return {
        f"gradient of {bias}": f"gradient of {bias.removesuffix('.bias')}.weight"
        for bias in biases_before_normalization(reference.describe(network))
    }


def tensor_mismatches(
    found: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], dtype: DTypeName
) -> dict[str, str]:
    """Return a message for each tensor that is missing, unexpected, or of another shape or dtype."""
    notes = {}
    for name, shape in shapes.items():
        if name not in found:
            notes[name] = f"{name} is missing"
        elif found[name].shape != shape:
            notes[name] = f"{name} has shape {found[name].shape}, expected {shape}"
        elif found[name].dtype != dtype:
            notes[name] = f"{name} is {found[name].dtype}, expected {dtype}"
    return notes | {name: f"{name} is unexpected" for name in found if name not in shapes}


def _gradients_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the gradients among the tensors that a backend wrote."""
    return {name: array for name, array in arrays.items() if name.startswith("gradient of ")}


class GradientCase(TrainingModeCase):
    """The gradients check: every tap, running statistic, and the gradient of each parameter and the input."""

    check = "gradients"

    def prepare(self) -> None:
        super().prepare()
        seed = self.settings.seed
        weights.write_initial(self.weights, self.network, "probe", seed, "float64", durable=False)
        tensors = weights.read(self.weights).tensors
        self.scales = gradient_scales(self.network)
        # Noise, because flat regions of an image are exact ties of a max-pool, where no derivative exists.
        self.x = images.noise_batch(self.network, self.images, seed)
        classes = self.description.taps["logits"][-1]
        self.labels = np.random.default_rng(seed).integers(0, classes, self.images)
        self.paths = {"images": self.folder / "images.npy", "labels": self.folder / "labels.npy"}
        np.save(self.paths["images"], self.x)
        np.save(self.paths["labels"], self.labels)
        model = reference.build(self.network)
        reference.load(model, tensors)
        model.train(True)
        self.forward = reference.trace(model, self.x)
        moved = reference.weights(model)
        self.forward["loss"] = np.array([cross_entropy(self.forward["logits"], self.labels)])
        self.forward |= {name: moved[name] for name in moved if name.endswith(("running_mean", "running_var"))}
        self.derivatives: list[Derivative] = list(
            finite_differences.derivatives(self.network, tensors, self.x, self.labels)
        )
        self.values = {**tensors, "input": self.x}

    def trained_tensors(self) -> set[str]:
        """Return the names of the tensors that have a gradient."""
        return {name for derivative in self.derivatives for name in derivative.names}

    def request(self, name: str, dtype: DTypeName) -> tuple[str, dict[str, Path], dict[str, Any]]:
        details: dict[str, Any] = {key: str(path) for key, path in self.paths.items()}
        if ("float32", dtype) in self.spread_dtypes() and self._measures_spread(name, "float32"):
            details["seeds"] = [1, 2, 3]
        return "gradients", {"result": self.folder / f"{name}-{dtype}.safetensors"}, details

    def spread_dtypes(self) -> list[tuple[DTypeName, DTypeName]]:
        return [("float32", self.dtypes[0])] if "float32" in self.dtypes else []

    def judge(
        self, name: str, dtype: DTypeName, outputs: Mapping[str, Path], answer: Mapping[str, Any]
    ) -> list[TapError]:
        found = map_safetensors(outputs["result"])[1]
        forward = {key: array for key, array in found.items() if not key.startswith("gradient of ")}
        errors = compare(self.forward, forward, dtype, self.tap_limit(dtype), "training")
        trained = self.trained_tensors()
        shapes = {f"gradient of {key}": self.values[key].shape for key in self.values if key in trained}
        notes = tensor_mismatches(_gradients_of(found), shapes, dtype)
        errors += [TapError("gradient", key, math.inf, self.limit(dtype, key), note) for key, note in notes.items()]
        if dtype == "float64" and not notes and self.derivatives:
            gradients = {name.removeprefix("gradient of "): array for name, array in _gradients_of(found).items()}
            by_group = finite_differences.disagreements(self.derivatives, self.values, gradients)
            errors += [
                TapError("derivative", group, error if math.isfinite(error) else math.inf, self.limits.derivative())
                for group, error in by_group.items()
            ]
        self.set_rounding_spread("float32", answer, errors)
        return errors

    def verdict(self, cell: Cell) -> tuple[str, str]:
        status, detail = super().verdict(cell)
        if self.has_truth:
            return status, detail
        if status == "agree" and cell.dtype == "float32" and self.outputs.keys() == {(cell.backend, cell.dtype)}:
            return (
                "vacuous",
                "float32 gradients of a single backend cannot be compared; add float64 or another backend",
            )
        return status, detail

    def layer_trace(self) -> LayerTrace | None:
        return LayerTrace(self.network, weights.read(self.weights).tensors, self.x, training=True)

    def other_findings(self, layer_trace: LayerTrace, cell: Cell) -> list[tuple[str, str]]:
        found = self.read(cell.backend, cell.dtype)
        wrong = [error.tap for error in cell.errors if ".running_" in error.tap and not error.agrees]
        tolerance = self.tap_limit(cell.dtype)("logits").tolerance
        return list(describe_statistics(layer_trace, found, wrong, tolerance).items())

    def describe_gradients(self, name: str, dtype: DTypeName, truth: Mapping[str, np.ndarray]) -> str:
        """Return an explanation of wrong gradients after a right forward pass."""
        found = _gradients_of(self.read(name, dtype))
        if found.keys() == truth.keys() and all(found[key].shape == truth[key].shape for key in truth):
            factor = common_factor(found, truth, 1e-3 if dtype == "float32" else 1e-9)
            if factor is not None:
                summed = ": the loss is summed over the batch, not averaged" if factor == self.images else ""
                return f"every gradient is {factor:g} times its expected size{summed}"
        return "the forward pass is right: the loss or the backward pass of a layer is wrong"

    def limit(self, dtype: DTypeName, name: str) -> Limit:
        limit = self.limits.gradient(dtype)
        # The measured effect of 16 roundings of all inputs on each gradient.
        spread = self.rounding_spread.get("float32", {"": 0.0})
        if dtype == "float64":
            # The terms of a gradient may cancel, so that its relative error is large. No ReLU switches in float64.
            max_spread = min(spread.get(name, 0.0) * ROUNDING["float64"] / ROUNDING["float32"], CANCELLATION_LIMIT)
            return Limit(max(limit.budget, max_spread / SAFETY_FACTOR), max(limit.tolerance, max_spread))
        # In float32, rounding may switch a ReLU or the maximum of a pool, which changes all gradients before it.
        max_spread = max(spread.values())
        return Limit(limit.budget + max_spread / SAFETY_FACTOR, limit.tolerance + max_spread)

    def finish(self) -> list[Pair]:
        truth = self.truth(_gradients_of)
        for i, cell in enumerate(self.cells):
            key = (cell.backend, cell.dtype)
            if key not in self.outputs:
                continue
            errors = [
                TapError("gradient", name, error, self.limit(cell.dtype, name))
                for name, error in differences(_gradients_of(self.read(*key)), truth, self.scales).items()
            ]
            judged = self.judged(cell, [*cell.errors, *errors])
            if judged.status == "disagree" and cell.status == "agree":
                judged = dataclasses.replace(
                    judged, findings=(self.describe_gradients(cell.backend, cell.dtype, truth),)
                )
            self.cells[i] = judged
        return self.pairs(_gradients_of)
