"""Tolerances: how far each tap and gradient may be from the truth, computed from measured rounding errors.

The measurements are in `budgets.json` beside this file, written by `benchmarks/rounding.py`. Their unit is the largest
rounding error of the dtype, 2^-53 in float64 and 2^-24 in float32, so that one budget serves for both. Budgets are
measured in float64, so that a fast path of lower precision, such as TF32, cannot enlarge them.

A tolerance is SAFETY_FACTOR times the smaller of two numbers: the budget, and the largest error of any framework in
that dtype.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common import catalog, reference
from common.catalog import Network
from common.choices import Check, DTypeName
from common.parity.comparison import Limit
from common.reference import Description

__all__ = [
    "CANCELLATION_LIMIT",
    "FLOOR",
    "MAX_QUOTIENT_ERROR",
    "MAX_TRAINING_ERROR",
    "ROUNDING",
    "SAFETY_FACTOR",
    "SIZE_SETTINGS",
    "Check",
    "Limits",
    "Measurement",
    "depth_of",
    "depths",
    "measurements",
    "reasons",
]

ROUNDING: Mapping[DTypeName, float] = {"float64": 2.0**-53, "float32": 2.0**-24}
"""The largest relative error of one rounding: half the distance from 1 to the next number."""

SAFETY_FACTOR = 8
"""Tolerances are this many times the largest measured error.

Other processors and numbers of threads add in another order, and other seeds have other extremes.
"""

FLOOR = 1.0
"""The smallest budget, in roundings: a pooling that is exact on one machine may round on another."""

MAX_TRAINING_ERROR: Mapping[DTypeName, float] = {"float64": 1e-7, "float32": 0.1}
"""The largest tolerance of a training run. If rounding alone comes within a tenth of it, the cell is vacuous."""

CANCELLATION_LIMIT = 1e-10
"""The largest error allowed for a float64 gradient whose terms cancel."""

MAX_QUOTIENT_ERROR = 1e-5
"""The largest error allowed of a derivative, relative to the largest derivative of its group."""


def depths(description: Description) -> dict[str, int]:
    """Return the number of layers with weights up to and including each tap."""
    depth, result = 0, {}
    for call in description.calls:
        depth += call.parameters > 0
        if call.path in description.taps:
            result[call.path] = depth
    result["logits"] = depth
    return result


def depth_of(name: str, by_tap: Mapping[str, int]) -> int:
    """Return the depth of a tap or of its running statistic; anything else, such as the loss, has the last depth."""
    layer = name.rpartition(".")[0] if ".running_" in name else name
    return by_tap.get(layer, by_tap["logits"])


@dataclass(frozen=True)
class Measurement:
    """Largest rounding errors of one network in one check, over seeds, sizes and frameworks, in roundings.

    `budget`, by depth: the error in float64 if every sum is added term by term and all inputs are rounded, or that of a
    framework in float64 if larger. `taps`, by dtype and depth: the largest error of the frameworks; `gradient`: the
    same for gradients. `derivative`: error of a difference quotient. `run`: error of a training run as a multiple of
    the effect of one rounding of its initial weights. `numbers`: the smallest and largest input measured, counted in
    numbers per image, or per batch of `images` in training.
    """

    network: Network
    numbers: tuple[int, int]
    images: int
    budget: Mapping[int, float] = dataclasses.field(default_factory=dict)
    taps: Mapping[DTypeName, Mapping[int, float]] = dataclasses.field(default_factory=dict)
    gradient: Mapping[DTypeName, float] = dataclasses.field(default_factory=dict)
    derivative: float = 0.0
    run: Mapping[DTypeName, float] = dataclasses.field(default_factory=dict)


def _by_depth(entry: Mapping[str, float]) -> dict[int, float]:
    return {int(depth): roundings for depth, roundings in entry.items()}


@functools.cache
def _data() -> dict[str, Any]:
    source = importlib.resources.files("common.parity").joinpath("budgets.json")
    return json.loads(source.read_text(encoding="utf-8"))


@functools.cache
def measurements(check: Check) -> tuple[Measurement, ...]:
    """Return the measurements of a check, one per network."""
    return tuple(
        Measurement(
            catalog.get(entry["network"], **entry["config"]),
            tuple(entry.get("numbers", (0, 0))),
            entry.get("images", 1),
            _by_depth(entry.get("budget", {})),
            {dtype: _by_depth(entry.get("taps", {}).get(dtype, {})) for dtype in ROUNDING},
            entry.get("gradient", {}),
            entry.get("derivative", 0.0),
            entry.get("run", {}),
        )
        for entry in _data()[check]
    )


SIZE_SETTINGS = ("num_classes", "in_channels", "input_size", "dropout")
"""Settings that do not change the architecture. `Limits` accounts for sizes."""


def _architecture(network: Network) -> tuple[str, str]:
    settings = {name: value for name, value in network.settings().items() if name not in SIZE_SETTINGS}
    return network.family, json.dumps(settings)


def _max_by_depth(steps: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Return the maximum of several measurements at each depth that any of them has."""
    steps = list(steps)
    places = sorted(set(itertools.chain.from_iterable(steps)))
    return {depth: max(_at_depth(one, depth) for one in steps if one) for depth in places}


