"""How far rounding takes a network from the truth, as measured, and how far from it anything may therefore be.

What was measured is `budgets.json` beside this file, made by `benchmarks/rounding.py`. It counts roundings, of 2^-53 in
float64 and of 2^-24 in float32, so that one number is a budget in both: what there is to lose in so many layers. A
fast path that is less exact than its dtype, such as TF32, cannot get into it, since it is measured in float64.

A tolerance is ROOM times the budget, or ROOM times what the frameworks themselves were measured to lose in that dtype,
whichever is less: nowhere more than ten times what was seen on the worst seed.
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
    "MAX_TRAINING_ERROR",
    "QUOTIENT",
    "ROUNDING",
    "SAFETY_FACTOR",
    "SIZED",
    "Check",
    "Limits",
    "Measurement",
    "depth_of",
    "depths",
    "measurements",
    "reasons",
]

ROUNDING: Mapping[DTypeName, float] = {"float64": 2.0**-53, "float32": 2.0**-24}
"""Half the distance from 1 to the next number: the largest relative error of one rounding."""

SAFETY_FACTOR = 8
"""How many times as far as was measured on the worst seed anything may be.

Another processor, or another number of threads, adds in another order, and another seed has other extremes.
"""

FLOOR = 1.0
"""Roundings that are always allowed for: that of the one number that is stored. Ten times nothing would be nothing,
and a pooling that is exact on one machine may round on another."""

MAX_TRAINING_ERROR: Mapping[DTypeName, float] = {"float64": 1e-7, "float32": 0.1}
"""Where a training run may be farther off than this by rounding alone, nothing can be told of it."""

CANCELLATION_LIMIT = 1e-10
"""No float64 gradient is farther than this from the others' median, however much of it cancels."""

QUOTIENT = 1e-5
"""No gradient is farther than this from a difference quotient, relative to the largest derivative of its group."""


def depths(description: Description) -> dict[str, int]:
    """Return how many layers with weights have run when each tap is computed, itself included."""
    depth, result = 0, {}
    for call in description.calls:
        depth += call.parameters > 0
        if call.path in description.taps:
            result[call.path] = depth
    result["logits"] = depth
    return result


def depth_of(name: str, by_tap: Mapping[str, int]) -> int:
    """Return the depth of a tap, or of a statistic of one; what is neither, as the loss, comes after all."""
    layer = name.rpartition(".")[0] if ".running_" in name else name
    return by_tap.get(layer, by_tap["logits"])


@dataclass(frozen=True)
class Measurement:
    """What rounding was measured to do to one network in one check, on the worst seed and size, in any framework.

    `budget` is by depth and in roundings: what float64 loses where every sum is added term by term and everything that
    goes in has been rounded, or a framework in float64, whichever is more. `taps` is what the frameworks lose in each
    dtype, `gradient` the same of gradients. `derivative` is an error of a difference quotient, and `run` how many times
    as far as one rounding of its first weights a training run gets. `numbers`: the fewest and the most in an image, or
    in training, where sums run over the batch, in all of its `images`.
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
    """Return what was measured in a check, network by network."""
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


SIZED = ("num_classes", "in_channels", "input_size", "dropout")
"""Settings that leave the architecture what it is; how much the sizes matter is for `Limits` to say."""


def _architecture(network: Network) -> tuple[str, str]:
    settings = {name: value for name, value in network.settings().items() if name not in SIZED}
    return network.family, json.dumps(settings)


def _widest(steps: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Return the most of several that are by depth, at each depth that one of them names."""
    steps = list(steps)
    places = sorted(set(itertools.chain.from_iterable(steps)))
    return {depth: max(_at(one, depth) for one in steps if one) for depth in places}


def _worst(entries: Iterable[Mapping[DTypeName, float]]) -> dict[DTypeName, float]:
    """Return the most of several in each dtype in which any was measured."""
    found: dict[DTypeName, float] = {}
    for entry in entries:
        for dtype, value in entry.items():
            found[dtype] = max(found.get(dtype, 0.0), value)
    return found


@functools.cache
def _of_any(check: Check, family: str) -> Measurement:
    """Return the worst of all networks by depth; of gradients and runs, which have none, that of the same family."""
    found = measurements(check)
    kin = [one for one in found if one.network.family == family] or found
    return Measurement(
        found[0].network,
        (min(one.numbers[0] for one in found), max(one.numbers[1] for one in found)),
        max(one.images for one in found),
        _widest(one.budget for one in found),
        {dtype: _widest(one.taps[dtype] for one in found) for dtype in ROUNDING},
        _worst(one.gradient for one in kin),
        max(one.derivative for one in found),
        _worst(one.run for one in kin),
    )


def _at(steps: Mapping[int, float], depth: int) -> float:
    """Return what was measured at a depth, or behind the last one at which it grew; 0 before the first."""
    return max((roundings for place, roundings in steps.items() if place <= depth), default=0.0)


