"""The criteria that execution paths are compared by: name, unit and value of each. A megabyte is 10^6 bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.choices import Objective
from common.deploy.bench.results import Interval, Measurement

__all__ = [
    "AXES",
    "COLD",
    "DISK",
    "ENERGY",
    "ERROR",
    "LATENCY",
    "LIMITS",
    "MEMORY",
    "OBJECTIVES",
    "P95",
    "THROUGHPUT",
    "Limit",
    "Objective",
    "Quantity",
    "shown",
]


@dataclass(frozen=True)
class Quantity:
    """A measured quantity. `of`: its value in a measurement, None if it was not measured.

    `interval`: its confidence interval, None if it has none. `scientific`: shown with an exponent.
    """

    name: str
    unit: str
    of: Callable[[Measurement], float | None]
    interval: Callable[[Measurement], Interval | None] = lambda _: None
    more_is_better: bool = False
    scientific: bool = False

    def text(self, value: float | None) -> str:
        """Return a value as tables show it, without the unit."""
        return f"{value:.1e}" if self.scientific and value is not None else shown(value)

    def phrase(self, value: float | None) -> str:
        """Return a value with its unit, for sentences."""
        return f"{self.text(value)} {self.unit}".rstrip()

    @property
    def heading(self) -> str:
        """The heading of its column."""
        return f"{self.name} {self.unit}".rstrip()


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _disk(measurement: Measurement) -> float | None:
    """Return the megabytes of the installed packages and the artifact."""
    if measurement.install_bytes is None:
        return None
    return _megabytes(measurement.install_bytes + (measurement.artifact_bytes or 0))


def _value(interval: Interval | None) -> float | None:
    return None if interval is None else interval.value


LATENCY = Quantity("latency", "ms", lambda one: _value(one.latency_ms), lambda one: one.latency_ms)
P95 = Quantity("p95 latency", "ms", lambda one: one.p95_ms)
MEMORY = Quantity("memory", "MB", lambda one: _megabytes(one.peak_memory_bytes))
DISK = Quantity("installation", "MB", _disk)
COLD = Quantity("cold start", "s", lambda one: None if one.cold_seconds is None else one.cold_seconds.first_answer)
THROUGHPUT = Quantity(
    "throughput",
    "images/s",
    lambda one: _value(one.images_per_second),
    lambda one: one.images_per_second,
    more_is_better=True,
)
ENERGY = Quantity("energy", "J/image", lambda one: one.energy_joules)
ERROR = Quantity("error", "", lambda one: one.error, scientific=True)

OBJECTIVES: Mapping[Objective, Quantity] = {
    "latency": LATENCY,
    "throughput": THROUGHPUT,
    "memory": MEMORY,
    "size": DISK,
    "cold-start": COLD,
    "energy": ENERGY,
}
AXES = (LATENCY, MEMORY, DISK, COLD)
"""The quantities of the Pareto front; less is better for each."""


@dataclass(frozen=True)
class Limit:
    """A numeric constraint: its option, and the quantity whose value it limits."""

    option: str
    quantity: Quantity


LIMITS: Mapping[str, Limit] = {
    "latency_ms": Limit("--latency-ms", P95),
    "memory_mb": Limit("--memory-mb", MEMORY),
    "install_mb": Limit("--install-mb", DISK),
    "error": Limit("--error", ERROR),
}
"""By field of `Constraints`. Latency is limited at its 95th percentile."""


def shown(value: float | None) -> str:
    """Return a number with three significant digits, more if its integer part has more; a dash for None."""
    if value is None:
        return "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"