def _max_by_dtype(entries: Iterable[Mapping[DTypeName, float]]) -> dict[DTypeName, float]:
    """Return the maximum of several measurements for each dtype."""
    found: dict[DTypeName, float] = {}
    for entry in entries:
        for dtype, value in entry.items():
            found[dtype] = max(found.get(dtype, 0.0), value)
    return found


@functools.cache
def _fallback(check: Check, family: str) -> Measurement:
    """Return the largest errors of all networks by depth; of gradients and runs, the largest of the family."""
    found = measurements(check)
    same_family = [one for one in found if one.network.family == family] or found
    return Measurement(
        found[0].network,
        (min(one.numbers[0] for one in found), max(one.numbers[1] for one in found)),
        max(one.images for one in found),
        _max_by_depth(one.budget for one in found),
        {dtype: _max_by_depth(one.taps[dtype] for one in found) for dtype in ROUNDING},
        _max_by_dtype(one.gradient for one in same_family),
        max(one.derivative for one in found),
        _max_by_dtype(one.run for one in same_family),
    )


def _at_depth(steps: Mapping[int, float], depth: int) -> float:
    """Return the largest measurement up to a depth; 0 if there is none."""
    return max((roundings for place, roundings in steps.items() if place <= depth), default=0.0)


def reasons() -> dict[Check, str]:
    """Return one paragraph per check that explains its tolerances with the measured numbers."""

    def largest(check: Check, dtype: DTypeName) -> str:
        return f"{max(max(one.taps[dtype].values()) for one in measurements(check)):.0f}"

    gradients = measurements("gradients")
    farthest = [max(one.run.values()) for one in measurements("training")]
    deepest = sorted(max(one.budget.values()) for one in measurements("forward"))
    return {
        "forward": f"The frameworks were off by at most {largest('forward', 'float64')} roundings in float64 and "
        f"{largest('forward', 'float32')} in float32. Adding every sum term by term gives up to "
        f"{deepest[0]:.0f} to {deepest[-1]:.0f} roundings, depending on the network; errors grow with depth.",
        "gradients": "A batch norm over few values amplifies earlier rounding errors: taps were off by up to "
        f"{largest('gradients', 'float64')} roundings. A gradient whose terms cancel has a large relative error: up to "
        f"{max(one.gradient['float64'] for one in gradients):,.0f} roundings. Each run therefore also measures the "
        "effect of 16 roundings of all inputs on each gradient, and allows as much. In float32 the largest effect on "
        "any gradient counts, since rounding may switch a ReLU or the maximum of a pool. Difference quotients were off "
        f"by up to {max(one.derivative for one in gradients):.1e}.",
        "training": "Each run measures three times how far one rounding of the initial weights moves it. The "
        f"frameworks were at most {min(farthest):.1f} to {max(farthest):.1f} times as far from their median, depending "
        "on the network.",
    }


