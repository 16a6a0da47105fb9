"""Render a parity report as tables for the terminal, JSON, JUnit XML or one self-contained HTML page."""

from __future__ import annotations

import datetime
import importlib.resources
import json
import math
import platform
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from common.backends import registry
from common.catalog import Network, get
from common.parity.comparison import TapError
from common.parity.results import Cell, Report
from common.parity.tolerances import SAFETY_FACTOR, Check, reasons
from common.reference import ExternalNetwork
from common.terminal import print_fitted

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "context",
    "print_check",
    "print_diagnosis",
    "print_summary",
    "print_table",
    "to_html",
    "to_json",
    "to_junit",
    "to_record",
]

_STYLES = {"agree": "green", "disagree": "bold red", "vacuous": "yellow", "error": "bold red", "missing": "yellow"}
_SHORT = {"float64": "f64", "float32": "f32"}
_CLOSE_STYLE = "yellow"


def _number(error: float) -> str:
    return f"{error:.1e}" if math.isfinite(error) else "not comparable"


def _with_percentage(error: TapError) -> str:
    """Return an error as text, with the percentage of its tolerance if it passes."""
    return f"{_number(error.error)} {error.tolerance_used:.0%}" if error.agrees else _number(error.error)


CAPTION = "Each cell: the error nearest its tolerance, the share of the tolerance it uses, and the layer or tensor."


def cell_text(cell: Cell) -> tuple[str, str]:
    """Return the two texts of a cell: the error with its percentage of the tolerance, and the tap or tensor."""
    if cell.status == "disagree" and (first := cell.first_divergence) is not None:
        return f"✗ {_number(first.error)}", f"first at {_name(first)}"
    if cell.worst is None:
        return "✗ failed" if cell.status == "error" else cell.status, ""
    mark = "✓" if cell.status == "agree" else "? vacuous"
    return f"{mark} {_with_percentage(cell.worst)}", _name(cell.worst).removeprefix("gradient of ")


def _style(cell: Cell) -> str:
    return _CLOSE_STYLE if cell.close else _STYLES[cell.status]


def _name(error: TapError) -> str:
    return f"{error.input} {error.tap}" if error.input == "derivative" else error.tap


def _label(network: str, variant: str) -> str:
    return f"{network} {variant}".strip()


def _backend_names(report: Report) -> dict[str, str]:
    """Return the column headings: each backend with its framework's version."""
    names = {}
    for name in report.settings.backends:
        version = report.versions.get(name, {}).get(registry.get(name).distributions[0], "")
        names[name] = f"{name} {version}".strip()
    return names


def _sentence(report: Report) -> str:
    counts = [
        f"{count} {'pass' if status == 'agree' else status}" for status, count in report.summary().items() if count
    ]
    if report.close:
        counts.insert(1, f"{report.close} close to their tolerance")
    return f"{', '.join(counts)} in {report.seconds:.0f} s"


def _print_line(console: Console, line: str, status: str) -> None:
    from rich.text import Text

    console.print(Text(line, style=_STYLES[status]), soft_wrap=True)


def print_table(report: Report, console: Console) -> None:
    """Print one table per check, a row per network and dtype and a column per backend; below them, what failed."""
    for check in dict.fromkeys(check for check, _, _ in report.rows):
        print_check(report, check, console)
    print_summary(report, console)


def print_check(report: Report, check: Check, console: Console) -> None:
    """Print the table of one check."""
    from rich.table import Table
    from rich.text import Text

    table = Table(check, "", *_backend_names(report).values(), pad_edge=False, box=None)
    for row_check, network, variant in report.rows:
        if row_check != check:
            continue
        cells = report.row(check, network, variant)
        for dtype in dict.fromkeys(cell.dtype for cell in cells):
            texts = [
                Text(" ".join(cell_text(cell)).strip(), style=_style(cell)) if cell else Text()
                for cell in _across(report, cells, dtype)
            ]
            first = _label(network, variant) if dtype == cells[0].dtype else ""
            table.add_row(Text(first), _SHORT[dtype], *texts)
    print_fitted(console, table, keys=2)
    console.print()


def print_summary(report: Report, console: Console) -> None:
    """Print what failed and why, and how many cells passed."""
    names = report.settings.backends
    if any(cell.errors for cell in report.cells):
        console.print(f"{CAPTION}\n", soft_wrap=True)
    for status, message in (report.unavailable[name] for name in names if name in report.unavailable):
        _print_line(console, message, status)
    for cell in report.cells:
        if cell.detail and cell.backend not in report.unavailable:
            where = f"{cell.check} {_label(cell.network, cell.variant)} {_SHORT[cell.dtype]} {cell.backend}"
            _print_line(console, f"{where}: {cell.status}: {cell.detail}", cell.status)
    _print_findings(report, console)
    for basis, networks in _bases(report).items():
        console.print(f"{', '.join(networks)}: tolerances come from {basis}", soft_wrap=True, markup=False)
    for pair in report.pairs:
        if pair.status != "agree":
            where = f"{pair.check} {_label(pair.network, pair.variant)} {_SHORT[pair.dtype]}"
            difference = f"{' and '.join(pair.backends)} differ by {_number(pair.worst.error)} at {pair.worst.tap}"
            _print_line(console, f"{where}: {difference}", "disagree")
    console.print(_sentence(report))


