"""Checks of what happens in training: gradients, and whole runs.

The reference computes forward only. What it says of training is every tap, the moved statistics, and derivatives of the
loss by central differences. Beyond that the frameworks are held to one another: to the median over all of them, entry
by entry, which a single one that is wrong cannot move beyond the others.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from common import catalog, images, reference, weights
from common.catalog import Network
from common.files import map_safetensors
from common.parity import derivatives
from common.parity.cases import Case
from common.parity.comparison import Limit, TapError, compare, first_divergence
from common.parity.derivatives import Derivative
from common.parity.diagnosis import Specimen, describe_statistics, scaled_alike
from common.parity.results import Cell, Pair, Settings
from common.parity.tolerances import CANCELLED, MOST, ROOM, ROUNDING
from common.reference import Description, Foreign
from common.training.evaluation import cross_entropy
from common.training.optimizers import OptimizerConfig, OptimizerName, Schedule
from common.weights import DTypeName

__all__ = [
    "RUNS",
    "GradientCase",
    "Run",
    "TrainingCase",
    "differences",
    "envelope",
    "gradient_scales",
    "one_ulp",
    "shifted_away",
    "sixteen_roundings",
    "small",
    "weight_scales",
]

STEPS = 10
"""How many steps a run takes."""

_SMALL = ("lenet", "bn_lenet", "bn_lenet_scratch")

_SIZES = {"alexnet": (67, 67), "nin": (67, 67), "vgg": (32, 32), "densenet": (65, 65)}
_SIZE = (33, 33)
"""Input sizes at which a network that is usually larger learns, so that all of them take minutes: the smallest that
alexnet and nin can have, and otherwise such that the last stage still has pixels to choose from."""


@dataclass(frozen=True)
class Run:
    """How a run learns: the optimiser, and the schedule over its steps, whose base is relative to sgd's."""

    optimizer: OptimizerConfig
    schedule: Schedule


def _schedule(name: str, base: float, **settings: int) -> Schedule:
    return Schedule(name, base, STEPS, **settings)  # type: ignore[arg-type]


RUNS: Mapping[OptimizerName, Run] = {
    "sgd": Run(OptimizerConfig("sgd"), _schedule("constant", 1)),
    "momentum": Run(OptimizerConfig("momentum", weight_decay=0.01), _schedule("step", 0.3, every=4)),
    "nesterov": Run(OptimizerConfig("nesterov", clip_norm=0.5), _schedule("cosine", 0.3, warmup=3)),
    "adam": Run(OptimizerConfig("adam", weight_decay=0.01, epsilon=1e-4), _schedule("cosine", 0.03, warmup=2)),
    "adamw": Run(OptimizerConfig("adamw", weight_decay=0.1, epsilon=1e-4), _schedule("step", 0.03, every=5)),
}
"""One run for each optimiser; between them they have every schedule, both decays, and clipping.

Adam's epsilon is larger than usual: where a gradient is but rounding (a bias in front of a batch norm), Adam makes
whole steps of it.
"""


_GENTLY = {"bn_lenet": 0.1, "bn_lenet_scratch": 0.1, "resnet": 1e-3, "resnext": 1e-3, "densenet": 1e-3, "anynet": 1e-4}
"""The share of its learning rate at which a network of batch norms learns here.

At the whole of it, ten steps on so few images magnify one rounding to order one, and nothing could be told.
"""


def small(network: Network) -> Network:
    """Return the network as it learns here: without dropout, and at a small input unless one was asked for."""
    if isinstance(network, Foreign):
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


def shifted_away(description: Description) -> frozenset[str]:
    """Return the biases that a batch norm behind them takes away again, so that their gradient is zero."""
    found, last = set(), None
    for call in description.calls:
        if call.kind in ("Conv2d", "Linear"):
            last = call.path
        elif call.kind.startswith("BatchNorm") and last is not None:
            found.add(f"{last}.bias")
        elif call.kind in ("ReLU", "Sigmoid", "MaxPool2d"):
            last = None
    return frozenset(found)


