"""Parity checks of one model against another, which serves as the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.backends.numpy.external import Function
from common.files import map_safetensors
from common.optimizers import OptimizerConfig, Schedule
from common.parity import finite_differences
from common.parity.cases import Case, ForwardCase
from common.parity.comparison import TapError, spread
from common.parity.diagnosis import LayerTrace
from common.parity.external_model import resolve
from common.parity.gradients import GradientCase, gradient_scales
from common.parity.results import Cell, Settings
from common.parity.tolerances import Check
from common.parity.training_runs import STEPS, Run, TrainingCase, weight_scales
from common.reference import ExternalNetwork, layers
from common.reference.layer_specs import Specification
from common.reference.layers import Layer, Linear
from common.reference.loss import cross_entropy
from common.testing.ports import ModelProcess
from common.weights import DTypeName

__all__ = ["CASES", "Experiment", "PairwiseCase"]


@dataclass(frozen=True)
class Experiment:
    """Inputs of both models: a file of weights, a batch with labels, and the optimizer."""

    weights: Path
    x: np.ndarray
    labels: np.ndarray
    optimizer: OptimizerConfig
    learning_rate: float


class PairwiseCase(Case):
    """A check of a candidate against a reference model, which runs in float64."""

    def __init__(
        self,
        network: ExternalNetwork,
        settings: Settings,
        folder: Path,
        reference: ModelProcess,
        experiment: Experiment,
    ) -> None:
        self.reference_model, self.experiment = reference, experiment
        super().__init__(network, settings, folder)
        self.folder.mkdir()
        self.weights = experiment.weights

    def ask_reference(self, action: str, result: str, dtype: DTypeName = "float64", **details: Any) -> dict[str, Any]:
        """Send a request to the reference and return its answer; it writes to `folder / result`."""
        return self.reference_model.ask(
            action,
            network=self.network.name,
            config={},
            dtype=dtype,
            weights=str(self.weights),
            outputs={"result": str(self.folder / result)},
            **details,
        )

    def save(self, name: str, array: np.ndarray) -> Path:
        """Write an array to a file and return its path."""
        path = self.folder / f"{name}.npy"
        np.save(path, array)
        return path

    def reference_taps(self, training: bool) -> dict[str, np.ndarray]:
        """Return the reference's taps."""
        path = str(self.save("reference", self.experiment.x))
        self.ask_reference("trace", "truth", inputs={"result": path}, training=training)
        return map_safetensors(self.folder / "truth")[1]

    def reference_layers(self, training: bool) -> LayerTrace | None:
        """Return the reference's layers for diagnosis, or None if it has none."""
        images = str(self.save("layers", self.experiment.x))
        paths = self.ask_reference("calls", "calls", images=images, training=training)["paths"]
        if not paths:
            return None
        arrays = map_safetensors(self.folder / "calls")[1]
        calls = {path: (arrays[f"input {path}"], arrays[f"output {path}"]) for path in paths}
        description = self.reference_model.description["specifications"]
        specifications = {path: Specification(**each) for path, each in description.items()}
        tensors = map_safetensors(self.weights)[1]
        return ObservedLayerTrace(
            self.experiment.x, tensors, self.reference_taps(training), calls, specifications, training
        )

    def diagnosed(self, worker: Any, cell: Cell) -> Cell:
        cell = super().diagnosed(worker, cell)
        hint = "; name the image in `flattened`, such as flattened={'fc1': (16, 5, 5)}"
        findings = tuple(each + hint if "flattened in the order H, W, C" in each else each for each in cell.findings)
        return dataclasses.replace(cell, findings=findings)


class ObservedLayerTrace(LayerTrace):
    """Layers of an external model on one batch, with those modeled that behave like a layer of `common.reference`."""

    def __init__(
        self,
        x: np.ndarray,
        tensors: Mapping[str, np.ndarray],
        taps: Mapping[str, np.ndarray],
        calls: Mapping[str, tuple[np.ndarray, np.ndarray]],
        specifications: Mapping[str, Specification],
        training: bool,
    ) -> None:
        self.x, self.tensors, self.taps, self.training = x, tensors, dict(taps), training
        self.inputs = {path: given for path, (given, _) in calls.items()}
        self.outputs = {path: output for path, (_, output) in calls.items()}
        self.modules = {}
        for path, (given, output) in calls.items():
            if path not in specifications:
                continue
            layer = specifications[path].build(given.ndim)
            layer.path, layer.training = path, training
            for leaf, tensor in layer.tensors().items():
                default = np.zeros(tensor.shape) if leaf in ("bias", "running_mean") else np.ones(tensor.shape)
                setattr(layer, leaf, np.asarray(tensors.get(f"{path}.{leaf}", default)))
            self._find_inputs(layer, given)
            # Keep the model of a layer only if it reproduces the observed output.
            if np.allclose(layer.compute(given), output, rtol=1e-6, atol=1e-6 * float(np.max(np.abs(output)))):
                self.modules[path] = layer

    def _find_inputs(self, layer: Layer, given: np.ndarray) -> None:
        """Find the image or activation before a layer: functions such as `relu` are not layers of the model."""
        for path, made in self.outputs.items():
            if path == layer.path:
                return
            if isinstance(layer, Linear) and made.ndim == 4 and made.size == given.size:
                flat = made.reshape(given.shape)
                if np.array_equal(flat, given) or np.array_equal(np.maximum(flat, 0), given):
                    layer.image = (made.shape[1], made.shape[2], made.shape[3])
            elif made.shape == given.shape and not np.array_equal(made, given):
                for activation in (layers.ReLU(), layers.Sigmoid()):
                    if np.allclose(activation.compute(made), given, rtol=1e-12, atol=0):
                        activation.path = f"behind {path}"
                        self.modules[activation.path], self.inputs[activation.path] = activation, made