class Limits:
    """Limits of a network's errors in one check, for inputs of this number of images.

    `basis` says where the limits come from if this architecture was not measured at such sizes.
    """

    def __init__(self, check: Check, network: Network, images: int) -> None:
        self.depths = depths(reference.describe(network))
        architecture = _architecture(network)
        own = [one for one in measurements(check) if _architecture(one.network) == architecture]
        self.measured = own[0] if own else _fallback(check, network.family)
        notes = [] if own else ["the largest errors of all networks by depth, since this architecture was not measured"]
        self.widening = 1.0 if check == "training" else self._widening(check, network, images)
        if self.widening > 1:
            notes.append(f"{self.widening:.2g} times the errors measured at other sizes")
        self.basis = "; ".join(notes)

    def _widening(self, check: Check, network: Network, images: int) -> float:
        """Return the factor on the measured errors for larger or smaller inputs than those measured."""
        fewest, most = self.measured.numbers
        numbers = math.prod(network.input_shape) * (images if check == "gradients" else 1)
        # Rounding errors of longer sums, over an image or a training batch, grow like a random walk.
        longer = math.sqrt(max(numbers / most, 1.0))
        if check == "forward":
            return longer
        # A batch norm over fewer values amplifies errors: in bn_lenet, 2 images instead of 4 give 16 times the error.
        return longer * max(fewest / numbers, self.measured.images / images, 1.0) ** 4

    def _limit(self, dtype: DTypeName, budget: float, measured: float) -> Limit:
        """Return the limit in a dtype, from the budget and the largest measured error, both in roundings."""
        rounding = ROUNDING[dtype] * self.widening
        return Limit(rounding * max(budget, FLOOR), SAFETY_FACTOR * rounding * max(min(budget, measured), FLOOR))

    def tap(self, name: str, dtype: DTypeName) -> Limit:
        """Return the limit of a tap or of its running statistic; anything else has the limit of the logits."""
        depth = depth_of(name, self.depths)
        limit = self._limit(dtype, _at_depth(self.measured.budget, depth), _at_depth(self.measured.taps[dtype], depth))
        # Beyond the measured depth, errors grow like a random walk.
        return limit * math.sqrt(max(depth / max(self.measured.budget), 1.0))

    def gradient(self, dtype: DTypeName) -> Limit:
        """Return the limit of a gradient's distance from the frameworks' median."""
        # The backward pass is as long as the forward pass, but the reference, which adds term by term, has none.
        there_and_back = math.sqrt(2) * max(self.measured.budget.values())
        budget = max(self.measured.gradient["float64"], there_and_back)
        return self._limit(dtype, budget, self.measured.gradient[dtype])

    def derivative(self) -> Limit:
        """Return the limit of the distance between a float64 gradient and a difference quotient, for all networks.

        This is the error of the quotient, not of rounding. It is largest where a ReLU or the maximum of a pool switches
        within the step, which depends on the seed more than on the network.
        """
        worst = max(one.derivative for one in measurements("gradients"))
        return Limit(worst, min(SAFETY_FACTOR * worst, MAX_QUOTIENT_ERROR))

    def run(self, dtype: DTypeName, rounding_spread: float) -> Limit:
        """Return the limit of a training run that one rounding of its initial weights moves by `rounding_spread`."""
        max_spread = max(rounding_spread, ROUNDING[dtype])
        # The larger of both dtypes, because it is a multiple of the spread, which each run measures itself.
        budget = max(self.measured.run.values())
        measured = self.measured.run.get(dtype, budget)  # deep networks run in float64 only
        tolerance = min(SAFETY_FACTOR * min(budget, measured) * max_spread, MAX_TRAINING_ERROR[dtype])
        return Limit(min(budget * max_spread, tolerance), tolerance)
