"""Runs of `rosetta bench` kept as lines of JSON, and what became slower since the last one on the same machine.

A line is whole once its newline is written, so that what a crash tears off is recognized.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from common import catalog, json_records
from common.catalog import Network
from common.deploy.bench import machine
from common.deploy.bench.machine import identity
from common.deploy.bench.results import Interval, Measurement, Run
from common.deploy.execution_paths import PATHS
from common.errors import ConfigError, InputError, shown

__all__ = ["Change", "append", "check", "compare", "default_path", "dumps", "loads", "read"]

_SLOWER = 1.05
"""What is slower by less may be so by another version of the operating system."""
_BEGINNING = b'{"schema": '
"""Of every line, so that a file that is no history is not added to."""

Verdict = Literal["slower", "faster", "same", "broken"]


@dataclass(frozen=True)
class Change:
    """One measurement against the last of the same thing: `ratio` above 1 is slower; None where it cannot be taken."""

    now: Measurement
    before: Measurement
    when: str
    ratio: Interval | None
    verdict: Verdict

    @property
    def regression(self) -> bool:
        """Whether it is clearly slower than it was, or was measured and no longer can be."""
        return self.verdict in ("slower", "broken")


def default_path() -> Path:
    """Return where the history is kept unless asked otherwise."""
    from platformdirs import user_data_path

    return user_data_path("rosetta") / "bench.jsonl"


def dumps(run: Run, indent: int | None = None) -> str:
    """Return a run as JSON."""
    return json.dumps(dataclasses.asdict(run), indent=indent)


def loads(text: str | bytes) -> Run:
    """Return the run that JSON is of. Raises ValueError where it is none."""
    run: Run = json_records.build(Run, json_records.parse(text))
    return run


def read(path: Path) -> list[Run]:
    """Return the runs of a history, the oldest first; none where there is no file yet.

    A last line that was torn by a crash is left out. Raises InputError where a line is no run, or the file cannot be
    read.
    """
    try:
        lines = whole_lines(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    runs = []
    for number, line in enumerate(lines, start=1):
        try:
            runs.append(loads(line))
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: no run of `rosetta bench`: {error}; remove the line, or name another --history"
            ) from None
    return runs


def check(path: Path) -> None:
    """Raise InputError where a file that exists is no history, so that no run can be added."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_BEGINNING))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not _BEGINNING.startswith(beginning):
        raise InputError(f"{path}: no history of `rosetta bench`, and left as it is; name another --history")


def append(path: Path, run: Run) -> None:
    """Add a run to a history, all of it or nothing. Raises InputError where that cannot be done."""
    check(path)
    try:
        # Two runs may end at the same time. Not buffered: a buffer tries once more when the file is closed.
        with FileLock(f"{path}.lock"), path.open("a+b", buffering=0) as file:
            file.seek(0)
            contents = file.read()
            kept = b"".join(line + b"\n" for line in whole_lines(contents))
            start = min(len(kept), len(contents))
            file.truncate(start)
            # An editor may have left the last newline out.
            line = memoryview(kept[start:] + f"{dumps(run)}\n".encode())
            try:
                while line:
                    line = line[file.write(line) :]
            except BaseException:
                file.truncate(start)
                raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def compare(run: Run, history: Iterable[Run]) -> list[Change]:
    """Return what became of each measurement that was made before on the same machine, with the last such time."""
    here = machine.identity(run.machine)
    last: dict[object, tuple[Measurement, str]] = {}
    for earlier in history:
        if machine.identity(earlier.machine) == here:
            measured = (one for one in earlier.measurements if one.status == "measured")
            last |= {one.key: (one, earlier.when) for one in measured}
    return [_change(now, *last[now.key]) for now in run.measurements if now.key in last]


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


def regressions(changes: Sequence[Change]) -> list[Change]:
    """Return the changes that are regressions."""
    return [change for change in changes if change.regression]


_SCHEMA = 1

_MOST_RUNS = 20
"""How many runs of a network are looked through for paths that the newest did not measure."""

_AGAIN = "write it anew with `rosetta bench --json`"

_REMOVE = "remove the line, or name another --history"

_Record = Mapping[str, Any]
"""One run, or one measurement, as its JSON says it."""


@dataclass(frozen=True, order=True)
class Setting:
    """Under what a network was measured."""

    device: str
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}, {self.device}"


@dataclass(frozen=True)
class Found:
    """Inference of a network under a setting, of each path the newest measurement; `machine` and `when` of the last."""

    setting: Setting
    measurements: tuple[Measurement, ...]
    machine: Mapping[str, Any]
    when: str


