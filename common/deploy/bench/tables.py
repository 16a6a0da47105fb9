"""Tables of benchmark results: one per network, mode and batch, with a row for each execution path."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from common.deploy.bench.history import Change
from common.deploy.bench.results import Interval, Measurement, Run

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["bytes_text", "changes_table", "group_title", "groups", "heading", "interruption", "seconds_text", "tables"]


def groups(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Group measurements of the same network and setting, in their order."""

    def key(one: Measurement) -> tuple[object, ...]:
        return one.network, sorted(one.config.items()), one.mode, one.device, one.threads, one.batch

    return [list(group) for _, group in itertools.groupby(measurements, key)]


def group_title(one: Measurement, batch: bool = True) -> str:
    """Return the title of a group: network, mode, batch and threads."""
    height, width = one.config["input_size"]
    threads = f"{one.threads} thread{'s' if one.threads > 1 else ''}" if one.device == "cpu" else one.device
    size = f"{one.config['in_channels']}x{height}x{width}, {one.config['num_classes']} classes"
    return f"{one.network} ({size}), {one.mode}, {f'batch {one.batch}, ' if batch else ''}{threads}"


def number_text(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value < 0.1 else f"{value:#.3g}"


def bytes_text(count: int | None) -> str:
    """Return bytes in MB of 10^6, "" for None."""
    return "" if count is None else f"{number_text(count / 1e6)} MB"


def seconds_text(seconds: float | None) -> str:
    """Return seconds with two decimals, "" for None."""
    return "" if seconds is None else f"{seconds:.2f} s"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{number_text(interval.value)} [{number_text(interval.low)}, {number_text(interval.high)}]"


def heading(run: Run) -> Iterator[str]:
    """Yield lines that describe the machine of a run."""
    machine = run.machine
    yield (
        f"{machine['processor']}, {machine['processors']} processors, {bytes_text(machine['memory_bytes'])}, "
        + ", ".join(filter(None, (machine["system"], machine.get("gpu"))))
    )
    for threads, rate in machine.get("matmul_gflops", {}).items():
        yield (
            f"at best, {threads} thread{'s' if threads != '1' else ''}: {rate:.0f} GFLOP/s in matrix products, "
            f"{machine['memory_gb_per_s'][threads]:.1f} GB/s from memory"
        )
    if run.interrupted:
        yield interruption(run)


def interruption(run: Run) -> str:
    """Return a line that says how many rounds an interrupted run finished."""
    rounds = {one.rounds for one in run.measurements if one.status == "measured"} or {0}
    ended = str(min(rounds)) if len(rounds) == 1 else f"{min(rounds)} to {max(rounds)}"
    return f"interrupted after {ended} of {run.settings['rounds']} rounds; rows that had not started are left out"


def tables(measurements: Sequence[Measurement]) -> Iterator[Table]:
    """Yield a table for each group."""
    for group in groups(measurements):
        yield _table(group)


def _table(group: Sequence[Measurement]) -> Table:
    from rich.table import Table

    energy = any(one.energy_joules is not None for one in group)
    title = group_title(group[0])
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    columns = ["ms [95%]", "p95", "p99", "images/s", "memory", "first answer", "again", "compile", "artifact"]
    columns += ["install", "error", *(["J/image"] if energy else [])]
    table.add_column("path", no_wrap=True)
    table.add_column("status")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for one in group:
        cold = one.cold_seconds
        table.add_row(
            one.path,
            one.status,
            _interval(one.latency_ms),
            *("" if value is None else number_text(value) for value in (one.p95_ms, one.p99_ms)),
            "" if one.images_per_second is None else number_text(one.images_per_second.value),
            bytes_text(one.peak_memory_bytes),
            seconds_text(cold.first_answer if cold else None),
            seconds_text(cold.again if cold else None),
            seconds_text(cold.compile if cold else None),
            bytes_text(one.artifact_bytes),
            bytes_text(one.install_bytes),
            "" if one.error is None else f"{one.error:.1e}",
            *(["" if one.energy_joules is None else f"{one.energy_joules:.3g}"] if energy else []),
        )
    return table


def changes_table(changes: Sequence[Change]) -> Table:
    """Return a table of the changes since the history's latest measurements."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("what", "path", "before", "ms before", "ms now", "ratio [range]", ""):
        table.add_column(column, no_wrap=True)
    for change in changes:
        table.add_row(
            group_title(change.now),
            change.now.path,
            change.when,
            _interval(change.before.latency_ms),
            _interval(change.now.latency_ms) or change.now.status,
            _interval(change.ratio),
            change.verdict,
        )
    return table
