"""Settings and results of a parity run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.catalog import Network
from common.optimizers import OptimizerName
from common.parity.comparison import TapError, first_divergence, worst
from common.parity.tolerances import Check
from common.system import processors
from common.weights import DTypeName

__all__ = ["Cell", "Pair", "Report", "Settings"]


@dataclass(frozen=True)
class Settings:
    """Settings of a parity run.

    `batch`: images per input; None means two for the forward check and four for the training checks. `limit`: seconds
    allowed for one cell. `jobs`: how many workers compute at the same time. `optimizers`: None means plain SGD for
    every network and all optimizers for small ones. `diagnose` runs each layer in isolation if a cell differs,
    `isolate` always.
    """

    networks: Sequence[Network]
    backends: Sequence[str]
    checks: Sequence[Check] = ("forward",)
    dtypes: Sequence[DTypeName] = ("float64", "float32")
    batch: int | None = None
    seed: int = 0
    limit: float = 600
    jobs: int = field(default_factory=processors)
    optimizers: Sequence[OptimizerName] | None = None
    isolate: bool = False
    diagnose: bool = True


@dataclass(frozen=True)
class Cell:
    """Result of one network in one backend, dtype and check.

    `errors`: every tap of every input, in network order. `variant`: the optimizer of a training run.
    `rounding_spread`: how far rounding alone moves that run. `isolated`: errors of the layers, each given the
    reference's input; `findings`: what is wrong with them, in words. `basis`: where the tolerances come from if this
    network was not measured at this size.
    """

    network: str
    check: Check
    variant: str
    dtype: DTypeName
    backend: str
    status: str
    detail: str = ""
    errors: tuple[TapError, ...] = ()
    seconds: float = 0.0
    peak_bytes: int = 0
    rounding_spread: float | None = None
    isolated: tuple[TapError, ...] = ()
    findings: tuple[str, ...] = ()
    basis: str = ""

    @property
    def worst(self) -> TapError | None:
        """The error that uses the largest share of its tolerance, over all inputs."""
        return worst(self.errors) if self.errors else None

    @property
    def close(self) -> bool:
        """True if the cell passes but an error uses more than half of its tolerance."""
        return self.status == "agree" and any(error.close for error in self.errors)

    @property
    def first_divergence(self) -> TapError | None:
        """The first error above its tolerance in network order, over all inputs."""
        order = {tap: i for i, tap in enumerate(dict.fromkeys(error.tap for error in self.errors))}
        return first_divergence(sorted(self.errors, key=lambda error: order[error.tap]))


@dataclass(frozen=True)
class Pair:
    """Result of comparing two backends with each other; `worst` is taken over all taps and inputs."""

    network: str
    check: Check
    variant: str
    dtype: DTypeName
    backends: tuple[str, str]
    status: str
    worst: TapError


@dataclass
class Report:
    """Results of a parity run.

    `versions`: those of each backend that started. `unavailable`: status and reason of each one that did not.
    """

    settings: Settings
    cells: list[Cell] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    unavailable: dict[str, tuple[str, str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rows(self) -> list[tuple[Check, str, str]]:
        """The rows of the tables, in order: check, network, and optimizer of a training run."""
        return list(dict.fromkeys((cell.check, cell.network, cell.variant) for cell in self.cells))

    def row(self, check: Check, network: str, variant: str) -> list[Cell]:
        """Return the cells of one of `rows`."""
        return [cell for cell in self.cells if (cell.check, cell.network, cell.variant) == (check, network, variant)]

    def summary(self) -> dict[str, int]:
        """Return how many cells have each status."""
        statuses = ("agree", "disagree", "vacuous", "error", "missing")
        return {status: sum(cell.status == status for cell in self.cells) for status in statuses}

    @property
    def close(self) -> int:
        """The number of cells that pass but use more than half of their tolerance."""
        return sum(cell.close for cell in self.cells)

    def exit_status(self) -> int:
        """Return 0 if all cells pass, 1 if any differs or is vacuous, 3 if a backend is missing or failed."""
        counts = self.summary()
        if counts["disagree"] or counts["vacuous"] or any(pair.status != "agree" for pair in self.pairs):
            return 1
        return 3 if counts["error"] or counts["missing"] else 0
