"""Benchmark history: earlier runs of `rosetta bench`, kept as lines of JSON.

Appends runs, reads them back, finds the latest results of a network, and compares a run with earlier ones on the same
machine.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from common import catalog, json_records
from common.catalog import Network
from common.deploy.bench.machine import identity
from common.deploy.bench.results import SCHEMA, Interval, Measurement, Run
from common.deploy.execution_paths import PATHS
from common.errors import ConfigError, InputError, shown

__all__ = [
    "Change",
    "LatestResults",
    "Setting",
    "append",
    "check",
    "compare",
    "default_path",
    "dumps",
    "from_history",
    "from_run",
    "loads",
    "read",
    "read_run",
    "settings_of",
]

_SLOWER = 1.05
"""Smaller ratios than this can come from another version of the operating system."""

_LINE_START = b'{"schema": '
"""How every line starts. A file that starts differently is not a history and is not changed."""

_MAX_RUNS = 20
"""How many runs on this machine are searched for paths that the newest run did not measure."""

_MEASURE_AGAIN = "write it again with `rosetta bench --json`"
_REMOVE_LINE = "remove the line, or name another --history"

Verdict = Literal["slower", "faster", "same", "broken"]


@dataclass(frozen=True)
class Change:
    """A measurement and the latest earlier one of the same thing, made at `when`.

    `ratio`: latency now over latency before; None where there is no latency now, and then it is `broken`.
    """

    now: Measurement
    before: Measurement
    when: str
    ratio: Interval | None
    verdict: Verdict

    @property
    def regression(self) -> bool:
        """True if it is clearly slower than before, or can no longer be measured."""
        return self.verdict in ("slower", "broken")


@dataclass(frozen=True, order=True)
class Setting:
    """The device, batch and number of threads of a measurement."""

    device: str
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}, {self.device}"


@dataclass(frozen=True)
class LatestResults:
    """The latest inference measurement of each execution path; `machine` and `when` are those of the newest run."""

    setting: Setting
    measurements: tuple[Measurement, ...]
    machine: Mapping[str, Any]
    when: str


def default_path() -> Path:
    """Return the path of this user's history."""
    from platformdirs import user_data_path

    return user_data_path("rosetta") / "bench.jsonl"


def dumps(run: Run, indent: int | None = None) -> str:
    """Return a run as JSON."""
    return json.dumps(dataclasses.asdict(run), indent=indent)


def loads(text: str | bytes) -> Run:
    """Return a run from JSON. Raises ValueError if it is not one."""
    record = json_records.parse(text)
    if isinstance(record, dict) and record.get("schema", SCHEMA) != SCHEMA:
        raise ValueError(f"its `schema` is {shown(record['schema'])}; expected {SCHEMA}")
    run: Run = json_records.build(Run, record)
    return run


def read_run(path: Path) -> Run:
    """Return the run in a file of `rosetta bench --json`. Raises InputError if there is none."""
    try:
        return _run(str(path), path.read_bytes(), _MEASURE_AGAIN)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {_MEASURE_AGAIN}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def read(path: Path) -> list[Run]:
    """Return the runs of a history, oldest first; none if there is no file.

    Raises InputError if a line is not a run or the file cannot be read. An incomplete last line is ignored.
    """
    return [_run(source, line, _REMOVE_LINE) for source, line in _lines(path)]


def _run(source: str, text: bytes, fix: str) -> Run:
    try:
        return loads(text)
    except ValueError as error:
        raise InputError(f"{source}: not a run of `rosetta bench`: {error}; {fix}") from None


