"""Benchmark of execution paths: time, memory, cold start and size, each path checked before it is timed.

Every path runs once per round, in a fresh process and in random order, so that other load on the machine affects all
paths alike. A path that is missing, crashes, hangs or is wrong fails only its own row. After an interruption, the
results so far are kept.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import json_records
from common.backends import environments, launch, registry
from common.backends.launch import MissingBackendError
from common.catalog import Network
from common.deploy import tolerance
from common.deploy.bench import install_size, machine, timing
from common.deploy.bench.inputs import Inputs, size_on_disk, without_dropout
from common.deploy.bench.results import SCHEMA, Cold, Interval, Measurement, Mode, Run, Status
from common.deploy.bench.worker import Outcome, Request
from common.deploy.execution_paths import ExecutionPath
from common.errors import BackendError, RosettaError
from common.weights import WeightsFile

__all__ = ["Case", "Settings", "cases", "run", "select"]

Rates = dict[str, float]
"""By number of threads."""

Progress = Callable[[str, int, int], None]
"""Called with a backend, how many of its processes are done, and how many there are."""

_LEARNING_RATE = 1e-6
"""So small that hundreds of steps do not change the weights; the time of a step does not depend on it."""
_MIN_RUNS = 5


@dataclass(frozen=True)
class Settings:
    """Settings of a benchmark: every combination of networks, modes, threads, batches and paths.

    `seconds`: of samples per round. `weights`: None for random ones. `timeout`: in seconds, of one process. `seed`: of
    the order of the paths.
    """

    networks: Sequence[Network]
    paths: Sequence[ExecutionPath]
    batches: Sequence[int] = (1, 8)
    threads: Sequence[int] = (1,)
    device: str = "cpu"
    modes: Sequence[Mode] = ("inference",)
    rounds: int = 3
    seconds: float = 1.0
    weights: WeightsFile | None = None
    timeout: float = 600
    seed: int = 0

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        names = {name: [each.name for each in values[name]] for name in ("networks", "paths")}
        return json.loads(json.dumps({**values, **names, "weights": self.weights and str(self.weights.path)}))


@dataclass(frozen=True)
class Case:
    """One row of the results."""

    network: Network
    mode: Mode
    batch: int
    threads: int
    path: ExecutionPath


@dataclass
class _Row:
    """The outcomes of a case so far; after a `problem` it is not run again."""

    outcomes: list[Outcome] = field(default_factory=list)
    problem: Outcome | None = None
    error: float | None = None
    caches_on_disk: bool = False
    artifact_bytes: int | None = None

    @property
    def started(self) -> bool:
        return bool(self.outcomes) or self.problem is not None


def select(paths: Sequence[ExecutionPath], device: str, modes: Sequence[Mode]) -> list[ExecutionPath]:
    """Return the paths that can run on the device in at least one of the modes."""
    return [
        path
        for path in paths
        # Artifacts are exported for the CPU.
        if device in path.devices
        and (device == "cpu" or path.format is None)
        and any(_supports(path, mode) for mode in modes)
    ]


def _supports(path: ExecutionPath, mode: Mode) -> bool:
    return mode == "inference" or path.trains


def cases(settings: Settings) -> list[Case]:
    """Return all rows, in the order of the tables."""
    return [
        Case(network, mode, batch, threads, path)
        for network in settings.networks
        for mode in settings.modes
        for threads in settings.threads
        for batch in settings.batches
        for path in select(settings.paths, settings.device, settings.modes)
        if _supports(path, mode)
    ]


def _order(every: Sequence[Case], number: int, seed: int) -> Iterator[Case]:
    """Iterate over the cases of one round: cases of one table are adjacent, their paths in random order."""
    groups: dict[tuple[Any, ...], list[Case]] = {}
    for case in every:
        groups.setdefault((case.network, case.mode, case.threads, case.batch), []).append(case)
    generator = random.Random(f"{seed} {number}")  # noqa: S311 (not for security)
    for group in groups.values():
        yield from generator.sample(group, len(group))


def run(settings: Settings, progress: Progress = lambda *_: None) -> Run:
    """Measure all cases. After Ctrl-C or SIGTERM, return the results so far; with none, the exception is raised."""
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    every = cases(settings)
    rows = {case: _Row() for case in every}
    total = Counter(case.path.backend for case in every)
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="rosetta-bench-") as folder:
        peaks = _peaks(settings.threads, Path(folder))
        bench = _Bench(settings, Path(folder))
        interrupted = False
        try:
            for number in range(settings.rounds):
                for case in _order(every, number, settings.seed):
                    bench.once(case, rows[case])
                    done[case.path.backend] += 1
                    progress(case.path.backend, done[case.path.backend], settings.rounds * total[case.path.backend])
            # Other load varies: the machine may reach higher rates after the rounds than before them.
            peaks = _maximum(peaks, _peaks(settings.threads, Path(folder)))
        except (KeyboardInterrupt, SystemExit):
            if not any(row.started for row in rows.values()):
                raise
            interrupted = True
        measurements = tuple(
            _measurement(case, rows[case], bench.installed(case.path), settings) for case in every if rows[case].started
        )
        described = machine.describe() | peaks
        return Run(SCHEMA, when, described, bench.versions, settings.record(), measurements, interrupted)


def _peaks(threads: Sequence[int], folder: Path) -> dict[str, Rates]:
    """Return the rates that NumPy reaches on this machine, by number of threads.

    Always measured in the same environment if it is installed: MXNet's NumPy has another BLAS.
    """
    known = (environments.find_environment(name, registry.get(name).modules) for name in ("torch", "jax", "tf"))
    python = next((interpreter.path for interpreter in known if interpreter), Path(sys.executable))
    peaks: dict[str, Rates] = {"matmul_gflops": {}, "memory_gb_per_s": {}}
    for count in threads:
        answer = launch.launch(
            python,
            ["-m", "common.deploy.bench.machine", str(count)],
            launch.environment(count),
            folder / "machine.txt",
            limit=120,
        )
        for name, value in json.loads(answer).items():
            peaks[name][str(count)] = value
    return peaks


def _maximum(one: Mapping[str, Rates], other: Mapping[str, Rates]) -> dict[str, Rates]:
    """Return the higher of the two values of each rate."""
    return {
        name: {count: max(rate, other[name][count]) for count, rate in rates.items()} for name, rates in one.items()
    }


class _Bench:
    """Runs the processes of one benchmark and keeps the files that they share."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._inputs = Inputs(folder, settings.networks, settings.batches, settings.weights)
        self._installed: dict[str, int | None] = {}
        self._caches: dict[Case, Path] = {}
        self.versions: dict[str, dict[str, str]] = {}

    def once(self, case: Case, row: _Row) -> None:
        """Run a case once, unless it had a problem before."""
        if row.problem is not None:
            return
        self.installed(case.path)  # measured here, so that an interruption does not have to wait for it
        outcome = self._checked(case, row)
        if outcome.error is not None:
            row.error = outcome.error
        if outcome.status == "measured":
            row.outcomes.append(outcome)
            row.caches_on_disk = size_on_disk(self._caches[case]) > 0
        else:
            row.problem = outcome

    def _checked(self, case: Case, row: _Row) -> Outcome:
        """Run a case. If its output cannot be compared because of dropout, first check it without dropout."""
        plain = without_dropout(case.network)
        try:
            # Frameworks draw different dropout masks, so a step with dropout cannot be compared.
            if case.path.proven and case.mode == "training" and plain != case.network and not row.outcomes:
                check = self._measured(dataclasses.replace(case, network=plain), row, only_check=True)
                row.error = check.error
                if check.status != "measured":
                    return check
            return self._measured(case, row)
        except MissingBackendError as error:
            return Outcome("missing", str(error))
        except RosettaError as error:
            return Outcome("failed", str(error))

    def _measured(self, case: Case, row: _Row, only_check: bool = False) -> Outcome:
        """Run one process; `only_check`: compare its output, but do not time it."""
        python = launch.interpreter(case.path.environment)
        request = self._request(case, row, only_check)
        if case not in self._caches:
            self._caches[case] = Path(tempfile.mkdtemp(dir=self._folder, prefix="caches-"))
        variables = launch.environment(case.threads, self._caches[case])
        file = self._folder / "request.json"
        Path(request.result).unlink(missing_ok=True)
        file.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(request, started=time.monotonic()))))
        log = self._folder / "stderr.txt"
        launch.launch(
            python.path, ["-m", "common.deploy.bench.worker", str(file)], variables, log, self._settings.timeout
        )
        try:
            outcome: Outcome = json_records.build(Outcome, json_records.parse(Path(request.result).read_bytes()))
        except (OSError, ValueError) as error:
            raise BackendError(f"its process ended without an outcome that can be read: {error}") from None
        if outcome.status == "missing":
            hint = environments.install_hint(case.path.environment)
            return dataclasses.replace(outcome, message=f"{outcome.message}; install it {hint}")
        return outcome

    def _request(self, case: Case, row: _Row, only_check: bool) -> Request:
        network, path, inputs = case.network, case.path, self._inputs
        weights = inputs.weights(network).path
        compared = path.proven and not (case.mode == "training" and without_dropout(network) != network)
        limit = tolerance.loss_tolerance if case.mode == "training" else tolerance.tolerance
        artifact, manifest = None, None
        module = path.module or f"{registry.get(path.backend).adapters}.deploy"
        if path.format is not None:
            artifact, manifest = inputs.artifact(network, path.format, path.dtype, case.batch)
            module = f"common.deploy.serving.{path.server}"
        row.artifact_bytes = size_on_disk(artifact or weights)
        return Request(
            result=str(self._folder / "outcome.json"),
            started=0.0,
            processors=tuple(machine.processors(case.threads)),
            threads=case.threads,
            module=module,
            path=path.name,
            network=network.name,
            config=network.settings(),
            mode=case.mode,
            device=self._settings.device,
            weights=str(weights),
            images=str(inputs.images(network, case.batch)),
            labels=str(inputs.labels(network, case.batch)),
            expected=str(inputs.expected(network, case.mode, case.batch)) if compared else None,
            tolerance=limit(network, case.batch, path.dtype),
            learning_rate=_LEARNING_RATE,
            runs=0 if only_check else _MIN_RUNS,
            seconds=self._settings.seconds,
            warm_up_seconds=2 * self._settings.seconds + 1,
            artifact=str(artifact) if artifact else None,
            manifest=manifest.record() if manifest else None,
        )

    def installed(self, path: ExecutionPath) -> int | None:
        """Return the bytes that a path's distributions take, None if they are not installed; record their versions."""
        if path.name not in self._installed:
            try:
                size, versions = install_size.installed(path.environment, path.needs, self._folder / "stderr.txt")
            except BackendError:
                self._installed[path.name] = None
            else:
                self._installed[path.name] = size
                self.versions.setdefault(path.environment, {}).update(versions)
        return self._installed[path.name]


