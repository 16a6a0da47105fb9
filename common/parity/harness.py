"""Run parity: compare every network in every backend and dtype with the reference, and the backends with each other.

One thread prepares the networks in turn (weights, inputs, the reference's traces), and one thread per backend sends
requests to its worker. A gate limits how many of them compute at the same time, by processors and memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from threadpoolctl import threadpool_limits

from common.backends.launch import MissingBackendError
from common.backends.processes import Worker, join
from common.catalog import Network
from common.errors import RosettaError
from common.parity.cases import IMPORT_BYTES, Case, ForwardCase
from common.parity.gradients import GradientCase
from common.parity.results import Cell, Pair, Report, Settings
from common.parity.tolerances import Check
from common.parity.training_runs import RUNS, TrainingCase
from common.system import processors
from common.weights import DTypeName

__all__ = ["Cell", "Gate", "Pair", "Report", "Settings", "run", "run_each", "run_one"]


class Gate:
    """Limits concurrent work to the available processors and memory; one piece of work may always run.

    Waiting pieces enter in the order of their `turn`, even if a later one needs less memory.
    """

    def __init__(self, jobs: int, memory: int) -> None:
        self._jobs, self._memory = jobs, memory
        self._running = self._used = 0
        self.waiting: list[int] = []
        """The turns of the waiting pieces."""
        self._changed = threading.Condition()

    def _opens(self, need: int, turn: int) -> bool:
        if turn > min(self.waiting):
            return False
        return self._running == 0 or (self._running < self._jobs and self._used + need <= self._memory)

    @contextlib.contextmanager
    def entered(self, need: int, turn: int = 0) -> Iterator[None]:
        with self._changed:
            self.waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._opens(need, turn))
            finally:
                self.waiting.remove(turn)
                self._changed.notify_all()  # the next one may fit as well
            self._running += 1
            self._used += need
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._used -= need
                self._changed.notify_all()


_CASES: Mapping[Check, type[Case]] = {"forward": ForwardCase, "gradients": GradientCase, "training": TrainingCase}


_ALL_OPTIMIZERS = ("lenet", "bn_lenet")
"""Networks trained with every optimizer by default; all others are trained with plain SGD."""


def _work(settings: Settings) -> list[tuple[Check, Network, str]]:
    """Return the cases in order: check, network, and optimizer of a training run."""
    work: list[tuple[Check, Network, str]] = []
    for check in settings.checks:
        for network in settings.networks:
            if check == "training":
                usual = tuple(RUNS) if network.name in _ALL_OPTIMIZERS else ("sgd",)
                work += [(check, network, name) for name in settings.optimizers or usual]
            else:
                work.append((check, network, ""))
    return work


_CASES_AT_ONCE = 4
"""Several, so that fast backends need not wait for the slowest; each holds the reference's values in memory."""


