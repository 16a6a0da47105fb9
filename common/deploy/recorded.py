"""What was measured before of one network under one setting: from the file of one run, or from the history of all.

A history grows long, and most of it is of other networks, batches and threads: only what is asked for is checked and
made into records, from the newest run back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import catalog, records
from common.catalog import Network
from common.deploy.machine import identity
from common.deploy.measurements import Measurement, Run
from common.deploy.paths import PATHS
from common.errors import ConfigError, InputError, shown

__all__ = ["Found", "Setting", "from_history", "from_run", "read_run", "settings_of", "whole_lines"]

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
        run: Run = records.build(Run, _parsed(str(path), _read(path), _AGAIN))
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
        records.parse(lines[-1])
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
        record = records.parse(text)
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
        return [records.build(Measurement, each) for each in given]
    except ValueError as error:
        raise InputError(f"{where}: no whole run of `rosetta bench`: {error}; {mend}") from None


def _configured(measurement: Measurement, where: str, mend: str) -> catalog.Config:
    try:
        return catalog.get(measurement.network, **measurement.config).config
    except ConfigError as error:
        raise InputError(f"{where}: a measurement of no network of this version: {error}; {mend}") from None
