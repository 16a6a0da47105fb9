"""Benchmark results, as `rosetta bench` writes them to JSON and the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from common.choices import Mode

__all__ = ["SCHEMA", "Cold", "Interval", "Measurement", "Mode", "Run", "Status"]

SCHEMA = 1
"""Version of the JSON."""


Status = Literal["measured", "wrong", "failed", "missing"]


@dataclass(frozen=True)
class Interval:
    """A value and its 95% confidence interval over rounds."""

    value: float
    low: float
    high: float

    def over(self, other: Interval) -> Interval:
        """Return the ratio to `other`; its bounds are the extremes that both intervals allow."""
        return Interval(self.value / other.value, self.low / other.high, self.high / other.low)


@dataclass(frozen=True)
class Cold:
    """Cold start: seconds from the start of a process to its first output, and its parts.

    `imports`: until the runtime is imported. `load`: reading and preparing the weights or the artifact. `compile`: how
    much longer the first call took than the median later call. `first_answer`: the total, with empty compilation
    caches. `again`: the total with warm caches; None where the runtime caches nothing on disk.
    """

    imports: float
    load: float
    compile: float
    first_answer: float
    again: float | None = None


@dataclass(frozen=True)
class Measurement:
    """The cost of one execution path for one network, batch and number of threads.

    The fields before `status` identify it. `wrong`: its output is not within `tolerance` of the reference, and it was
    not timed. `error` is the largest difference from the reference's logits, relative to the largest of them. In
    training mode, times and memory are those of one step. `energy_joules` is per image, None where the machine does
    not report energy.
    """

    network: str
    config: dict[str, Any]
    path: str
    mode: Mode
    device: str
    batch: int
    threads: int
    status: Status
    message: str = ""
    error: float | None = None
    tolerance: float | None = None
    latency_ms: Interval | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    images_per_second: Interval | None = None
    peak_memory_bytes: int | None = None
    cold_seconds: Cold | None = None
    energy_joules: float | None = None
    artifact_bytes: int | None = None
    install_bytes: int | None = None
    rounds: int = 0
    samples: int = 0

    @property
    def key(self) -> tuple[str, str, str, str, str, int, int]:
        """The identity of what was measured: equal for two measurements of the same thing."""
        config = repr(sorted(self.config.items()))
        return self.network, config, self.path, self.mode, self.device, self.batch, self.threads


@dataclass(frozen=True)
class Run:
    """One run of `rosetta bench`: a JSON file, or one line of the history.

    `when`: UTC, ISO 8601. `machine`: processor, processors, memory, system, and its measured peaks (`matmul_gflops`,
    `memory_gb_per_s`, by number of threads). `versions`: of each distribution, by environment. `settings`: the
    command's options. `interrupted`: it was stopped early, so rows may have fewer rounds, and rows that had not
    started are absent.
    """

    schema: int
    when: str
    machine: dict[str, Any]
    versions: dict[str, Any]
    settings: dict[str, Any]
    measurements: tuple[Measurement, ...]
    interrupted: bool = False
