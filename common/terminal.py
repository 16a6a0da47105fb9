"""A Rich console, and tables that fit a narrow terminal. Rich is imported when a table is printed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

__all__ = ["console", "print_fitted"]

_WIDE = 10_000
"""Characters: wider than any table."""


def console() -> Console:
    """Return a console on standard output."""
    from rich.console import Console

    # Lines stay whole when standard output is not a terminal. Brackets in paths and messages are not Rich markup.
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 300)


def print_fitted(screen: Console, table: Table, keys: int = 1) -> None:
    """Print a table without lines. On a narrow screen, split it into parts that each repeat the first `keys` columns.

    Rich alone would cut words and numbers until all columns fit. Here text wraps between words, and right-aligned
    columns, which hold numbers, never wrap.
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
    """Return the smallest and the largest useful width of a column, in characters."""
    from rich.measure import Measurement

    wide = screen.options.update(width=_WIDE)
    cells = [Measurement.get(screen, wide, cell) for cell in (column.header, *column.cells)]
    most = max(cell.maximum for cell in cells)
    return most if column.no_wrap or column.justify == "right" else max(cell.minimum for cell in cells), most


def _width(table: Table, columns: Sequence[int]) -> int:
    """Return the total width of columns of these widths, with their padding."""
    _, right, _, left = table.padding
    return sum(columns) + (right + left) * (len(columns) if table.pad_edge else len(columns) - 1)


def _print_part(screen: Console, table: Table, chosen: Sequence[int], spans: Sequence[tuple[int, int]]) -> None:
    """Print some columns of a table: the first ones under its title, the last ones above its caption."""
    from rich.table import Table

    widths = {i: spans[i][0] for i in chosen}
    spare = screen.width - _width(table, list(widths.values()))
    # Room beyond the smallest widths goes first to the columns that need the least of it.
    for count, i in enumerate(sorted(chosen, key=lambda i: spans[i][1] - spans[i][0])):
        more = max(min(spans[i][1] - spans[i][0], spare // (len(chosen) - count)), 0)
        widths[i] += more
        spare -= more
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
    # A single column may be wider than the screen; then the terminal breaks the lines.
    before, needed = screen.width, _width(table, list(widths.values()))
    screen.width = max(before, needed)
    screen.print(part)
    screen.width = before