def from_run(path: Path, network: Network, device: str, batch: int, threads: int | None) -> Found | None:
    """Return what `rosetta bench --json` wrote of a network, None where it measured nothing such.

    `threads` None: the most that were measured. Raises InputError where the file cannot be read, or is of no run.
    """
    return _find([(str(path), _parsed(str(path), _read(path), _AGAIN))], network, device, batch, threads, _AGAIN)


def from_history(
    path: Path, network: Network, device: str, batch: int, threads: int | None, machine: Mapping[str, Any]
) -> Found | None:
    """Return the newest of a history that was measured on a machine, which need not be this one's; else as `from_run`.

    A home folder may be that of several machines.
    """
    if not path.exists():
        return None
    lines = [(number, line) for number, line in enumerate(whole_lines(_read(path)), start=1) if line.strip()]
    name = f'"network": "{network.name}"'.encode()
    holding = ((number, line) for number, line in reversed(lines) if name in line)
    parsed = ((f"{path}, line {number}", _parsed(f"{path}, line {number}", line, _REMOVE)) for number, line in holding)
    here = ((where, record) for where, record in parsed if identity(record["machine"]) == identity(machine))
    return _find(itertools.islice(here, _MOST_RUNS), network, device, batch, threads, _REMOVE)


def read_run(path: Path) -> Run:
    """Return all that `rosetta bench --json` wrote. Raises InputError as `from_run` does."""
    try:
        run: Run = json_records.build(Run, _parsed(str(path), _read(path), _AGAIN))
    except ValueError as error:
        raise InputError(f"{path}: no whole run of `rosetta bench`: {error}; {_AGAIN}") from None
    return run


def settings_of(path: Path, network: Network) -> list[Setting]:
    """Return under what a run measured a network, to be said where it is not what was asked for."""
    own = _built(_of(_parsed(str(path), _read(path), _AGAIN), network.name), str(path), _AGAIN)
    return sorted({Setting(each.device, each.batch, each.threads) for each in own})


def whole_lines(history: bytes) -> list[bytes]:
    """Return the lines of a history but for a last one that a crash tore."""
    lines = history.split(b"\n")
    try:
        json_records.parse(lines[-1])
    except ValueError:
        lines.pop()  # torn, or nothing at all, after the last newline
    return lines


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {_AGAIN}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parsed(where: str, text: bytes, mend: str) -> _Record:
    try:
        record = json_records.parse(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: no text ({error}); {mend}") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}); {mend}") from None
    if not isinstance(record, dict) or "schema" not in record:
        raise InputError(f"{where}: no run of `rosetta bench`: it has no `schema`; {mend}")
    if record["schema"] != _SCHEMA:
        raise InputError(f"{where}: measurements of schema {shown(record['schema'])}; expected {_SCHEMA}; {mend}")
    for name, kind in (("when", str), ("machine", dict), ("measurements", list)):
        if not isinstance(record.get(name), kind):
            raise InputError(f"{where}: no whole run of `rosetta bench`: it has no `{name}` as one has it; {mend}")
    return record


def _of(record: _Record, name: str) -> Iterator[_Record]:
    """Iterate over what a run measured of a network in inference."""
    for each in record["measurements"]:
        if isinstance(each, dict) and each.get("network") == name and each.get("mode") == "inference":
            yield each


def _find(
    runs: Iterable[tuple[str, _Record]],
    network: Network,
    device: str,
    batch: int,
    threads: int | None,
    mend: str,
) -> Found | None:
    """Look through runs, the newest first, until every path is found."""
    found: dict[str, Measurement] = {}
    last: _Record | None = None
    for where, record in runs:
        asked = [
            each for each in _of(record, network.name) if (each.get("device"), each.get("batch")) == (device, batch)
        ]
        own = [each for each in _built(asked, where, mend) if _configured(each, where, mend) == network.config]
        threads = threads or max((each.threads for each in own), default=None)
        own = [each for each in own if each.threads == threads]
        if own:
            last = last or record
        found = {each.path: each for each in own} | found
        if all(name in found for name, path in PATHS.items() if path.infers and device in path.devices):
            break
    if last is None or threads is None:
        return None
    return Found(Setting(device, batch, threads), tuple(found.values()), last["machine"], last["when"])


def _built(given: Iterable[_Record], where: str, mend: str) -> list[Measurement]:
    try:
        return [json_records.build(Measurement, each) for each in given]
    except ValueError as error:
        raise InputError(f"{where}: no whole run of `rosetta bench`: {error}; {mend}") from None


def _configured(measurement: Measurement, where: str, mend: str) -> catalog.Config:
    try:
        return catalog.get(measurement.network, **measurement.config).config
    except ConfigError as error:
        raise InputError(f"{where}: a measurement of no network of this version: {error}; {mend}") from None
