"""Run parity's checks on each mutant until one finds it."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.backends.processes import Worker, join
from common.catalog import Network
from common.errors import RosettaError
from common.mutants.generic import Mutant
from common.parity.cases import Case, ForwardCase
from common.parity.comparison import TapError, first_divergence
from common.parity.gradients import GradientCase
from common.parity.patched_import import source
from common.parity.perturbation import differences
from common.parity.results import Cell, Settings
from common.parity.training_runs import TrainingCase
from common.reference import describe
from common.system import processors

__all__ = ["Outcome", "run", "sample"]

Status = Literal["killed", "survived", "equivalent", "missing"]


@dataclass(frozen=True)
class Outcome:
    """Result of a mutant.

    `check`: the check that killed it, "build" if building the model or loading its weights raised an error. `tap` and
    `error`: the first error above its tolerance, infinite if the tensors cannot be compared. `named`: whether `tap` is
    where the mistake is; None if the mistake has no known place.
    """

    mutant: Mutant
    status: Status
    check: str = ""
    tap: str = ""
    named: bool | None = None
    detail: str = ""
    error: float | None = None


def sample(mutants: Iterable[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return `count` random mutants of each kind, in their order."""
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_kind.setdefault(mutant.kind, []).append(mutant)
    chosen: list[Mutant] = []
    for members in by_kind.values():
        picked = random.Random(seed).sample(range(len(members)), min(count, len(members)))  # noqa: S311
        chosen += [members[i] for i in sorted(picked)]
    return chosen


class _NetworkChecks:
    """The checks of one network in one backend, with the results of the unchanged port."""

    def __init__(self, worker: Worker, backend: str, network: Network, folder: Path) -> None:
        self.worker, self.backend, self.network = worker, backend, network
        settings = Settings([network], [backend], dtypes=("float64",), diagnose=False)
        self.cases: list[Case] = [ForwardCase(network, settings, folder / "forward")]
        self.cases.append(GradientCase(network, settings, folder / "gradients"))
        runs = ("adam", "adamw") if network.name in ("lenet", "bn_lenet") else ("sgd",)
        self.cases += [TrainingCase(network, settings, folder / name, name) for name in runs]
        self.clean: dict[str, dict[str, np.ndarray]] = {}
        self.ready = 0
        self.failed: RosettaError | None = None
        self.own = self._owners()

    def _owners(self) -> dict[str, list[str]]:
        """Return the paths of each class of the port."""
        self.worker.ask("mutate", edits=[])  # remove the previous mutant
        request = {"network": self.network.name, "config": self.network.settings(), "dtype": "float32"}
        found: dict[str, list[str]] = {}
        for call in self.worker.ask("summary", **request)["calls"]:
            found.setdefault(call["own"], []).append(call["path"])
        return found

    def checks(self) -> Iterable[tuple[Case, Callable[[], list[TapError] | RosettaError]]]:
        """Iterate over the checks, each prepared with the unchanged port when first needed."""
        for i, case in enumerate(self.cases):
            if i == self.ready:
                try:
                    self._prepare(case)
                except RosettaError as error:
                    self.failed = self.failed or error
                    raise
                self.ready += 1
            yield case, lambda case=case: self._errors(case)  # type: ignore[misc]

    def _prepare(self, case: Case) -> None:
        """Run a check of the unchanged port. Raises RosettaError, now and on later calls, if it does not pass."""
        if self.failed is not None:
            raise self.failed
        self.worker.ask("mutate", edits=[])
        case.prepare()
        cell = self._cell(case)
        if isinstance(cell, RosettaError):
            raise cell
        if cell.status in ("error", "disagree") or first_divergence(cell.errors) is not None:
            raise RosettaError(f"{case.check} of {self.network.name} in {self.backend} fails without a mutant")
        if isinstance(case, GradientCase | TrainingCase):
            self.clean[case.check + case.variant] = {
                name: array.copy() for name, array in case.read(self.backend, "float64").items()
            }

    def _cell(self, case: Case) -> Cell | RosettaError:
        cell = case.cell(self.worker, self.backend, "float64")
        return RosettaError(cell.detail) if cell.status == "error" else cell

    def _errors(self, case: Case) -> list[TapError] | RosettaError:
        """Return the errors of one check above their tolerance, with the mutant in place."""
        cell = self._cell(case)
        if isinstance(cell, RosettaError):
            return cell
        errors = list(cell.errors)
        if isinstance(case, GradientCase | TrainingCase):
            # The unchanged port stands in for the other frameworks, with which parity compares.
            right = self.clean[case.check + case.variant]
            found = differences(case.read(self.backend, "float64"), right, case.scales)
            errors += [
                TapError("unchanged port", name, error, case.limit("float64", name)) for name, error in found.items()
            ]
        return [error for error in errors if not error.agrees]

    def expected(self, mutant: Mutant) -> set[str]:
        """Return the taps at which a mutant may first be seen; empty if it changed no particular part."""
        taps = list(describe(self.network).taps)
        if mutant.taps:
            return set(mutant.taps)
        inside: set[str] = set()
        for owner in self.own.get(mutant.owner, []):
            if not owner and not mutant.attribute:
                continue
            prefix = f"{owner}." if owner else ""
            of_layer = f"{prefix}{mutant.attribute}" if mutant.attribute else owner
            places = [tap for tap in taps if tap == of_layer or tap.startswith(f"{of_layer}.")]
            if not places or (not mutant.attribute and of_layer not in taps):
                # An activation or reshaping without a tap shows in the next tap.
                order = [call.path for call in describe(self.network).calls]
                after = order[order.index(of_layer) + 1 :] if of_layer in order else []
                places += next(([path] for path in after if path in taps), [])
                # At the end of a branch, that is the block that joins the branches.
                places += [tap for tap in reversed(taps) if of_layer.startswith(f"{tap}.")][:1]
                places = places or [tap for tap in taps if tap.startswith(prefix)]
            inside.update(places)
        return inside

    def named(self, mutant: Mutant, place: str) -> bool | None:
        """Return whether a tap is where the mutant is; None if the mutant is in no particular layer."""
        if mutant.pattern:
            return re.fullmatch(rf"({mutant.pattern})(\.[a-z_]+)?", place) is not None
        expected = set() if mutant.kind == "pitfall" else self.expected(mutant)
        return any(place == one or place.startswith(f"{one}.") for one in expected) if expected else None

    def outcome(self, mutant: Mutant) -> Outcome:
        """Run the checks on one mutant. Raises ConfigError if its edit no longer fits the port's source."""
        for edit in mutant.edits:
            edit.apply(source(edit.module))  # in the worker, this error would count as killing the mutant
        for case, look in self.checks():
            changes = [dataclasses.asdict(mutant.change)] if mutant.change else []
            try:
                self.worker.ask("mutate", edits=[dataclasses.asdict(edit) for edit in mutant.edits], changes=changes)
            except RosettaError as error:
                return Outcome(mutant, "killed", "build", detail=str(error))
            found = look()
            if isinstance(found, RosettaError):
                return Outcome(mutant, "killed", "build", detail=str(found))
            if found:
                first = found[0]
                named = self.named(mutant, first.tap.removeprefix("gradient of "))
                return Outcome(mutant, "killed", case.check, first.tap, named, first.note, first.error)
        return Outcome(mutant, "equivalent" if mutant.reason else "survived", detail=mutant.reason)