def differences(
    found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], scales: Mapping[str, str]
) -> dict[str, float]:
    """Return how far each tensor is from the truth, at most, relative to its largest value.

    A tensor named in `scales` is measured against the one that it gives, where that is larger. What differs in shape or
    is not finite is infinitely far.
    """
    largest = {name: float(max(np.max(values), -np.min(values))) for name, values in truth.items()}
    errors = {}
    for name, values in truth.items():
        if name not in found or found[name].shape != values.shape:
            errors[name] = math.inf
            continue
        scale = max(largest[name], largest.get(scales.get(name, ""), 0.0)) or 1.0
        distances = [
            float(np.max(np.abs(np.subtract(ours, theirs, dtype=np.float64))))
            for ours, theirs in _blocks([found[name], values])
        ]
        errors[name] = max(distances) / scale if np.isfinite(distances).all() else math.inf
    return errors


_BLOCK = 1 << 15
"""How many numbers of a tensor are compared at a time: what is made of them stays in the processor's cache."""


def _blocks(arrays: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Iterate over arrays of the same size together, some numbers at a time."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _BLOCK):
        yield [array[start : start + _BLOCK] for array in flat]


def gradient_scales(network: Network) -> dict[str, str]:
    """Return what gradients are measured against, other than themselves.

    A bias in front of a batch norm has no gradient, by mathematics. What is left of it is rounding of the sums that
    also make its layer's weights' gradient, and is measured against that.
    """
    return {
        f"gradient of {bias}": f"gradient of {bias.removesuffix('.bias')}.weight"
        for bias in shifted_away(reference.describe(network))
    }


def weight_scales(network: Network) -> dict[str, str]:
    """Return what weights are measured against: a bias begins at zero, and its layer's weights are of its size."""
    manifest = reference.describe(network).manifest
    return {name: f"{name.removesuffix('.bias')}.weight" for name in manifest if name.endswith(".bias")}


def _middle(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the entry by entry median: a sorting network, since np.median takes ten times as long.

    Where one has no number, another's stands for it, so that whoever broke down draws nobody along.
    """
    middle = np.empty(arrays[0].shape, np.result_type(*arrays))
    for target, *ranked in _blocks([middle, *arrays]):
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
        name: _middle([a[name] for a in arrays if name in a and a[name].shape == statistics.mode(found)])
        for name, found in shapes.items()
    }


class _LearningCase(Case):
    """What gradients and runs have in common."""

    batch = 4
    copies = 6

    def __init__(self, network: Network, settings: Settings, folder: Path, variant: str = "") -> None:
        super().__init__(small(network), settings, folder, variant)
        self._claimed: dict[DTypeName, str] = {}
        self.envelope: dict[DTypeName, dict[str, float]] = {}

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
            self._claimed = {key: who for key, who in self._claimed.items() if who != name or key in self.envelope}
        return cell

    def measured(self, dtype: DTypeName, answer: Mapping[str, Any], errors: Iterable[TapError]) -> None:
        """Note what rounding alone does, if a backend measured it that is not wrong itself and found numbers."""
        found = answer.get("envelope")
        if not found or not isinstance(found, dict) or first_divergence(errors) is not None:
            return
        if all(isinstance(error, (int, float)) and math.isfinite(error) for error in found.values()):
            with self.lock:
                self.envelope[dtype] = found

    def measurements(self) -> list[tuple[DTypeName, DTypeName]]:
        """Return of which dtype it is to be measured what rounding does, and in which it is asked for."""
        raise NotImplementedError

    def again(self) -> Iterator[tuple[str, DTypeName]]:
        for dtype, asked in self.measurements():
            for cell in self.cells:
                if dtype not in self.envelope and cell.dtype == asked and cell.status in ("agree", "vacuous"):
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


def _misfits(
    found: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], dtype: DTypeName
) -> dict[str, str]:
    """Return what is to be said of each tensor that is missing, not asked for, or of another shape or dtype."""
    notes = {}
    for name, shape in shapes.items():
        if name not in found:
            notes[name] = f"{name} is missing"
        elif found[name].shape != shape:
            notes[name] = f"{name} has shape {found[name].shape}, expected {shape}"
        elif found[name].dtype != dtype:
            notes[name] = f"{name} is {found[name].dtype}, expected {dtype}"
    return notes | {name: f"{name} was not asked for" for name in found if name not in shapes}


def _gradients_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the gradients among what a backend wrote."""
    return {name: array for name, array in arrays.items() if name.startswith("gradient of ")}


class GradientCase(_LearningCase):
    """In training mode: every tap, the moved statistics, the gradient of each parameter and of the input."""

    check = "gradients"

    def prepare(self) -> None:
        super().prepare()
        seed = self.settings.seed
        weights.write_initial(self.weights, self.network, "probe", seed, "float64", durable=False)
        tensors = weights.read(self.weights).tensors
        self.scales = gradient_scales(self.network)
        # Noise: flat regions of an image are exact ties of a maximum, at which there is no derivative to compare.
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
        self.derivatives: list[Derivative] = list(derivatives.derivatives(self.network, tensors, self.x, self.labels))
        self.values = {**tensors, "input": self.x}

    def trained(self) -> set[str]:
        """Return by what there is a gradient."""
        return {name for derivative in self.derivatives for name in derivative.names}

    def request(self, name: str, dtype: DTypeName) -> tuple[str, dict[str, Path], dict[str, Any]]:
        details: dict[str, Any] = {key: str(path) for key, path in self.paths.items()}
        if ("float32", dtype) in self.measurements() and self._claims(name, "float32"):
            details["seeds"] = [1, 2, 3]
        return "gradients", {"result": self.folder / f"{name}-{dtype}.safetensors"}, details

    def measurements(self) -> list[tuple[DTypeName, DTypeName]]:
        return [("float32", self.dtypes[0])] if "float32" in self.dtypes else []

    def judge(
        self, name: str, dtype: DTypeName, outputs: Mapping[str, Path], answer: Mapping[str, Any]
    ) -> list[TapError]:
        found = map_safetensors(outputs["result"])[1]
        forward = {key: array for key, array in found.items() if not key.startswith("gradient of ")}
        errors = compare(self.forward, forward, dtype, self.tap_limit(dtype), "training")
        trained = self.trained()
        shapes = {f"gradient of {key}": self.values[key].shape for key in self.values if key in trained}
        notes = _misfits(_gradients_of(found), shapes, dtype)
        errors += [TapError("gradient", key, math.inf, self.limit(dtype, key), note) for key, note in notes.items()]
        if dtype == "float64" and not notes and self.derivatives:
            gradients = {name.removeprefix("gradient of "): array for name, array in _gradients_of(found).items()}
            by_group = derivatives.disagreements(self.derivatives, self.values, gradients)
            errors += [
                TapError("derivative", group, error if math.isfinite(error) else math.inf, self.limits.derivative())
                for group, error in by_group.items()
            ]
        self.measured("float32", answer, errors)
        return errors

    def verdict(self, cell: Cell) -> tuple[str, str]:
        status, detail = super().verdict(cell)
        if self.has_truth:
            return status, detail
        if status == "agree" and cell.dtype == "float32" and self.outputs.keys() == {(cell.backend, cell.dtype)}:
            return "vacuous", "in float32 a gradient has nothing to agree with; add float64, or another backend"
        return status, detail

    def specimen(self) -> Specimen | None:
        return Specimen(self.network, weights.read(self.weights).tensors, self.x, training=True)

    def others(self, specimen: Specimen, cell: Cell) -> list[tuple[str, str]]:
        found = self.read(cell.backend, cell.dtype)
        wrong = [error.tap for error in cell.errors if ".running_" in error.tap and not error.agrees]
        said = describe_statistics(specimen, found, wrong, self.tap_limit(cell.dtype)("logits").tolerance)
        return list(said.items())

    def about_gradients(self, name: str, dtype: DTypeName, truth: Mapping[str, np.ndarray]) -> str:
        """Return what is to be said of gradients that are wrong though the forward pass is right."""
        found = _gradients_of(self.read(name, dtype))
        if found.keys() == truth.keys() and all(found[key].shape == truth[key].shape for key in truth):
            factor = scaled_alike(found, truth, 1e-3 if dtype == "float32" else 1e-9)
            if factor is not None:
                summed = ": summed over the batch, not averaged" if factor == self.images else ""
                return f"every gradient is {factor:g} times as large as it should be{summed}"
        return "the forward pass is right: what is wrong is the loss, or a layer's backward pass"

    def limit(self, dtype: DTypeName, name: str) -> Limit:
        limit = self.limits.gradient(dtype)
        # What 16 roundings of all that goes in do to each gradient was measured in this run; the budget is of 2.
        reached = self.envelope.get("float32", {"": 0.0})
        if dtype == "float64":
            # One that all but cancels is large in its errors with some seeds only. Here nothing changes over.
            reach = min(reached.get(name, 0.0) * ROUNDING["float64"] / ROUNDING["float32"], CANCELLED)
            return Limit(max(limit.budget, reach / ROOM), max(limit.tolerance, reach))
        # Where rounding decides a rectifier or a maximum otherwise, any gradient before it is another, and rounding
        # comes on top of that.
        reach = max(reached.values())
        return Limit(limit.budget + reach / ROOM, limit.tolerance + reach)

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
                judged = dataclasses.replace(judged, findings=(self.about_gradients(cell.backend, cell.dtype, truth),))
            self.cells[i] = judged
        return self.pairs(_gradients_of)


class TrainingCase(_LearningCase):
    """Ten steps from the same weights on the same batches: losses, all weights, and the logits afterwards.

    Where both dtypes are asked for, float32 is for plain SGD on small networks: in ten steps of a deep one its rounding
    grows so far that little can be told, and float64 tells all.
    """

    check = "training"

    @property
    def dtypes(self) -> Sequence[DTypeName]:
        asked = self.settings.dtypes
        few = self.variant == "sgd" and self.network.name in _SMALL
        return asked if few or len(asked) == 1 else ("float64",)

    def prepare(self) -> None:
        super().prepare()
        seed = self.settings.seed
        weights.write_initial(self.weights, self.network, "xavier", seed, "float64", durable=False)
        self.scales = weight_scales(self.network)
        self.run = RUNS[self.variant]  # type: ignore[index]  # a variant is an optimiser's name
        batches, labels = examples(self.network, STEPS, self.images, seed)
        self.paths = {"images": self.folder / "images.npy", "labels": self.folder / "labels.npy"}
        np.save(self.paths["images"], batches)
        np.save(self.paths["labels"], labels)
        base = self.network.learning_rate * self.run.schedule.base * _GENTLY.get(self.network.family, 1)
        schedule = dataclasses.replace(self.run.schedule, base=base)
        self.rates = [schedule.learning_rate(step) for step in range(STEPS)]

    def request(self, name: str, dtype: DTypeName) -> tuple[str, dict[str, Path], dict[str, Any]]:
        details: dict[str, Any] = {key: str(path) for key, path in self.paths.items()}
        details |= {"optimizer": dataclasses.asdict(self.run.optimizer), "learning_rates": self.rates}
        details["seeds"] = [1, 2, 3] if self._claims(name, dtype) else []
        return "train", {"result": self.folder / f"{name}-{dtype}.safetensors"}, details

    def measurements(self) -> list[tuple[DTypeName, DTypeName]]:
        return [(dtype, dtype) for dtype in self.dtypes]

    def judge(
        self, name: str, dtype: DTypeName, outputs: Mapping[str, Path], answer: Mapping[str, Any]
    ) -> list[TapError]:
        found = map_safetensors(outputs["result"])[1]
        shapes = {key: tensor.shape for key, tensor in self.description.manifest.items()}
        logits = (self.images, *self.description.taps["logits"][1:])
        notes = _misfits(found, {"loss": (STEPS,), **shapes, "logits": logits}, dtype)
        misfits = [TapError("", key, math.inf, self.limit(dtype, key), note) for key, note in notes.items()]
        self.measured(dtype, answer, misfits)
        return misfits  # there is nothing to compare the numbers with before the others are done

    def reach(self, dtype: DTypeName) -> float:
        """Return how far one rounding of the first weights takes the run; infinite where nobody could measure it."""
        return max(self.envelope.get(dtype, {"": math.inf}).values())

    def limit(self, dtype: DTypeName, name: str) -> Limit:
        return self.limits.run(dtype, self.reach(dtype))

    def verdict(self, cell: Cell) -> tuple[str, str]:
        status, detail = super().verdict(cell)
        if status != "agree":
            return status, detail
        if cell.envelope is not None and cell.envelope * 10 > MOST[cell.dtype]:
            return "vacuous", f"rounding alone takes this run {cell.envelope:.0e} off, so that nothing can be told"
        if not self.has_truth and len({name for name, _ in self.outputs}) < 2:
            return "vacuous", "a run has nothing to agree with but another framework's; give two backends or more"
        return status, detail

    def finish(self) -> list[Pair]:
        truth = self.truth(dict)
        for i, cell in enumerate(self.cells):
            key = (cell.backend, cell.dtype)
            if key not in self.outputs:
                continue
            found = differences(self.read(*key), truth, self.scales)
            errors = [TapError("", name, error, self.limit(cell.dtype, name)) for name, error in found.items()]
            reached = dataclasses.replace(cell, envelope=self.reach(cell.dtype))
            self.cells[i] = self.judged(reached, [*cell.errors, *errors])
        return self.pairs(dict)


def examples(network: Network, steps: int, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return digits and what they show, (steps, batch, C, H, W) and (steps, batch), the digits under a little noise.

    Flat regions of an image are exact ties of a maximum, which rounding would decide differently in each framework.
    """
    pixels, shown = images.digits()
    channels, height, width = network.input_shape
    classes = reference.describe(network).taps["logits"][-1]
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(pixels), (steps, batch))
    enlarged = images.enlarge(pixels[chosen] / 255, (height, width))[:, :, None]
    return enlarged + 0.1 * generator.standard_normal((steps, batch, channels, height, width)), shown[chosen].astype(
        np.int64
    ) % classes


def envelope(
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    tensors: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    scales: Mapping[str, str],
    seeds: Iterable[int],
    perturb: Callable[[np.random.Generator, np.ndarray], np.ndarray],
) -> dict[str, float]:
    """Return how far `run(tensors)` gets from `truth`, at most, when `tensors` are perturbed, by seed."""
    widest: dict[str, float] = {}
    for seed in seeds:
        generator = np.random.default_rng(seed)
        moved = run({name: perturb(generator, array) for name, array in tensors.items()})
        for name, error in differences(moved, truth, scales).items():
            widest[name] = max(widest.get(name, 0.0), error)
    return widest


def one_ulp(generator: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Return the array with every entry moved to the next number above or below."""
    toward = np.where(generator.random(array.shape) < 0.5, np.inf, -np.inf).astype(array.dtype)
    return np.nextafter(array, toward)


SIXTEEN_ROUNDINGS = 2.0**-20
"""Relative to a number: 16 times what float32 rounds it by."""


def sixteen_roundings(generator: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Return the array with every entry off by about 16 roundings of float32, relative to itself."""
    return array * (1 + SIXTEEN_ROUNDINGS * generator.standard_normal(array.shape))
