"""Benchmark results for the site: tables and charts per network and run, and facts about the runtimes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.catalog import NETWORKS
from common.deploy.bench.results import Measurement, Run
from common.deploy.execution_paths import PATHS
from common.deploy.recommend import facts
from common.deploy.recommend.criteria import AXES, COLD, DISK, LATENCY, MEMORY, P95, THROUGHPUT, Quantity, shown
from common.deploy.recommend.rank import front
from common.view.site import cost_charts

__all__ = ["BEST", "COLUMNS", "RunInfo", "Section", "Table", "runtime_facts", "sections"]

COLUMNS = (LATENCY, P95, THROUGHPUT, MEMORY, DISK, COLD)
BEST = AXES
"""Quantities for which the overview names the best execution path. For each, less is better."""


@dataclass(frozen=True)
class Row:
    """One execution path: a (value, confidence interval) pair of texts per column, or an error message."""

    path: str
    backend: str
    status: str
    message: str
    figures: Sequence[tuple[str, str]]
    on_pareto_front: bool


@dataclass(frozen=True)
class Table:
    """Results for one mode, device, number of threads and batch size: fastest path first, failed paths last.

    `best` holds the best path and its value for each quantity in `BEST`. `chart` is an SVG of latency against memory,
    or empty.
    """

    title: str
    rows: Sequence[Row]
    best: Sequence[tuple[str, str]]
    chart: str


@dataclass(frozen=True)
class Section:
    """Results of one network configuration in one run.

    `config` is empty if it is the catalog's. `charts` are (title, SVG).
    """

    name: str
    anchor: str
    run: RunInfo
    config: Mapping[str, Any]
    charts: Sequence[tuple[str, str]]
    tables: Sequence[Table]

    @property
    def page(self) -> str:
        """File name of the network's benchmark page."""
        return f"{self.name}-benchmarks.html"


@dataclass(frozen=True)
class RunInfo:
    """The machine, date and package versions of a run."""

    anchor: str
    machine: str
    about: str
    when: str
    versions: Mapping[str, Any]


def sections(runs: Sequence[Run]) -> list[Section]:
    """Return one section per network configuration and run."""
    return [section for number, run in enumerate(runs, start=1) for section in _sections(run, number)]


def _sections(run: Run, number: int) -> Iterator[Section]:
    info = _run_info(run, number)
    by_network: dict[str, list[Measurement]] = {}
    for each in run.measurements:
        if each.path in PATHS:
            by_network.setdefault(f"{each.network} {_plain(each.config)}", []).append(each)
    for place, own in enumerate(by_network.values(), start=1):
        yield _section(own, f"run-{number}-{place}", info)


def _run_info(run: Run, number: int) -> RunInfo:
    machine = run.machine
    parts = [f"{machine['processors']} processors"] if "processors" in machine else []
    parts += [f"{machine['memory_bytes'] / 1e9:.0f} GB of memory"] if "memory_bytes" in machine else []
    parts += [str(machine[name]) for name in ("system", "gpu") if machine.get(name)]
    parts += ["interrupted: results are incomplete"] if run.interrupted else []
    name = str(machine.get("processor", "unknown processor"))
    return RunInfo(f"run-{number}", name, ", ".join(parts), run.when.partition("T")[0], run.versions)


def _section(measurements: Sequence[Measurement], anchor: str, run: RunInfo) -> Section:
    name, config = measurements[0].network, measurements[0].config
    usual = name in NETWORKS and _plain(NETWORKS[name].settings()) == _plain(config)
    charts, tables = [], []
    for (mode, device, threads), every in _grouped(measurements, ("mode", "device", "threads")):
        where = f"{mode}, {threads} thread{'s' if threads > 1 else ''}, {device}"
        measured = [each for each in every if each.status == "measured"]
        if any(THROUGHPUT.of(each) for each in measured):
            charts.append(
                (where, cost_charts.throughput(measured, f"Throughput of {name}, {where}, by execution path"))
            )
        for (batch,), own in _grouped(every, ("batch",)):
            tables.append(_table(own, f"{where}, batch {batch}", name))
    return Section(name, anchor, run, {} if usual else config, charts, tables)


def _plain(config: Mapping[str, Any]) -> str:
    """Return a configuration as text: the same for the tuples of the catalog and the lists of JSON."""
    return str(sorted(config.items())).replace("(", "[").replace(")", "]")


def _grouped(
    measurements: Sequence[Measurement], fields: tuple[str, ...]
) -> list[tuple[tuple[Any, ...], list[Measurement]]]:
    """Group measurements by the values of some fields, in the order of those values."""

    def key(each: Measurement) -> tuple[Any, ...]:
        return tuple(getattr(each, name) for name in fields)

    return [(fields, list(own)) for fields, own in itertools.groupby(sorted(measurements, key=key), key)]


def _table(measurements: Sequence[Measurement], title: str, network: str) -> Table:
    measured = [each for each in measurements if each.status == "measured"]
    best = front(measured)
    order = sorted(measured, key=lambda each: LATENCY.of(each) or 0.0)
    order += [each for each in measurements if each.status != "measured"]
    drawn = [each for each in measured if LATENCY.of(each) and MEMORY.of(each)]
    label = f"Latency of {network} against memory, {title}"
    chart = (
        cost_charts.latency_against_memory(drawn, [each for each in best if each in drawn], label)
        if len(drawn) > 1
        else ""
    )
    return Table(title, [_row(each, each in best) for each in order], [_best(each, measured) for each in BEST], chart)


def _best(quantity: Quantity, measurements: Sequence[Measurement]) -> tuple[str, str]:
    known = [each for each in measurements if quantity.of(each) is not None]
    if not known:
        return "", ""
    first = min(known, key=lambda each: quantity.of(each) or 0.0)
    return first.path, f"{shown(quantity.of(first))} {quantity.unit}"


def _row(measurement: Measurement, on_front: bool) -> Row:
    return Row(
        measurement.path,
        PATHS[measurement.path].backend,
        measurement.status,
        measurement.message,
        [_figure(quantity, measurement) for quantity in COLUMNS],
        on_front,
    )


def _figure(quantity: Quantity, measurement: Measurement) -> tuple[str, str]:
    interval = quantity.interval(measurement)
    bounds = "" if interval is None else f"{shown(interval.low)} to {shown(interval.high)}"
    return shown(quantity.of(measurement)), bounds


def runtime_facts() -> list[dict[str, Any]]:
    """Return the facts about each runtime, with their sources, in the order of the execution paths."""
    named = dict.fromkeys(path.needs[0] for path in PATHS.values())
    found = []
    for known in (facts.table()[name] for name in named):
        by_kind = {"state": known.status, "platforms": known.platforms, "license": known.license}
        by_kind |= {f"in {'C or C++' if place == 'c' else place}": fact for place, fact in known.elsewhere.items()}
        found.append({"name": known.name, "retired": known.retired, "facts": by_kind})
    return found