def _lines(path: Path) -> list[tuple[str, bytes]]:
    """Return the lines of a history, each with its place for messages; none if there is no file."""
    try:
        lines = _complete_lines(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    return [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]


def _complete_lines(history: bytes) -> list[bytes]:
    """Return the lines of a history without a last one that was not completely written."""
    lines = history.split(b"\n")
    try:
        json_records.parse(lines[-1])
    except ValueError:
        lines.pop()  # incomplete, or empty after the last newline
    return lines


def check(path: Path) -> None:
    """Raise InputError if a file exists and is not a history, so that no run can be appended."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_LINE_START))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not _LINE_START.startswith(start):
        raise InputError(f"{path}: not a history of `rosetta bench`, so it was not changed; name another --history")


def append(path: Path, run: Run) -> None:
    """Append a run to a history; on any error the history stays as it was. Raises InputError."""
    from common.files import atomic_writer  # imports NumPy, which `rosetta recommend` may not need

    check(path)
    target = path.resolve() if path.is_symlink() else path
    try:
        # Two benchmarks may end at the same time.
        with FileLock(f"{target}.lock"):
            lines = _complete_lines(target.read_bytes()) if target.exists() else []
            with atomic_writer(target) as file:
                file.write(b"".join(line + b"\n" for line in [*lines, dumps(run).encode()]))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def compare(run: Run, history: Iterable[Run]) -> list[Change]:
    """Compare each measurement with the latest earlier one of the same thing on the same machine, if any."""
    latest: dict[object, tuple[Measurement, str]] = {}
    for earlier in history:
        if identity(earlier.machine) == identity(run.machine):
            measured = (one for one in earlier.measurements if one.status == "measured")
            latest |= {one.key: (one, earlier.when) for one in measured}
    return [_change(now, *latest[now.key]) for now in run.measurements if now.key in latest]


def _change(now: Measurement, before: Measurement, when: str) -> Change:
    if now.latency_ms is None or before.latency_ms is None:
        return Change(now, before, when, None, "broken")
    new, old = now.latency_ms, before.latency_ms
    ratio = new.over(old)
    verdict: Verdict = "same"
    if new.low > old.high and ratio.value > _SLOWER:
        verdict = "slower"
    elif new.high < old.low and ratio.value < 1 / _SLOWER:
        verdict = "faster"
    return Change(now, before, when, ratio, verdict)


def from_run(path: Path, network: Network, device: str, batch: int, threads: int | None) -> LatestResults | None:
    """Return the results for a network in a file of `rosetta bench --json`; None if it has none with this setting.

    `threads`: None for the largest number measured. Raises InputError as `read_run` does.
    """
    return _latest([(str(path), read_run(path))], network, device, batch, threads, _MEASURE_AGAIN)


def from_history(
    path: Path, network: Network, device: str, batch: int, threads: int | None, machine: Mapping[str, Any]
) -> LatestResults | None:
    """Return the latest results for a network in a history, otherwise as `from_run`.

    Only runs made on `machine` count: several machines may share a home folder.
    """
    runs = ((source, _run(source, line, _REMOVE_LINE)) for source, line in reversed(_lines(path)))
    own = (
        (source, run)
        for source, run in runs
        if identity(run.machine) == identity(machine) and any(_inference(run, network))
    )
    return _latest(itertools.islice(own, _MAX_RUNS), network, device, batch, threads, _REMOVE_LINE)


def settings_of(path: Path, network: Network) -> list[Setting]:
    """Return the settings of a network's inference measurements in a file of `rosetta bench --json`."""
    return sorted({Setting(one.device, one.batch, one.threads) for one in _inference(read_run(path), network)})


def _inference(run: Run, network: Network) -> Iterator[Measurement]:
    return (one for one in run.measurements if one.network == network.name and one.mode == "inference")


def _latest(
    runs: Iterable[tuple[str, Run]], network: Network, device: str, batch: int, threads: int | None, fix: str
) -> LatestResults | None:
    """Search runs, newest first, until every execution path has a result."""
    latest: dict[str, Measurement] = {}
    newest: Run | None = None
    for source, run in runs:
        matching = [
            one
            for one in _inference(run, network)
            if (one.device, one.batch) == (device, batch) and _config(one, source, fix) == network.config
        ]
        threads = threads or max((one.threads for one in matching), default=None)
        matching = [one for one in matching if one.threads == threads]
        if matching:
            newest = newest or run
        latest = {one.path: one for one in matching} | latest
        if all(name in latest for name, path in PATHS.items() if device in path.devices):
            break
    if newest is None or threads is None:
        return None
    return LatestResults(Setting(device, batch, threads), tuple(latest.values()), newest.machine, newest.when)


def _config(measurement: Measurement, source: str, fix: str) -> catalog.Config:
    try:
        return catalog.get(measurement.network, **measurement.config).config
    except ConfigError as error:
        raise InputError(f"{source}: this version has no such network as was measured: {error}; {fix}") from None
