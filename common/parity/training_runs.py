"""The training check: every loss of ten steps, and all weights and the logits after them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import images, reference, weights
from common.catalog import Network
from common.files import map_safetensors
from common.optimizers import OptimizerConfig, OptimizerName, Schedule
from common.parity.comparison import Limit, TapError
from common.parity.gradients import tensor_mismatches
from common.parity.perturbation import differences
from common.parity.results import Cell, Pair
from common.parity.tolerances import MAX_TRAINING_ERROR
from common.parity.training_mode import TrainingModeCase
from common.weights import DTypeName

STEPS = 10
"""Steps of a run."""

_SMALL = ("lenet", "bn_lenet", "bn_lenet_scratch")
"""Networks that also run in float32."""


@dataclass(frozen=True)
class Run:
    """Optimizer and learning-rate schedule of a run; the schedule's base is relative to the rate of plain SGD."""

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
"""One run per optimizer; together they cover every schedule, both kinds of weight decay, and clipping.

Adam's epsilon is larger than usual, because Adam would turn a gradient of mere rounding errors (a bias in front of a
batch norm) into full steps.
"""

LR_SCALE = {"bn_lenet": 0.1, "bn_lenet_scratch": 0.1, "resnet": 1e-3, "resnext": 1e-3, "densenet": 1e-3, "anynet": 1e-4}
"""Factor on the learning rate of networks with batch norm.

At the full rate, ten steps on so few images amplify one rounding error to order one, so that the check proves nothing.
"""


def weight_scales(network: Network) -> dict[str, str]:
    """Return for each bias its layer's weight, which scales its error: biases start at zero."""
    manifest = reference.describe(network).manifest
    return {name: f"{name.removesuffix('.bias')}.weight" for name in manifest if name.endswith(".bias")}


class TrainingCase(TrainingModeCase):
    """The training check: ten steps from the same weights on the same batches.

    If both dtypes are requested, float32 is used only for plain SGD on small networks: in ten steps of a deep network,
    float32 rounding errors grow so far that the check proves little.
    """

    check = "training"

    @property
    def dtypes(self) -> Sequence[DTypeName]:
        dtypes = self.settings.dtypes
        small = self.variant == "sgd" and self.network.name in _SMALL
        return dtypes if small or len(dtypes) == 1 else ("float64",)

    def prepare(self) -> None:
        super().prepare()
        seed = self.settings.seed
        weights.write_initial(self.weights, self.network, "xavier", seed, "float64", durable=False)
        self.scales = weight_scales(self.network)
        self.run = RUNS[self.variant]  # type: ignore[index]  # a variant is an optimizer's name
        batches, labels = examples(self.network, STEPS, self.images, seed)
        self.paths = {"images": self.folder / "images.npy", "labels": self.folder / "labels.npy"}
        np.save(self.paths["images"], batches)
        np.save(self.paths["labels"], labels)
        base = self.network.learning_rate * self.run.schedule.base * LR_SCALE.get(self.network.family, 1)
        schedule = dataclasses.replace(self.run.schedule, base=base)
        self.rates = [schedule.learning_rate(step) for step in range(STEPS)]

    def request(self, name: str, dtype: DTypeName) -> tuple[str, dict[str, Path], dict[str, Any]]:
        details: dict[str, Any] = {key: str(path) for key, path in self.paths.items()}
        details |= {"optimizer": dataclasses.asdict(self.run.optimizer), "learning_rates": self.rates}
        details["seeds"] = [1, 2, 3] if self._measures_spread(name, dtype) else []
        return "train", {"result": self.folder / f"{name}-{dtype}.safetensors"}, details

    def spread_dtypes(self) -> list[tuple[DTypeName, DTypeName]]:
        return [(dtype, dtype) for dtype in self.dtypes]

    def judge(
        self, name: str, dtype: DTypeName, outputs: Mapping[str, Path], answer: Mapping[str, Any]
    ) -> list[TapError]:
        found = map_safetensors(outputs["result"])[1]
        shapes = {key: tensor.shape for key, tensor in self.description.manifest.items()}
        logits = (self.images, *self.description.taps["logits"][1:])
        notes = tensor_mismatches(found, {"loss": (STEPS,), **shapes, "logits": logits}, dtype)
        misfits = [TapError("", key, math.inf, self.limit(dtype, key), note) for key, note in notes.items()]
        self.set_rounding_spread(dtype, answer, misfits)
        return misfits  # `finish` compares the values, once all backends are done

    def max_spread(self, dtype: DTypeName) -> float:
        """Return how far one rounding of the initial weights moves the run; infinite if no backend measured it."""
        return max(self.rounding_spread.get(dtype, {"": math.inf}).values())

    def limit(self, dtype: DTypeName, name: str) -> Limit:
        return self.limits.run(dtype, self.max_spread(dtype))

    def verdict(self, cell: Cell) -> tuple[str, str]:
        status, detail = super().verdict(cell)
        if status != "agree":
            return status, detail
        if cell.rounding_spread is not None and cell.rounding_spread * 10 > MAX_TRAINING_ERROR[cell.dtype]:
            return (
                "vacuous",
                f"rounding alone moves this run by {cell.rounding_spread:.0e}, so that the comparison proves nothing",
            )
        if not self.has_truth and len({name for name, _ in self.outputs}) < 2:
            return "vacuous", "a training run is compared with those of other backends; give two or more"
        return status, detail

    def finish(self) -> list[Pair]:
        truth = self.truth(dict)
        for i, cell in enumerate(self.cells):
            key = (cell.backend, cell.dtype)
            if key not in self.outputs:
                continue
            found = differences(self.read(*key), truth, self.scales)
            errors = [TapError("", name, error, self.limit(cell.dtype, name)) for name, error in found.items()]
            measured = dataclasses.replace(cell, rounding_spread=self.max_spread(cell.dtype))
            self.cells[i] = self.judged(measured, [*cell.errors, *errors])
        return self.pairs(dict)


def examples(network: Network, steps: int, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return batches of digits with some noise, (steps, batch, C, H, W), and their labels, (steps, batch).

    Without noise, flat regions would be exact ties of a max-pool, which rounding decides differently in each framework.
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
