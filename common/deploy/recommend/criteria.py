"""What is measured of an execution path, in the units that people read: a megabyte is 10^6 bytes, as pip counts."""

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
    """Something measured: its name, its unit, and what it is of a measurement, None where it was not measured.

    `interval` gives the bounds of its confidence interval, where it has one. `scientific`: it spans powers of ten.
    """

    name: str
    unit: str
    of: Callable[[Measurement], float | None]
    interval: Callable[[Measurement], Interval | None] = lambda _: None
    more_is_better: bool = False
    scientific: bool = False

    def text(self, value: float | None) -> str:
        """Return a value of it as tables show it, without its unit."""
        return f"{value:.1e}" if self.scientific and value is not None else shown(value)

    def phrase(self, value: float | None) -> str:
        """Return a value of it as sentences say it, with its unit where it has one."""
        return f"{self.text(value)} {self.unit}".rstrip()

    @property
    def heading(self) -> str:
        """What stands over a column of it."""
        return f"{self.name} {self.unit}".rstrip()


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _disk(measurement: Measurement) -> float | None:
    """Return the megabytes of what must be installed and of the artifact."""
    if measurement.install_bytes is None:
        return None
    return _megabytes(measurement.install_bytes + (measurement.artifact_bytes or 0))


def _value(interval: Interval | None) -> float | None:
    return None if interval is None else interval.value


LATENCY = Quantity("latency", "ms", lambda found: _value(found.latency_ms), lambda found: found.latency_ms)
P95 = Quantity("p95 latency", "ms", lambda found: found.p95_ms)
MEMORY = Quantity("memory", "MB", lambda found: _megabytes(found.peak_memory_bytes))
DISK = Quantity("installation", "MB", _disk)
COLD = Quantity(
    "cold start", "s", lambda found: None if found.cold_seconds is None else found.cold_seconds.first_answer
)
THROUGHPUT = Quantity(
    "throughput",
    "images/s",
    lambda found: _value(found.images_per_second),
    lambda found: found.images_per_second,
    more_is_better=True,
)
ENERGY = Quantity("energy", "J/image", lambda found: found.energy_joules)
ERROR = Quantity("error", "", lambda found: found.error, scientific=True)

OBJECTIVES: Mapping[Objective, Quantity] = {
    "latency": LATENCY,
    "throughput": THROUGHPUT,
    "memory": MEMORY,
    "size": DISK,
    "cold-start": COLD,
    "energy": ENERGY,
}
AXES = (LATENCY, MEMORY, DISK, COLD)
"""What the Pareto front is over, less of each being better."""


@dataclass(frozen=True)
class Limit:
    """A constraint that is a number: the option that gives it, and what it keeps down."""

    option: str
    quantity: Quantity


LIMITS: Mapping[str, Limit] = {
    "latency_ms": Limit("--latency-ms", P95),
    "memory_mb": Limit("--memory-mb", MEMORY),
    "install_mb": Limit("--install-mb", DISK),
    "error": Limit("--error", ERROR),
}
"""By field of `Constraints`. Of latency it is the 95th percentile: what a deployment can promise."""


def shown(value: float | None) -> str:
    """Return a figure as tables show it: three digits, more where the whole part has more."""
    if value is None:
        return "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"