class PairwiseForward(PairwiseCase, ForwardCase):
    """The forward check of every common tap, in evaluation mode."""

    def prepare(self) -> None:
        self.inputs = {"input": self.save("input", self.experiment.x)}
        self.reference = {"input": self.reference_taps(training=False)}
        self.vacuous = {tap: spread(values) for tap, values in self.reference["input"].items()}

    def layer_trace(self) -> LayerTrace | None:
        return self.reference_layers(training=False)


class PairwiseGradients(PairwiseCase, GradientCase):
    """The gradients check: common taps in training mode, running statistics, and all gradients.

    A function of arrays has no gradients; the candidate's are compared with finite differences of the function's loss.
    """

    has_truth = True

    @property
    def dtypes(self) -> Sequence[DTypeName]:
        # Finite differences are too coarse for float32.
        return ("float64",) if self.reference_model.port.backend == "numpy" else self.settings.dtypes

    def prepare(self) -> None:
        self.scales = gradient_scales(self.network)
        self.x, labels = self.experiment.x, self.experiment.labels
        self.paths = {"images": self.save("images", self.x), "labels": self.save("labels", labels)}
        tensors = map_safetensors(self.weights)[1]
        self.values = {**tensors, "input": self.x}
        self.derivatives = []
        self.gradients: dict[str, np.ndarray] = {}
        if self.reference_model.port.backend == "numpy":
            self.forward = self.reference_taps(training=True)
            self.forward["loss"] = np.array([cross_entropy(self.forward["logits"], labels)])
            self.derivatives = list(self._derivatives(tensors, labels))
            return
        details: dict[str, Any] = {key: str(path) for key, path in self.paths.items()}
        answer = self.ask_reference("gradients", "gradients", "float64", seeds=[1, 2, 3], **details)
        found = map_safetensors(self.folder / "gradients")[1]
        self.gradients = {name: array for name, array in found.items() if name.startswith("gradient of ")}
        self.forward = {name: array for name, array in found.items() if name not in self.gradients}
        self.rounding_spread["float32"] = answer["rounding_spread"]

    def _derivatives(
        self, tensors: Mapping[str, np.ndarray], labels: np.ndarray
    ) -> Iterator[finite_differences.Derivative]:
        port = self.reference_model.port
        compute = resolve(port.factory, str(port.folder)) if isinstance(port.factory, str) else port.factory
        function = Function(compute, "float64")

        def logits(moved: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
            function.tensors = dict(moved)
            return function(x, training=True)["logits"]

        return finite_differences.derivatives(self.network, tensors, self.x, labels, logits=logits)

    def trained_tensors(self) -> set[str]:
        return super().trained_tensors() | {name.removeprefix("gradient of ") for name in self.gradients}

    def judge(
        self, name: str, dtype: DTypeName, outputs: Mapping[str, Path], answer: Mapping[str, Any]
    ) -> list[TapError]:
        errors = super().judge(name, dtype, outputs, answer)
        if self.gradients:
            return errors
        # A function has no running statistics to compare.
        return [error for error in errors if ".running_" not in error.tap or error.tap in self.forward]

    def _measures_spread(self, name: str, dtype: DTypeName) -> bool:
        return False

    def truth(self, select: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return self.gradients

    def layer_trace(self) -> LayerTrace | None:
        return self.reference_layers(training=True)


class PairwiseTraining(PairwiseCase, TrainingCase):
    """The training check: ten steps on one batch from the same weights."""

    has_truth = True

    @property
    def dtypes(self) -> Sequence[DTypeName]:
        return ("float64",) if "float64" in self.settings.dtypes else self.settings.dtypes

    def prepare(self) -> None:
        labels = self.experiment.labels
        self.scales = weight_scales(self.network)
        schedule = Schedule("constant", self.experiment.learning_rate, STEPS)
        self.run = Run(self.experiment.optimizer, schedule)
        self.rates = [schedule.learning_rate(step) for step in range(STEPS)]
        repeated = {"images": np.stack([self.experiment.x] * STEPS), "labels": np.stack([labels] * STEPS)}
        self.paths = {name: self.save(name, array) for name, array in repeated.items()}
        self.after: dict[str, np.ndarray] = {}
        for dtype in self.dtypes:
            answer = self.ask_reference("train", f"truth-{dtype}", dtype, **self._details([1, 2, 3]))
            self.rounding_spread[dtype] = answer["rounding_spread"]
            self.after = map_safetensors(self.folder / f"truth-{dtype}")[1]

    def _details(self, seeds: list[int]) -> dict[str, Any]:
        return {
            **{key: str(path) for key, path in self.paths.items()},
            "optimizer": vars(self.run.optimizer),
            "learning_rates": self.rates,
            "seeds": seeds,
        }

    def request(self, name: str, dtype: DTypeName) -> tuple[str, dict[str, Path], dict[str, Any]]:
        return "train", {"result": self.folder / f"{name}-{dtype}.safetensors"}, self._details([])

    def truth(self, select: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return self.after


CASES: Mapping[Check, type[PairwiseCase]] = {
    "forward": PairwiseForward,
    "gradients": PairwiseGradients,
    "training": PairwiseTraining,
}