def run(
    mutants: Sequence[Mutant], backends: Sequence[str], progress: Callable[[str, int, int], None] = lambda *_: None
) -> list[Outcome]:
    """Run all mutants, each in its backend's worker; those of a backend that is not installed are missing."""
    outcomes: dict[Mutant, Outcome] = {}
    failures: list[BaseException] = []
    room, stopping = threading.Semaphore(processors()), threading.Event()

    def work(backend: str) -> None:
        own = [mutant for mutant in mutants if mutant.backend == backend]
        done = 0
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rosetta-"))
            stack.enter_context(room)
            worker = stack.enter_context(Worker(backend, Path(folder) / "worker"))
            for network in dict.fromkeys(network for mutant in own for network in mutant.networks):
                bench: _NetworkChecks | None = None
                absent: RosettaError | None = None
                for mutant in own:
                    before = outcomes.get(mutant)
                    if network not in mutant.networks or (before is not None and before.status == "killed"):
                        continue
                    if stopping.is_set():
                        return
                    try:
                        if bench is None and absent is None:
                            bench = _NetworkChecks(worker, backend, network, _fresh(Path(folder)))
                        outcomes[mutant] = (
                            bench.outcome(mutant) if bench else Outcome(mutant, "missing", detail=str(absent))
                        )
                    except RosettaError as error:
                        absent = absent or error  # do not retry for every mutant
                        outcomes[mutant] = Outcome(mutant, "missing", detail=str(error))
                    if network == mutant.networks[-1] or outcomes[mutant].status == "killed":
                        done += 1
                        progress(backend, done, len(own))

    def guarded(backend: str) -> None:
        try:
            work(backend)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(backend,)) for backend in backends]
    for thread in threads:
        thread.start()
    join(threads, stopping.set)
    if failures:
        raise failures[0]
    return [outcomes[mutant] for mutant in mutants]


def _fresh(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))
