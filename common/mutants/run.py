"""Putting each mutant through parity's checks, until one finds it."""

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
    """What became of a mutant.

    `check` is the one that killed it: "build" where the port could not even be built or given its weights. `tap` is
    where it was first seen, and `error` how far off it was there, infinite where there was nothing to compare; `named`:
    whether that is where it is, None where there is nothing to name.
    """

    mutant: Mutant
    status: Status
    check: str = ""
    tap: str = ""
    named: bool | None = None
    detail: str = ""
    error: float | None = None


def sample(mutants: Iterable[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return `count` of the mutants of each kind, at random, in their order."""
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_kind.setdefault(mutant.kind, []).append(mutant)
    chosen: list[Mutant] = []
    for members in by_kind.values():
        picked = random.Random(seed).sample(range(len(members)), min(count, len(members)))  # noqa: S311
        chosen += [members[i] for i in sorted(picked)]
    return chosen


class _NetworkChecks:
    """One network in one backend, made ready for each check, and what the right port does there."""

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
        """Return the paths of each of the port's classes."""
        self.worker.ask("mutate", edits=[])  # the last network's last mutant is still there
        request = {"network": self.network.name, "config": self.network.settings(), "dtype": "float32"}
        found: dict[str, list[str]] = {}
        for call in self.worker.ask("summary", **request)["calls"]:
            found.setdefault(call["own"], []).append(call["path"])
        return found

    def checks(self) -> Iterable[tuple[Case, Callable[[], list[TapError] | RosettaError]]]:
        """Iterate over the checks, each made ready when it is first wanted, with the port as it stands."""
        for i, case in enumerate(self.cases):
            if i == self.ready:
                try:
                    self._make_ready(case)
                except RosettaError as error:
                    self.failed = self.failed or error
                    raise
                self.ready += 1
            yield case, lambda case=case: self._errors(case)  # type: ignore[misc]

    def _make_ready(self, case: Case) -> None:
        """Have the right port do a check. Raises RosettaError where it cannot or disagrees, and then ever after."""
        if self.failed is not None:
            raise self.failed
        self.worker.ask("mutate", edits=[])
        case.prepare()
        cell = self._cell(case)
        if isinstance(cell, RosettaError):
            raise cell
        if cell.status in ("error", "disagree") or first_divergence(cell.errors) is not None:
            raise RosettaError(f"{case.check} of {self.network.name} in {self.backend} disagrees unchanged")
        if isinstance(case, GradientCase | TrainingCase):
            self.clean[case.check + case.variant] = {
                name: array.copy() for name, array in case.read(self.backend, "float64").items()
            }

    def _cell(self, case: Case) -> Cell | RosettaError:
        cell = case.cell(self.worker, self.backend, "float64")
        return RosettaError(cell.detail) if cell.status == "error" else cell

    def _errors(self, case: Case) -> list[TapError] | RosettaError:
        """Return what one check finds of the port as it is now."""
        cell = self._cell(case)
        if isinstance(cell, RosettaError):
            return cell
        errors = list(cell.errors)
        if isinstance(case, GradientCase | TrainingCase):
            # The right port stands for the other frameworks: parity holds it to them.
            right = self.clean[case.check + case.variant]
            found = differences(case.read(self.backend, "float64"), right, case.scales)
            errors += [
                TapError("right port", name, error, case.limit("float64", name)) for name, error in found.items()
            ]
        return [error for error in errors if not error.agrees]

    def expected(self, mutant: Mutant) -> set[str]:
        """Return the taps at which a mutant may first be seen: those in what it changed, and the first behind it.

        None of them where it changed no part of the network in particular.
        """
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
                # An activation or a reshaping, at the end of what has no tap itself: it shows in what comes next.
                order = [call.path for call in describe(self.network).calls]
                after = order[order.index(of_layer) + 1 :] if of_layer in order else []
                places += next(([path] for path in after if path in taps), [])
                # At the end of a branch that is the block, which joins it to the others.
                places += [tap for tap in reversed(taps) if of_layer.startswith(f"{tap}.")][:1]
                places = places or [tap for tap in taps if tap.startswith(prefix)]
            inside.update(places)
        return inside

    def named(self, mutant: Mutant, place: str) -> bool | None:
        """Return whether a place is where the mutant is; None where it is in no layer."""
        if mutant.pattern:
            return re.fullmatch(rf"({mutant.pattern})(\.[a-z_]+)?", place) is not None
        expected = set() if mutant.kind == "pitfall" else self.expected(mutant)
        return any(place == one or place.startswith(f"{one}.") for one in expected) if expected else None

    def outcome(self, mutant: Mutant) -> Outcome:
        """Put one mutant through the checks. Raises ConfigError where it does not fit the port's source any more."""
        for edit in mutant.edits:
            edit.apply(source(edit.module))  # in the worker, a mutant that does not fit would count as found
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
    """Put every mutant through the checks in its backend's process; a backend that is not installed has none killed."""
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
                        absent = absent or error  # and is not asked for again with every mutant
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