class _Run:
    """The state of one parity run, shared by its threads."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        progress: Callable[[str, int, int], None],
        on_check: Callable[[Report, Check], None],
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.report = Report(settings)
        self.work = _work(settings)
        self.cases_left = Counter(check for check, _, _ in self.work)
        self.progress = progress
        self.on_check = on_check
        self.gate = Gate(settings.jobs, int(psutil.virtual_memory().available * 0.8))
        self.slots = threading.Semaphore(_CASES_AT_ONCE)
        self.lock = threading.Lock()
        self.queues: dict[str, queue.Queue[Case | None]] = {name: queue.Queue() for name in settings.backends}
        self.done = dict.fromkeys([*settings.backends, "numpy"], 0)
        self.stopping = threading.Event()
        self.failure: BaseException | None = None

    def advance(self, name: str) -> None:
        """Report to the progress display that `name` has finished one more case."""
        with self.lock:
            self.done[name] += 1
            self.progress(name, self.done[name], len(self.work))

    def threads(self) -> list[threading.Thread]:
        """Return the threads of the run."""
        workers = [
            threading.Thread(target=self.guarded, args=(self.run_backend, name), name=name)
            for name in self.settings.backends
        ]
        # A daemon, because a computation in a thread cannot be interrupted, and an interrupted run should not wait.
        preparing = threading.Thread(target=self.guarded, args=(self.prepare_all,), name="reference", daemon=True)
        return [preparing, *workers]

    def guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do `work`; an unexpected exception stops all threads, so that none waits forever."""
        try:
            work(*arguments)
        except BaseException as error:
            self.failure = self.failure or error
            self.stop()

    def stop(self) -> None:
        """Make every thread finish."""
        self.stopping.set()
        self.slots.release(_CASES_AT_ONCE)
        for waiting in self.queues.values():
            waiting.put(None)

    def prepare_all(self) -> None:
        """Prepare the cases in turn, and queue each for every backend."""
        for i, (check, network, variant) in enumerate(self.work):
            self.slots.acquire()
            if self.stopping.is_set():
                return
            case = _CASES[check](network, self.settings, self.folder / f"{i}-{network.name}", variant)
            with self.gate.entered(case.memory("float64")), threadpool_limits(self.threads_each()):
                case.prepare()
            self.advance("numpy")
            for waiting in self.queues.values():
                waiting.put(case)
        for waiting in self.queues.values():
            waiting.put(None)

    def run_backend(self, name: str) -> None:
        """Run all cases in one backend."""
        with Worker(name, self.folder / name, self.threads_each(), self.settings.limit) as worker:
            try:
                with self.gate.entered(IMPORT_BYTES):
                    worker.start()
                self.report.versions[name] = worker.versions
            except RosettaError as error:
                status = "missing" if isinstance(error, MissingBackendError) else "error"
                self.report.unavailable[name] = (status, str(error))
            while (case := self.queues[name].get()) is not None and not self.stopping.is_set():
                for dtype in case.dtypes:
                    if self.stopping.is_set():  # do not restart the killed worker
                        return
                    self.finish(case, self.cell(worker, case, name, dtype))
                self.advance(name)

    def threads_each(self) -> int:
        """Return the number of threads per worker that keeps all processors busy."""
        together = min(self.settings.jobs, len(self.settings.backends))
        return max(processors() // together, 1)

    def cell(self, worker: Worker, case: Case, name: str, dtype: DTypeName) -> Cell:
        """Run one case in one backend and dtype."""
        if name in self.report.unavailable:
            status, detail = self.report.unavailable[name]
            return dataclasses.replace(case.empty_cell(name, dtype), status=status, detail=detail)
        # The backend with the least work done goes first; otherwise the slowest would compute alone at the end.
        with self.gate.entered(case.memory(dtype), turn=self.done[name]):
            return case.cell(worker, name, dtype)

    def finish(self, case: Case, cell: Cell) -> None:
        """Add a cell; after a case's last one, compare the backends with each other and remove the files."""
        if not case.add(cell):
            return
        for name, dtype in () if self.stopping.is_set() else case.to_repeat():
            with Worker(name, case.folder / f"{name}-again", self.threads_each(), self.settings.limit) as worker:
                self.cell(worker, case, name, dtype)
        pairs = case.finish()
        with self.lock:
            self.report.cells += case.cells
            self.report.pairs += pairs
            self.cases_left[case.check] -= 1
            if not self.cases_left[case.check]:
                self.sort()
                self.on_check(self.report, case.check)
        case.remove_files()
        self.slots.release()

    def sort(self) -> None:
        """Put cells and pairs in the order of the request."""
        places = {(check, network.name, variant): i for i, (check, network, variant) in enumerate(self.work)}
        order = {name: i for i, name in enumerate(self.settings.backends)}

        def place(found: Cell | Pair) -> tuple[int, int]:
            return places[found.check, found.network, found.variant], self.settings.dtypes.index(found.dtype)

        self.report.cells.sort(key=lambda cell: (place(cell), order[cell.backend]))
        self.report.pairs.sort(key=place)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rosetta-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def run(
    settings: Settings,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    on_check: Callable[[Report, Check], None] = lambda *_: None,
) -> Report:
    """Run parity and return the report. A backend that is missing or crashes fails only its own cells.

    `progress(name, done, total)` is called after each case; `name` is a backend, or "numpy" for the reference.
    `on_check(report, check)` is called when all cells of a check are in the report.
    """
    start = time.perf_counter()
    with _temporary_folder() as folder:
        state = _Run(settings, folder, progress, on_check)
        threads = state.threads()
        for thread in threads:
            thread.start()
        join(threads, state.stop)
    if state.failure is not None:
        raise state.failure
    state.report.seconds = time.perf_counter() - start
    state.sort()
    return state.report


def run_one(name: str, action: str, network: Network, dtype: DTypeName, **details: Any) -> dict[str, Any]:
    """Send one request to backend `name` in a new process and return the answer.

    Raises BackendError if it is missing, fails or dies.
    """
    with _temporary_folder() as folder, Worker(name, folder / name, processors()) as worker:
        return worker.ask(action, network=network.name, config=network.settings(), dtype=dtype, **details)


def run_each(
    names: Sequence[str],
    network: Network,
    dtype: DTypeName,
    requests: Callable[[str], Sequence[Mapping[str, Any]]],
    **details: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Send requests to several backends side by side, each in a new process, and return their answers.

    Raises BackendError if one is missing, fails or dies.
    """
    answers: dict[str, list[dict[str, Any]]] = {}
    errors: dict[str, RosettaError] = {}
    room = threading.Semaphore(processors())
    stopping = threading.Event()

    def ask(name: str, folder: Path) -> None:
        with room, Worker(name, folder, max(processors() // len(names), 1)) as worker:
            try:
                for request in requests(name) if not stopping.is_set() else ():
                    answer = worker.ask(
                        network=network.name, config=network.settings(), dtype=dtype, **details, **request
                    )
                    answers.setdefault(name, []).append(answer)
            except RosettaError as error:
                errors[name] = error
                stopping.set()

    with _temporary_folder() as folder:
        threads = [threading.Thread(target=ask, args=(name, folder / name), name=name) for name in names]
        for thread in threads:
            thread.start()
        join(threads, stopping.set)
    for error in errors.values():
        raise error
    return answers
