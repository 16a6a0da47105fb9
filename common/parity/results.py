"""What a parity run covers and what it finds."""

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
    """What a parity run covers. `limit` is in seconds, for one cell; `jobs` is how many compute at a time.

    `batch` None: two images forward, four in training. `optimizers` None: plain SGD for every network, and all of them
    for those that are small. `isolate`: look at every layer by itself, also where all agree;
    `diagnose`: where they do not.
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
    """One network in one backend, dtype and check. `errors` holds every tap of every input, in network order.

    `variant` is the optimizer of a training run; `envelope` is how far rounding alone takes such a run. Where a cell
    disagrees, `isolated` holds every tap once more, each given the reference's own input, and `findings` what is wrong.
    `basis` says what budgets rest on where it is not measurements of this network at such sizes.
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
        """What has used most of its budget, over all inputs: a tap, a statistic, a gradient, a derivative."""
        return worst(self.errors) if self.errors else None

    @property
    def over_budget(self) -> bool:
        """Whether it agrees, and is yet farther off than rounding was measured to go."""
        return self.status == "agree" and self.worst is not None and self.worst.share > 1

    @property
    def first_divergence(self) -> TapError | None:
        """The first tap that disagrees, over all inputs."""
        order = {tap: i for i, tap in enumerate(dict.fromkeys(error.tap for error in self.errors))}
        return first_divergence(sorted(self.errors, key=lambda error: order[error.tap]))


@dataclass(frozen=True)
class Pair:
    """Two backends compared with each other, the worst tap over all inputs."""

    network: str
    check: Check
    variant: str
    dtype: DTypeName
    backends: tuple[str, str]
    status: str
    worst: TapError


@dataclass
class Report:
    """What a run found; `versions` of the backends that started, `unavailable`: status and reason of the others."""

    settings: Settings
    cells: list[Cell] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    unavailable: dict[str, tuple[str, str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rows(self) -> list[tuple[Check, str, str]]:
        """What was checked, in order: check, network, and of a training run the optimizer."""
        return list(dict.fromkeys((cell.check, cell.network, cell.variant) for cell in self.cells))

    def row(self, check: Check, network: str, variant: str) -> list[Cell]:
        """Return the cells of one of `rows`, by dtype and backend."""
        return [cell for cell in self.cells if (cell.check, cell.network, cell.variant) == (check, network, variant)]

    def summary(self) -> dict[str, int]:
        """Return how many cells have each status."""
        statuses = ("agree", "disagree", "vacuous", "error", "missing")
        return {status: sum(cell.status == status for cell in self.cells) for status in statuses}

    def over_budget(self) -> int:
        """Return how many cells agree, and are yet farther off than rounding was measured to go."""
        return sum(cell.over_budget for cell in self.cells)

    def exit_status(self) -> int:
        """Return 0 where all agree, 1 where something disagrees or could not have, 3 where a backend is missing."""
        counts = self.summary()
        if counts["disagree"] or counts["vacuous"] or any(pair.status != "agree" for pair in self.pairs):
            return 1
        return 3 if counts["error"] or counts["missing"] else 0
