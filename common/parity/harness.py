"""The parity run: every network in every backend and dtype against the reference, and the backends against each other.

One thread prepares the networks in turn (weights, inputs, the reference's traces); one thread for each backend feeds
its worker. A gate keeps as many of them computing at a time as there are processors and memory for.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors import SafetensorError, safe_open

from common import images, reference, weights
from common.catalog import Network
from common.errors import RosettaError
from common.files import read_safetensors
from common.parity.comparison import TapError, compare, first_divergence, spread, worst
from common.parity.processes import MissingBackendError, Worker, processors
from common.parity.tolerances import TOLERANCES, Check, depths
from common.weights import DTypeName

__all__ = ["Cell", "Pair", "Report", "Settings", "run", "run_one"]


_IMPORT_BYTES = 500_000_000
"""About what a process takes that has imported a framework and done nothing yet."""


@dataclass(frozen=True)
class Settings:
    """What a parity run covers. `limit` is in seconds, for one cell; `jobs` is how many compute at a time."""

    networks: Sequence[Network]
    backends: Sequence[str]
    checks: Sequence[Check] = ("forward",)
    dtypes: Sequence[DTypeName] = ("float64", "float32")
    batch: int = 2
    seed: int = 0
    limit: float = 600
    jobs: int = field(default_factory=processors)


@dataclass(frozen=True)
class Cell:
    """One network in one backend, dtype and check. `errors` holds every tap of every input, in network order."""

    network: str
    check: Check
    dtype: DTypeName
    backend: str
    status: str
    detail: str = ""
    errors: tuple[TapError, ...] = ()
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def worst(self) -> TapError | None:
        """The tap with the largest error, over all inputs."""
        return worst(self.errors) if self.errors else None

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

    def summary(self) -> dict[str, int]:
        """Return how many cells have each status."""
        statuses = ("agree", "disagree", "vacuous", "error", "missing")
        return {status: sum(cell.status == status for cell in self.cells) for status in statuses}

    def exit_status(self) -> int:
        """Return 0 where all agree, 1 where something disagrees or could not have, 3 where a backend is missing."""
        counts = self.summary()
        if counts["disagree"] or counts["vacuous"] or any(pair.status != "agree" for pair in self.pairs):
            return 1
        return 3 if counts["error"] or counts["missing"] else 0


class _Gate:
    """Lets in whoever computes, while there are processors and memory; one is always let in."""

    def __init__(self, jobs: int, memory: int) -> None:
        self._jobs, self._memory = jobs, memory
        self._running = self._used = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def entered(self, need: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(
                lambda: self._running == 0 or (self._running < self._jobs and self._used + need <= self._memory)
            )
            self._running += 1
            self._used += need
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._used -= need
                self._changed.notify_all()


class _Case:
    """One network made ready: weights and inputs in files, the reference's traces in memory."""

    def __init__(self, network: Network, settings: Settings, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.description = reference.describe(network)
        self.pending = len(settings.backends) * len(settings.dtypes)
        self.lock = threading.Lock()
        self.traces: dict[tuple[str, str], dict[str, Path]] = {}
        self.depths = depths(self.description)
        self.inputs: dict[str, Path] = {}
        self.reference: dict[str, dict[str, np.ndarray]] = {}
        self.vacuous: dict[str, float] = {}

    def memory(self, dtype: DTypeName, batch: int) -> int:
        """Return about how many bytes a worker needs: weights, their copy, the mapped file, and activations."""
        numbers = sum(math.prod(tensor.shape) for tensor in self.description.manifest.values())
        activations = batch * sum(math.prod(shape) for shape in self.description.taps.values())
        return _IMPORT_BYTES + (3 * numbers + 4 * activations) * np.dtype(dtype).itemsize

    def prepare(self, settings: Settings) -> None:
        """Write weights and inputs, and compute the truth."""
        self.folder.mkdir()
        self.weights = self.folder / "weights.safetensors"
        weights.write_initial(self.weights, self.network, "probe", settings.seed, "float64", durable=False)
        batches = {
            "digits": images.real_batch(self.network, settings.batch, settings.seed),
            "noise": images.noise_batch(self.network, settings.batch, settings.seed),
        }
        model = reference.build(self.network)
        reference.load(model, weights.read(self.weights).tensors)
        for name, batch in batches.items():
            self.inputs[name] = self.folder / f"{name}.npy"
            np.save(self.inputs[name], batch)
            self.reference[name] = reference.trace(model, batch)
            for tap, values in self.reference[name].items():
                self.vacuous[tap] = min(self.vacuous.get(tap, math.inf), spread(values))

    def tolerance(self, check: Check, dtype: DTypeName) -> Callable[[str], float]:
        """Return the function that gives each tap's tolerance."""
        table = TOLERANCES[check, dtype]
        return lambda tap: table.at(self.depths[tap])


class _Run:
    """The state of one parity run, shared by its threads."""

    def __init__(self, settings: Settings, folder: Path, progress: Callable[[str, int, int], None]) -> None:
        self.settings = settings
        self.folder = folder
        self.report = Report(settings)
        self.progress = progress
        self.gate = _Gate(settings.jobs, int(psutil.virtual_memory().available * 0.8))
        # Two networks at a time: one that workers compute, one that is being made ready.
        self.room = threading.Semaphore(2)
        self.lock = threading.Lock()
        self.queues: dict[str, queue.Queue[_Case | None]] = {name: queue.Queue() for name in settings.backends}
        self.done = dict.fromkeys([*settings.backends, "numpy"], 0)
        self.stopping = threading.Event()
        self.failure: BaseException | None = None

    def advance(self, name: str) -> None:
        """Tell the progress display that one more piece of `name`'s work is done."""
        with self.lock:
            self.done[name] += 1
            pieces = 1 if name == "numpy" else len(self.settings.dtypes)
            self.progress(name, self.done[name], len(self.settings.networks) * pieces)

    def threads(self) -> list[threading.Thread]:
        """Return the threads that do the work."""
        workers = [
            threading.Thread(target=self.guarded, args=(self.feed, name), name=name) for name in self.settings.backends
        ]
        return [threading.Thread(target=self.guarded, args=(self.prepare_all,), name="reference"), *workers]

    def guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do `work`; a mistake of the harness itself ends the run instead of leaving it waiting for ever."""
        try:
            work(*arguments)
        except BaseException as error:
            self.failure = self.failure or error
            self.stop()

    def stop(self) -> None:
        """Have every thread come to its end."""
        self.stopping.set()
        self.room.release(2)
        for waiting in self.queues.values():
            waiting.put(None)

    def prepare_all(self) -> None:
        """Make the networks ready, one after another, and hand each to every backend."""
        for i, network in enumerate(self.settings.networks):
            self.room.acquire()
            if self.stopping.is_set():
                return
            case = _Case(network, self.settings, self.folder / f"{i}-{network.name}")
            with self.gate.entered(case.memory("float64", self.settings.batch)):
                case.prepare(self.settings)
            self.advance("numpy")
            for waiting in self.queues.values():
                waiting.put(case)
        for waiting in self.queues.values():
            waiting.put(None)

    def feed(self, name: str) -> None:
        """Give one backend its work, network by network."""
        with Worker(name, self.folder / name, self.threads_each(), self.settings.limit) as worker:
            try:
                with self.gate.entered(_IMPORT_BYTES):
                    worker.start()
                self.report.versions[name] = worker.versions
            except RosettaError as error:
                status = "missing" if isinstance(error, MissingBackendError) else "error"
                self.report.unavailable[name] = (status, str(error))
            while (case := self.queues[name].get()) is not None and not self.stopping.is_set():
                for dtype in self.settings.dtypes:
                    self.finish(case, self.cell(worker, case, name, dtype))

    def threads_each(self) -> int:
        """Return how many threads a worker may use, so that those that compute together fill the machine."""
        together = min(self.settings.jobs, len(self.settings.backends))
        return max(processors() // together, 1)

    def cell(self, worker: Worker, case: _Case, name: str, dtype: DTypeName) -> Cell:
        """Run one network in one backend and dtype, and compare it with the reference."""
        identity: tuple[str, Check, DTypeName, str] = (case.network.name, "forward", dtype, name)
        if name in self.report.unavailable:
            return Cell(*identity, *self.report.unavailable[name])
        outputs = {key: case.folder / f"{name}-{dtype}-{key}.safetensors" for key in case.inputs}
        try:
            with self.gate.entered(case.memory(dtype, self.settings.batch)):
                answer = worker.ask(
                    "trace",
                    network=case.network.name,
                    config=case.network.settings(),
                    dtype=dtype,
                    weights=str(case.weights),
                    inputs={key: str(path) for key, path in case.inputs.items()},
                    outputs={key: str(path) for key, path in outputs.items()},
                )
            errors = self.compare(case, dtype, outputs)
        except (RosettaError, SafetensorError, OSError, ValueError) as error:
            return Cell(*identity, "error", str(error))
        with case.lock:
            case.traces[name, dtype] = outputs
        tolerance = case.tolerance("forward", dtype)
        vacuous = [tap for tap, varies in case.vacuous.items() if varies <= tolerance(tap)]
        status, detail = "agree", ""
        if (divergence := first_divergence(errors)) is not None:
            status, detail = "disagree", divergence.note
        elif vacuous:
            status, detail = "vacuous", f"{', '.join(vacuous)} would be the same whatever the input"
        return Cell(*identity, status, detail, tuple(errors), answer["seconds"], answer["peak_bytes"])

    def compare(self, case: _Case, dtype: DTypeName, outputs: Mapping[str, Path]) -> list[TapError]:
        """Compare one backend's traces with the reference's, for each input."""
        tolerance = case.tolerance("forward", dtype)
        by_input = [
            compare(case.reference[key], read_safetensors(path), dtype, tolerance, key) for key, path in outputs.items()
        ]
        return [error for tap in itertools.zip_longest(*by_input) for error in tap if error is not None]

    def finish(self, case: _Case, cell: Cell) -> None:
        """Note a cell; after a network's last, compare the backends with each other and forget the network."""
        with self.lock:
            self.report.cells.append(cell)
        self.advance(cell.backend)
        with case.lock:
            case.pending -= 1
            if case.pending:
                return
        pairs = self.pairs(case)
        with self.lock:
            self.report.pairs.extend(pairs)
        shutil.rmtree(case.folder, ignore_errors=True)
        case.reference.clear()
        self.room.release()

    def pairs(self, case: _Case) -> list[Pair]:
        """Compare every two backends' traces, relative to the reference's largest values."""
        found: dict[tuple[str, str, DTypeName], list[TapError]] = {}
        for dtype in self.settings.dtypes:
            names = [name for name in self.settings.backends if (name, dtype) in case.traces]
            tolerance = case.tolerance("forward", dtype)
            for key, truth in case.reference.items():
                with contextlib.ExitStack() as stack:
                    files = {
                        name: stack.enter_context(safe_open(case.traces[name, dtype][key], "numpy")) for name in names
                    }
                    for tap, values in truth.items():
                        scale = float(np.max(np.abs(values))) or 1.0
                        arrays = {
                            name: file.get_tensor(tap) for name, file in files.items() if tap in file.offset_keys()
                        }
                        for first, second in itertools.combinations(arrays, 2):
                            if arrays[first].shape != arrays[second].shape:
                                error = math.inf
                            else:
                                error = float(np.max(np.abs(arrays[first] - arrays[second]))) / scale
                            # Both may be a whole tolerance away from the reference, on opposite sides.
                            tap_error = TapError(key, tap, error, 2 * tolerance(tap))
                            found.setdefault((first, second, dtype), []).append(tap_error)
        result = []
        for (first, second, dtype), errors in found.items():
            status = "agree" if first_divergence(errors) is None else "disagree"
            result.append(Pair(case.network.name, "forward", dtype, (first, second), status, worst(errors)))
        return result


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rosetta-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def run(settings: Settings, progress: Callable[[str, int, int], None] = lambda *_: None) -> Report:
    """Run parity and return the report; `progress(name, done, total)` is called after each piece of work.

    `name` is a backend, or "numpy" for the networks that the reference has finished. Backends that are missing or die
    cost their own cells and nothing else.
    """
    start = time.perf_counter()
    with _temporary_folder() as folder:
        state = _Run(settings, folder, progress)
        threads = state.threads()
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            state.stop()
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            for thread in threads:
                thread.join()
            raise
    if state.failure is not None:
        raise state.failure
    state.report.seconds = time.perf_counter() - start
    networks = [network.name for network in settings.networks]
    order = {name: i for i, name in enumerate(settings.backends)}
    state.report.cells.sort(
        key=lambda cell: (networks.index(cell.network), settings.dtypes.index(cell.dtype), order[cell.backend])
    )
    state.report.pairs.sort(key=lambda pair: (networks.index(pair.network), settings.dtypes.index(pair.dtype)))
    return state.report


def run_one(name: str, action: str, network: Network, dtype: DTypeName, **details: Any) -> dict[str, Any]:
    """Have backend `name` carry out one request in its own process and return the answer.

    Raises BackendError where it is missing, fails or dies.
    """
    with _temporary_folder() as folder, Worker(name, folder / name, processors()) as worker:
        return worker.ask(action, network=network.name, config=network.settings(), dtype=dtype, **details)