def _bases(report: Report) -> dict[str, list[str]]:
    """Return where tolerances come from if their network was not measured at this size, with those networks."""
    found: dict[str, list[str]] = {}
    for cell in report.cells:
        if cell.basis and cell.network not in found.setdefault(cell.basis, []):
            found[cell.basis].append(cell.network)
    return found


def _across(report: Report, cells: Sequence[Cell], dtype: str) -> list[Cell | None]:
    """Return a row's cells of one dtype in the order of the backends; None for a backend without one."""
    found = {cell.backend: cell for cell in cells if cell.dtype == dtype}
    return [found.get(name) for name in report.settings.backends]


def _print_findings(report: Report, console: Console) -> None:
    """Print each finding once, with the checks and dtypes that showed it."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in report.cells:
        for finding in cell.findings:
            checks = found.setdefault((f"{_label(cell.network, cell.variant)} {cell.backend}", finding), [])
            checks.append(f"{cell.check} {_SHORT[cell.dtype]}")
    for (where, finding), checks in found.items():
        _print_line(console, f"{where}: {finding} ({', '.join(checks)})", "disagree")


def print_diagnosis(report: Report, console: Console, everything: bool = False) -> None:
    """Print the taps that differ (all of them if `everything`): error within the network, and of the layer alone."""
    from rich.table import Table
    from rich.text import Text

    def mark(error: TapError | None) -> Text:
        if error is None:
            return Text("")
        style = _STYLES["disagree"] if not error.agrees else _CLOSE_STYLE if error.close else _STYLES["agree"]
        return Text(f"{'✓' if error.agrees else '✗'} {_number(error.error)}", style=style)

    for cell in report.cells:
        if cell.status in ("missing", "error"):
            _print_line(console, f"{cell.check}: {cell.status}: {cell.detail}", cell.status)
            continue
        alone = {error.tap: error for error in cell.isolated}
        table = Table(cell.check, "in the network", "alone", pad_edge=False, box=None)
        for tap, (found,) in _tap_rows([cell]):
            both = (found, alone.get(tap))
            if everything or any(error is not None and not error.agrees for error in both):
                table.add_row(tap, *map(mark, both))
        if table.row_count:
            print_fitted(console, table)
        taps = len({error.tap for error in cell.errors})
        if cell.status == "agree":
            console.print(f"{cell.check}: all {taps} taps of {cell.network} pass, in the network and alone")
        elif cell.detail:
            _print_line(console, f"{cell.check}: {cell.status}: {cell.detail}", cell.status)
    _print_findings(report, console)


def _worst_json(error: TapError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    finite = math.isfinite(error.error)
    return {
        **_error_json(error),
        "share": error.error / error.limit.budget if finite else None,
        "tolerance_used": error.tolerance_used if finite else None,
    }


def _error_json(error: TapError) -> dict[str, Any]:
    return {
        "tap": error.tap,
        "input": error.input,
        "error": error.error if math.isfinite(error.error) else None,
        "budget": error.limit.budget,
        "tolerance": error.limit.tolerance,
    }


def to_record(report: Report) -> dict[str, Any]:
    """Return the report as JSON-ready data, schema 1; an infinite error is None.

    A result's `errors` are those of every tap and input, and of every gradient or weight, in network order. `budget` is
    the largest error that rounding was measured to cause, `share` the error divided by it.
    """
    return {
        "schema": 1,
        "backends": {
            name: dict(
                zip(("status", "detail"), report.unavailable.get(name, ("ready", "")), strict=True),
                versions=report.versions.get(name, {}),
            )
            for name in report.settings.backends
        },
        "results": [
            {
                "network": cell.network,
                "check": cell.check,
                "variant": cell.variant,
                "dtype": cell.dtype,
                "backend": cell.backend,
                "status": cell.status,
                "worst": _worst_json(cell.worst),
                "first_divergence": cell.first_divergence.tap if cell.first_divergence else None,
                "taps": len({error.tap for error in cell.errors}),
                "seconds": round(cell.seconds, 3),
                "peak_bytes": cell.peak_bytes,
                "envelope": cell.rounding_spread,
                "detail": cell.detail,
                "findings": list(cell.findings),
                "over_budget": cell.status == "agree" and any(e.error > e.limit.budget for e in cell.errors),
                "close": cell.close,
                "basis": cell.basis,
                "errors": [_error_json(error) for error in cell.errors],
            }
            for cell in report.cells
        ],
        "pairs": [
            {
                "network": pair.network,
                "check": pair.check,
                "variant": pair.variant,
                "dtype": pair.dtype,
                "backends": list(pair.backends),
                "status": pair.status,
                "worst": _worst_json(pair.worst),
            }
            for pair in report.pairs
        ],
        "summary": report.summary(),
        "settings": {
            "batch": report.settings.batch,
            "seed": report.settings.seed,
            "networks": {network.name: network.settings() for network in report.settings.networks},
        },
        "seconds": round(report.seconds, 3),
    }


def to_json(report: Report) -> str:
    """Return the report as JSON."""
    return json.dumps(to_record(report), indent=1)


def to_junit(report: Report) -> str:
    """Return the report as JUnit XML: one suite per backend, one case per network, check and dtype."""
    from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

    document = JUnitXml("rosetta parity")
    for backend in report.settings.backends:
        suite = TestSuite(backend)
        for cell in report.cells:
            if cell.backend != backend:
                continue
            case = TestCase(
                f"{_label(cell.network, cell.variant)} {cell.check} {cell.dtype}",
                f"parity.{backend}",
                round(cell.seconds, 3),
            )
            message = " ".join(filter(None, [*cell_text(cell), cell.detail]))
            if cell.status in ("disagree", "vacuous"):
                case.result = [Failure(message, cell.status)]
            elif cell.status in ("error", "missing"):
                case.result = [Error(message, cell.status)]
            if cell.worst is not None:
                case.system_out = f"{message}{'; close to its tolerance' * cell.close}"
            suite.add_testcase(case)
        document.add_testsuite(suite)
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text.decode()


def _tap_rows(cells: Sequence[Cell]) -> list[tuple[str, list[TapError | None]]]:
    """Return each tap with one error per cell, on the worst input."""
    found: dict[str, list[TapError | None]] = {}
    for column, cell in enumerate(cells):
        for error in cell.errors:
            row = found.setdefault(_name(error), [None] * len(cells))
            before = row[column]
            if before is None or error.tolerance_used > before.tolerance_used:
                row[column] = error
    return list(found.items())


def _command(report: Report, check: Check, network: Network, variant: str) -> str:
    """Return the command that repeats one row of a report; "" for external models, which have none."""
    if isinstance(network, ExternalNetwork):
        return ""
    settings = report.settings
    usual = get(network.name).settings()
    config = {name: value for name, value in network.settings().items() if value != usual[name]}
    given = ["rosetta", "parity", network.name, "--checks", check, "--backends", ",".join(settings.backends)]
    given += ["--batch", str(settings.batch)] if settings.batch else []
    given += ["--seed", str(settings.seed)]
    given += ["--optimizers", variant] if variant else []
    return shlex.join(given + (["--config", json.dumps(config)] if config else []))


def context(report: Report) -> dict[str, Any]:
    """Return the variables of the HTML templates: the rows with their taps, and functions that format them."""
    entries = {network.name: network for network in report.settings.networks}
    rows: list[dict[str, Any]] = []
    for check, network, variant in report.rows:
        cells = report.row(check, network, variant)
        rows.append(
            {
                "check": check,
                "label": _label(network, variant),
                "id": "-".join(filter(None, (check, network, variant))),
                "entry": entries[network],
                "cells": cells,
                "by_dtype": {
                    dtype: _across(report, cells, dtype) for dtype in dict.fromkeys(cell.dtype for cell in cells)
                },
                "taps": _tap_rows(cells),
                "command": _command(report, check, entries[network], variant),
                "failing": any(cell.status not in ("agree", "missing") for cell in cells),
            }
        )
    return {
        "report": report,
        "backends": _backend_names(report),
        "rows": rows,
        "failing_first": sorted(rows, key=lambda row: not row["failing"]),
        "checks": list(dict.fromkeys(row["check"] for row in rows)),
        "caption": CAPTION,
        "cell_text": cell_text,
        "number": _number,
        "with_percentage": _with_percentage,
        "bases": _bases(report),
        "label": _label,
        "short": _SHORT,
        "reasons": {check: reason for check, reason in reasons().items() if check in report.settings.checks},
        "safety_factor": SAFETY_FACTOR,
        "sentence": _sentence(report),
    }


def to_html(report: Report) -> str:
    """Return the report as one self-contained HTML page: the tables, then every row tap by tap."""
    from jinja2 import Environment, StrictUndefined

    source = importlib.resources.files("common.parity").joinpath("report.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(source).render(
        **context(report),
        machine=f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
