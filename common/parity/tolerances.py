"""How far from the reference an activation may be: one table, each value with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.reference import Description
from common.weights import DTypeName

__all__ = ["TOLERANCES", "Check", "Tolerance", "depths"]

Check = Literal["forward", "gradients", "training"]


@dataclass(frozen=True)
class Tolerance:
    """The largest error allowed at a tap, relative to the tap's largest value: `base * sqrt(min(depth, layers))`.

    The roundings of successive layers add up as the steps of a random walk do, until as much is lost as is added.
    """

    base: float
    layers: int
    reason: str

    def at(self, depth: int) -> float:
        """Return the tolerance behind `depth` layers with weights."""
        return self.base * math.sqrt(min(depth, self.layers))


TOLERANCES: Mapping[tuple[Check, DTypeName], Tolerance] = {
    ("forward", "float64"): Tolerance(
        1e-11,
        1,
        "What rounding does in float64 was measured as at most 76 roundings, 8.5e-15, in any network, framework and "
        "size. The smallest mistake worth the name, another epsilon in one batch normalisation, makes over 1e-6. "
        "The tolerance lies between the two, three orders of magnitude from the one and five from the other.",
    ),
    ("forward", "float32"): Tolerance(
        100 * 2.0**-24,
        8,
        "In roundings of 2^-24, the worst measured was 20 behind one layer with weights, 42 behind two, 60 behind "
        "eight, and at most 77 behind any number (nin, 11 layers); float64 does the same in its own roundings. Allowed "
        "are 100 behind one layer to 283 behind eight or more: about four times the worst, for processors that add in "
        "another order. `benchmarks/rounding.py --seeds 2` measures it over four frameworks and three sizes.",
    ),
    ("gradients", "float64"): Tolerance(
        1e-11,
        1,
        "In training mode, as forward: a batch norm over few values magnifies rounding, and it stays far below.",
    ),
    ("gradients", "float32"): Tolerance(
        400 * 2.0**-24,
        8,
        "In training mode, as forward; but a batch norm over few values magnifies what rounding did before it.",
    ),
    ("training", "float64"): Tolerance(
        1e-7,
        1,
        "At most; a run is held to 100 times as far as it gets when its first weights are one unit in the last place "
        "off, which is measured in the same run, over three seeds.",
    ),
    ("training", "float32"): Tolerance(
        0.1, 1, "At most; held to 100 times what one unit in the last place makes, as in float64."
    ),
}


def depths(description: Description) -> dict[str, int]:
    """Return how many layers with weights have run when each tap is computed, itself included."""
    depth, result = 0, {}
    for call in description.calls:
        depth += call.parameters > 0
        if call.path in description.taps:
            result[call.path] = depth
    result["logits"] = depth
    return result