def _measurement(case: Case, row: _Row, installed: int | None, settings: Settings) -> Measurement:
    status: Status = row.problem.status if row.problem else "measured"
    message = row.problem.message if row.problem else ""
    limit = tolerance.loss_tolerance if case.mode == "training" else tolerance.tolerance
    measurement = Measurement(
        network=case.network.name,
        # With lists in place of tuples, as JSON has it, so that it equals the configuration of earlier runs.
        config=json.loads(case.network.config_json()),
        path=case.path.name,
        mode=case.mode,
        device=settings.device,
        batch=case.batch,
        threads=case.threads,
        status=status,
        message=message,
        error=row.error,
        tolerance=limit(case.network, case.batch, case.path.dtype) if row.error is not None else None,
        artifact_bytes=row.artifact_bytes,
        install_bytes=installed,
    )
    if status != "measured":
        return measurement
    rounds = [outcome.samples for outcome in row.outcomes]
    seconds = timing.latency(rounds)
    return dataclasses.replace(
        measurement,
        latency_ms=Interval(*(1e3 * bound for bound in (seconds.value, seconds.low, seconds.high))),
        p95_ms=1e3 * timing.percentile(rounds, 95),
        p99_ms=1e3 * timing.percentile(rounds, 99),
        images_per_second=Interval(*(case.batch / bound for bound in (seconds.value, seconds.high, seconds.low))),
        peak_memory_bytes=max(outcome.peak_memory_bytes or 0 for outcome in row.outcomes) or None,
        cold_seconds=_cold(row),
        energy_joules=_median(outcome.energy_joules for outcome in row.outcomes),
        rounds=len(rounds),
        samples=sum(map(len, rounds)),
    )


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _cold(row: _Row) -> Cold:
    """Return medians over the rounds that started with empty caches: only the first, if the runtime caches on disk."""
    cold = row.outcomes[:1] if row.caches_on_disk else row.outcomes
    warm = row.outcomes[1:] if row.caches_on_disk else []
    return Cold(
        imports=statistics.median(each.imports for each in cold),
        load=statistics.median(each.load for each in cold),
        compile=statistics.median(max(each.first - statistics.median(each.samples), 0.0) for each in cold),
        first_answer=statistics.median(each.first_answer for each in cold),
        again=_median(each.first_answer for each in warm),
    )
