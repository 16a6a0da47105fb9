"""What goes to a terminal: the console, tables that fit it, progress. Nothing here imports anything heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

__all__ = ["console", "print_fitted", "with_progress"]

_WIDE = 10_000
"""Wider than any table, to ask how narrow it can be."""


def console() -> Console:
    """Return the console that tables go to."""
    from rich.console import Console

    # Away from a terminal there is no width to fit: lines stay whole. Brackets in paths and messages are no markup.
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 300)


def print_fitted(screen: Console, table: Table, keys: int = 1) -> None:
    """Print a table without lines: whole, or on a narrow screen in parts, each with the first `keys` columns.

    Rich alone would shorten words and numbers until all columns fit. Here text is wrapped between words, and numbers,
    which are aligned to the right, never.
    """
    spans = [_span(screen, column) for column in table.columns]
    first, part = list(range(keys)), list[int]()
    for i in range(keys, len(spans)):
        if part and _width(table, [spans[each][0] for each in (*first, *part, i)]) > screen.width:
            _print_part(screen, table, first + part, spans)
            screen.print()
            part = []
        part.append(i)
    _print_part(screen, table, first + part, spans)


def _span(screen: Console, column: Column) -> tuple[int, int]:
    """Return the least and the most characters that a column can make use of."""
    from rich.measure import Measurement

    wide = screen.options.update(width=_WIDE)
    cells = [Measurement.get(screen, wide, cell) for cell in (column.header, *column.cells)]
    most = max(cell.maximum for cell in cells)
    return most if column.no_wrap or column.justify == "right" else max(cell.minimum for cell in cells), most


def _width(table: Table, columns: Sequence[int]) -> int:
    """Return how wide columns of these widths are side by side."""
    _, right, _, left = table.padding
    return sum(columns) + (right + left) * (len(columns) if table.pad_edge else len(columns) - 1)


def _print_part(screen: Console, table: Table, chosen: Sequence[int], spans: Sequence[tuple[int, int]]) -> None:
    """Print some columns of a table: with its title where they are its first, with its caption where its last."""
    from rich.table import Table

    widths = {i: spans[i][0] for i in chosen}
    room = screen.width - _width(table, list(widths.values()))
    # What there is room for beyond the least goes first to those that need little.
    for count, i in enumerate(sorted(chosen, key=lambda i: spans[i][1] - spans[i][0])):
        more = max(min(spans[i][1] - spans[i][0], room // (len(chosen) - count)), 0)
        widths[i] += more
        room -= more
    part = Table(box=None, padding=table.padding, pad_edge=table.pad_edge, show_header=table.show_header)
    part.title_justify = part.caption_justify = "left"
    part.title_style = table.title_style
    part.title = table.title if chosen == list(range(len(chosen))) else None
    part.caption = table.caption if chosen[-1] == len(spans) - 1 else None
    for i in chosen:
        column = table.columns[i]
        part.add_column(column.header, width=widths[i], justify=column.justify, vertical=column.vertical)
    for cells in zip(*(table.columns[i].cells for i in chosen), strict=True):
        part.add_row(*cells)
    # One column may be wider than the screen, whose own matter it is then to break lines.
    before, needed = screen.width, _width(table, list(widths.values()))
    screen.width = max(before, needed)
    screen.print(part)
    screen.width = before


def _progress_lines(name: str, done: int, total: int) -> None:
    """Show progress where there is no terminal: a line for each quarter of a backend's work."""
    if done == total or done * 4 // total > (done - 1) * 4 // total:
        click.echo(f"{'reference' if name == 'numpy' else name}: {done} of {total}", err=True)


def with_progress(work: Callable[[Callable[[str, int, int], None]], Any], backends: Sequence[str]) -> Any:
    """Do `work(progress)` with a bar for each backend on a terminal, or lines on standard error away from one."""
    if not sys.stderr.isatty():
        return work(_progress_lines)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {name: bars.add_task("reference" if name == "numpy" else name, total=None) for name in backends}
        return work(lambda name, done, total: bars.update(tasks[name], completed=done, total=total))
