"""Reader of the JSON that `rosetta parity --json` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import catalog, json_records
from common.backends.registry import BACKENDS
from common.errors import ConfigError, InputError, shown, unknown
from common.parity.comparison import Limit, TapError
from common.parity.results import Cell, Pair, Report, Settings

__all__ = ["SCHEMA", "read"]

SCHEMA = 1


def read(path: Path) -> Report:
    """Return the report in a JSON file of `rosetta parity --json`.

    Raises InputError if the file cannot be read, is not a parity report, or has another schema.
    """
    again = "write it again with `rosetta parity --json`"
    try:
        record = json_records.parse(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); {again}") from None
    if not isinstance(record, dict) or "schema" not in record:
        raise InputError(f"{path}: not a parity report: it has no `schema`; {again}")
    if record["schema"] != SCHEMA:
        raise InputError(f"{path}: a parity report of schema {shown(record['schema'])}; expected {SCHEMA}; {again}")
    try:
        return _report(record)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"it has no `{error.args[0]}`" if isinstance(error, KeyError) else str(error)
        kind = "unknown network or configuration" if isinstance(error, ConfigError) else "not a complete parity report"
        raise InputError(f"{path}: {kind}: {what}; {again}") from None


def _report(record: Mapping[str, Any]) -> Report:
    for name in record["backends"]:
        if name not in BACKENDS:
            raise unknown("backend called", name, BACKENDS)
    given, results = record["settings"], record["results"]
    report = Report(
        Settings(
            [catalog.get(name, **config) for name, config in given["networks"].items()],
            list(record["backends"]),
            list(dict.fromkeys(result["check"] for result in results)),
            list(dict.fromkeys(result["dtype"] for result in results)),
            given["batch"],
            given["seed"],
        ),
        [_cell(result) for result in results],
        [_pair(pair) for pair in record["pairs"]],
        seconds=float(record["seconds"]),
    )
    networks = {network.name for network in report.settings.networks}
    for cell in report.cells:
        if cell.network not in networks or cell.backend not in record["backends"]:
            raise ValueError(f"a result is for {shown(cell.network)} in {shown(cell.backend)}, which it does not list")
    for name, backend in record["backends"].items():
        report.versions[name] = dict(backend["versions"])
        if backend["status"] != "ready":
            report.unavailable[name] = (str(backend["status"]), str(backend["detail"]))
    return report


def _cell(result: Mapping[str, Any]) -> Cell:
    names = ("network", "check", "variant", "dtype", "backend", "status", "detail")
    return Cell(
        **{name: result[name] for name in names},
        errors=tuple(map(_tap, result["errors"])),
        seconds=result["seconds"],
        peak_bytes=result["peak_bytes"],
        rounding_spread=result["envelope"],
        findings=tuple(result["findings"]),
        basis=result["basis"],
    )


def _pair(pair: Mapping[str, Any]) -> Pair:
    first, second = pair["backends"]
    names = ("network", "check", "variant", "dtype", "status")
    return Pair(**{name: pair[name] for name in names}, backends=(first, second), worst=_tap(pair["worst"]))


def _tap(error: Mapping[str, Any]) -> TapError:
    found = math.inf if error["error"] is None else float(error["error"])
    limit = Limit(float(error["budget"]), float(error["tolerance"]))
    return TapError(str(error["input"]), str(error["tap"]), found, limit)
