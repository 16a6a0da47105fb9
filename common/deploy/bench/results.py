"""Measurements as they stand in a file: what `rosetta bench` writes, and all else reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from common.choices import Mode

__all__ = ["Cold", "Interval", "Measurement", "Mode", "Run"]

Status = Literal["measured", "wrong", "failed", "missing"]


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its 95% confidence interval, over rounds in fresh processes."""

    value: float
    low: float
    high: float

    def over(self, other: Interval) -> Interval:
        """Return how many times `other` this is, at least and at most what both intervals allow."""
        return Interval(self.value / other.value, self.low / other.high, self.high / other.low)


@dataclass(frozen=True)
class Cold:
    """Seconds from the start of a process to its first answer, and what they go to.

    `imports`: until the runtime is imported. `load`: until weights or artifact are, with what the runtime makes of them
    then. `compile`: what the first answer took beyond a later one. `first_answer`: all of it, from the start,
    with nothing compiled by an earlier process. `again`: the same with what a runtime keeps on disk between processes,
    None where it keeps nothing.
    """

    imports: float
    load: float
    compile: float
    first_answer: float
    again: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What one execution path took for one network, batch and number of threads.

    Its identity is all that stands before `status`. A path whose output is not the reference's is `wrong` and has no
    times. `error` is the largest difference to the reference's logits, relative to the largest of these. Of training,
    times and memory are those of a step. `energy_joules` is for one image, None where the machine does not tell.
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
        """What two measurements of the same thing have in common."""
        config = repr(sorted(self.config.items()))
        return self.network, config, self.path, self.mode, self.device, self.batch, self.threads


@dataclass(frozen=True)
class Run:
    """One run of `rosetta bench`: a file of JSON, or a line of the history.

    `when`: UTC, ISO 8601. `machine`: processor, processors, memory, system, and what it was measured to do at best
    (`matmul_gflops`, `memory_gb_per_s`, by number of threads). `versions`: by environment, of each distribution.
    `settings`: what the command was asked. `interrupted`: before its end, so that rows may have fewer rounds than that,
    and those that had not begun are left out.
    """

    schema: int
    when: str
    machine: dict[str, Any]
    versions: dict[str, Any]
    settings: dict[str, Any]
    measurements: tuple[Measurement, ...]
    interrupted: bool = False