def reasons() -> dict[Check, str]:
    """Return what stands behind the tolerances of each check, with the numbers that were measured."""

    def lost(check: Check, dtype: DTypeName) -> str:
        return f"{max(max(one.taps[dtype].values()) for one in measurements(check)):.0f}"

    gradients = measurements("gradients")
    farthest = [max(one.run.values()) for one in measurements("training")]
    deepest = sorted(max(one.budget.values()) for one in measurements("forward"))
    return {
        "forward": f"Frameworks lost at most {lost('forward', 'float64')} roundings in float64 and "
        f"{lost('forward', 'float32')} in float32. Adding every sum term by term there are {deepest[0]:.0f} to "
        f"{deepest[-1]:.0f} to lose, by the network, and in each the fewest behind its first layers.",
        "gradients": "A batch norm over few values magnifies what rounding did before it: "
        f"{lost('gradients', 'float64')} roundings were lost at a tap. A gradient that all but cancels has errors that "
        f"are large for its size: up to {max(one.gradient['float64'] for one in gradients):,.0f}. It may go as far as "
        "16 roundings of all that goes in take it, which is tried in the same run; in float32 as far as any goes, "
        "since where they decide a rectifier or a maximum otherwise, it is another. Difference quotients were off by "
        f"up to {max(one.derivative for one in gradients):.1e}.",
        "training": "How far one rounding of its first weights takes a run is measured in that run, three times. "
        f"The farthest that a framework was from the others' median is {min(farthest):.1f} to {max(farthest):.1f} "
        "times that, by the network.",
    }


class Limits:
    """How far a network may be from the truth in one check, on so many images at a time.

    `basis` says what the limits rest on where it is not measurements of this very architecture at such sizes.
    """

    def __init__(self, check: Check, network: Network, images: int) -> None:
        self.depths = depths(reference.describe(network))
        architecture = _architecture(network)
        own = [one for one in measurements(check) if _architecture(one.network) == architecture]
        self.measured = own[0] if own else _of_any(check, network.family)
        said = [] if own else ["the worst of all networks by depth, since nothing was measured of this architecture"]
        self.wider = 1.0 if check == "training" else self._widened(check, network, images)
        if self.wider > 1:
            said.append(f"{self.wider:.2g} times what was measured at other sizes")
        self.basis = "; ".join(said)

    def _widened(self, check: Check, network: Network, images: int) -> float:
        """Return how many times as much as was measured there is to lose at sizes that were not.

        What there is in a training run is measured in that run.
        """
        fewest, most = self.measured.numbers
        numbers = math.prod(network.input_shape) * (images if check == "gradients" else 1)
        # Where sums over an image, or in training over a batch, are longer, roundings go on as a random walk.
        longer = math.sqrt(max(numbers / most, 1.0))
        if check == "forward":
            return longer
        # A batch norm over fewer values divides by what is left of their differences: in bn_lenet, 2 images in place
        # of 4 lose 16 times as much.
        return longer * max(fewest / numbers, self.measured.images / images, 1.0) ** 4

    def _limit(self, dtype: DTypeName, budget: float, measured: float) -> Limit:
        """Return the limit of a float64 measurement, in roundings, where in a dtype so much was measured."""
        rounding = ROUNDING[dtype] * self.wider
        return Limit(rounding * max(budget, FLOOR), SAFETY_FACTOR * rounding * max(min(budget, measured), FLOOR))

    def tap(self, name: str, dtype: DTypeName) -> Limit:
        """Return the limit of a tap, or of a statistic of one; of what is neither, that of the logits."""
        depth = depth_of(name, self.depths)
        limit = self._limit(dtype, _at(self.measured.budget, depth), _at(self.measured.taps[dtype], depth))
        # Deeper than any that was measured: a random walk goes on.
        return limit * math.sqrt(max(depth / max(self.measured.budget), 1.0))

    def gradient(self, dtype: DTypeName) -> Limit:
        """Return the limit of a gradient's distance from the frameworks' median."""
        # The way back is as long as the way there, and the reference, which could add term by term, knows no way back.
        there_and_back = math.sqrt(2) * max(self.measured.budget.values())
        budget = max(self.measured.gradient["float64"], there_and_back)
        return self._limit(dtype, budget, self.measured.gradient[dtype])

    def derivative(self) -> Limit:
        """Return the limit of a float64 gradient's distance from a difference quotient, the same for all networks.

        It is no rounding but the quotient's own error, largest where a rectifier or a maximum changes over within the
        step: that is rare, and up to the seed more than to the network.
        """
        worst = max(one.derivative for one in measurements("gradients"))
        return Limit(worst, min(SAFETY_FACTOR * worst, QUOTIENT))

    def run(self, dtype: DTypeName, rounding_spread: float) -> Limit:
        """Return the limit of a training run that one rounding of its first weights takes as far as `envelope`."""
        max_spread = max(rounding_spread, ROUNDING[dtype])
        # In both dtypes the most that was measured in either: it counts what is measured anew in each run.
        budget = max(self.measured.run.values())
        measured = self.measured.run.get(dtype, budget)  # deep networks learn in float64 alone
        tolerance = min(SAFETY_FACTOR * min(budget, measured) * max_spread, MAX_TRAINING_ERROR[dtype])
        return Limit(min(budget * max_spread, tolerance), tolerance)
