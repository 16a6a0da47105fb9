"""Terminal output of `rosetta show`: one part in every implementation, in as many columns as fit."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from common.terminal import print_fitted
from common.view.side_by_side.model import Part, Row, Section, View, in_layout
from common.view.side_by_side.names import FRAMEWORKS_OWN

if TYPE_CHECKING:
    from rich.console import Console
    from rich.syntax import Syntax

__all__ = ["print_view"]

_MIN_COLUMN = 64
"""Minimum width of a column in characters, unless its code is narrower."""
_MIN_WIDTH = 40
"""Minimum total width in characters. On a narrower screen, lines wrap."""
_GUTTER = 5
"""Characters for the line numbers."""
_GAP = " │ "
_NAMED_PATHS = 3
"""Maximum number of paths in the heading of a class."""
_QUIET, _HEADING, _SHAPE = "bright_black", "cyan", "green"


def print_view(view: View, backends: Sequence[str], console: Console, width: int | None) -> None:
    """Print a view for some backends, in that order, in `width` characters.

    Without a width, the backends are printed one below the other, and no line is wrapped.
    """
    width = width and max(width, _MIN_WIDTH)
    parts = {part.path: part for part in view.parts}
    is_file = not parts and "." not in view.title
    shown = view.parts[0] if view.parts and view.parts[0].path else None
    console.print(Text(f"{view.title}  {shown.section or shown.kind}" if shown else view.title, style="bold"))
    if is_file:
        _print_list(view, backends, console)
    syntax = _syntax(console)
    for section in view.sections:
        names = [name for name in backends if name in section.names]
        absent = [name for name in backends if name in section.absent]
        docstring = _shared_docstring(section, names)
        if docstring:
            _print_text(docstring, console, width)
        elif names or absent:
            console.print()
            console.print(_rule(section, view, width), soft_wrap=True)
            for reason, having in itertools.groupby(absent, key=section.absent.__getitem__):
                _print_text(f"{', '.join(having)}: {reason}", console, width)
            count = _column_count(section, names, width)
            column_width = None if width is None else (width - (count - 1) * len(_GAP)) // count
            columns = [_Column(section, name, parts, column_width, syntax) for name in names]
            for first in range(0, len(columns), count):
                if first:
                    console.print()
                _print_side_by_side(section, columns[first : first + count], console)


def _print_text(text: str, console: Console, width: int | None) -> None:
    for line in text.splitlines():
        for each in textwrap.wrap(line, width or len(line) + 1) or [""]:
            console.print(Text(each), soft_wrap=True)


def _syntax(console: Console) -> Syntax | None:
    """Return a highlighter that uses the terminal's own colors, or None if the output has no colors."""
    if not console.is_terminal or console.no_color:
        return None
    from rich.syntax import Syntax

    return Syntax("", "python", theme="ansi_dark", background_color="default")


def _print_list(view: View, backends: Sequence[str], console: Console) -> None:
    """Print a table of a file's parts with their names in the implementations."""
    from rich.table import Table

    table = Table("part", *backends, box=None, pad_edge=False)
    for section in view.sections:
        own = FRAMEWORKS_OWN.get(section.title.removeprefix("layers."), {})
        table.add_row(section.title, *(section.names.get(name) or own.get(name, "") for name in backends))
    print_fitted(console, table)


def _shared_docstring(section: Section, names: Sequence[str]) -> str:
    """Return the module docstring if a section consists of it alone and it is the same in all files, otherwise ""."""
    if [row.key for row in section.rows] != ["docstring"]:
        return ""
    texts = {section.rows[0].cells[name].source for name in names}
    return texts.pop().strip('"').strip() if len(texts) == 1 else ""


def _rule(section: Section, view: View, width: int | None) -> Text:
    """Return the heading of a section: its title and the first paths of the network that it defines."""
    text = Text("── ", style=_HEADING)
    if section.title == view.title and section.paths:
        text.append("created and called")
    else:
        text.append(section.title, style="bold")
        paths = [path for path in section.paths if path]
        named = [_listed(paths, count) for count in range(1, min(len(paths), _NAMED_PATHS) + 1)]
        fitting = [each for each in named if not width or len(text) + 3 + len(each) <= width]
        text.append(f"  {fitting[-1]}" if fitting else "")
    text.append(" ")
    text.append("─" * max((width or 100) - len(text), 0))
    return text


def _listed(paths: Sequence[str], count: int) -> str:
    more = len(paths) - count
    return ", ".join(paths[:count]) + (f" and {more} more" if more else "")


def _column_count(section: Section, names: Sequence[str], width: int | None) -> int:
    """Return how many columns fit side by side, each as wide as its code or the minimum width."""
    if width is None or not names:
        return 1
    longest = max((len(line) - _indent(section, name) for name in names for line in _lines(section, name)), default=80)
    needed = min(_GUTTER + longest, _MIN_COLUMN)
    return max(1, min(len(names), (width + len(_GAP)) // (needed + len(_GAP))))


def _lines(section: Section, backend: str) -> list[str]:
    return [line for snippet in section.snippets(backend) for line in snippet.source.split("\n")]


def _indent(section: Section, backend: str) -> int:
    """Return the common indentation of all lines of a column."""
    return min((len(line) - len(line.lstrip()) for line in _lines(section, backend) if line.strip()), default=0)


def _print_side_by_side(section: Section, columns: Sequence[_Column], console: Console) -> None:
    """Print columns of a section, row by row, so that corresponding code starts on the same line."""
    lines = []
    for cells in [[column.head() for column in columns], *([c.cell(row) for c in columns] for row in section.rows)]:
        for across in itertools.zip_longest(*cells, fillvalue=Text()):
            line = Text()
            for text, column in zip(across, columns, strict=True):
                line.append(_GAP if column is not columns[0] else "", style=_QUIET)
                line.append_text(text)
                if column is not columns[-1]:
                    line.append(" " * ((column.width or 0) - text.cell_len))
            line.rstrip()
            lines.append(line)
    # One call takes a third of the time of a call per line.
    console.print(Text("\n").join(lines), soft_wrap=True)


class _Column:
    """One implementation's column of a section, `width` characters wide, or as wide as its lines if that is None."""

    def __init__(
        self, section: Section, backend: str, parts: Mapping[str, Part], width: int | None, syntax: Syntax | None
    ) -> None:
        self.section = section
        self.backend = backend
        self.parts = parts
        self.width = width
        self.indent = _indent(section, backend)
        self.last_line = 0
        self.code = self._highlighted(syntax)
        creating = [row for row in section.rows if backend in row.cells and row.parts]
        self.longest_shape = max((len(shape) for row in creating for shape in self._shapes(row)), default=0)
        # Shapes are right-aligned, or without a width placed after the longest line that has one.
        lasts = [row.cells[backend].source.splitlines()[-1] for row in creating]
        self.edge = width or _GUTTER + max(map(len, lasts), default=0) - self.indent + 2 + self.longest_shape

    def head(self) -> list[Text]:
        """Return the lines above the code: the implementation, its file, its name of the class, the output's shape."""
        name = self.section.names.get(self.backend, "")
        files = list(dict.fromkeys(snippet.path for snippet in self.section.snippets(self.backend)))
        words = [Text(self.backend, style="bold"), *map(Text, files)]
        if name and name not in (self.section.title.rpartition(".")[2], *files):
            words.append(Text(name))
        if self.section.paths and self.section.paths[0] in self.parts:
            words.append(Text(str(self.parts[self.section.paths[0]].shape_in(self.backend)), style=_SHAPE))
        lines = [Text()]
        for word in words:
            if self.width and lines[-1].cell_len + 2 + word.cell_len > self.width:
                lines.append(Text(" " * (_GUTTER - 2)))
            lines[-1].append("  " if lines[-1] else "").append_text(word)
        return lines

    def cell(self, row: Row) -> list[Text]:
        """Return the lines of one row: code with line numbers and output shapes, or a note.

        Call it for each row once, in order.
        """
        snippet = row.cells.get(self.backend)
        if snippet is None:
            return self._note(row.notes.get(self.backend, ""))
        # An empty line shows that lines of the file are left out.
        lines = [Text()] if self.last_line and snippet.first_line != self.last_line + 1 else []
        self.last_line = snippet.last_line
        for number in range(snippet.first_line, snippet.last_line + 1):
            first, *rest = self._wrapped(next(self.code))
            lines.append(Text.assemble((f"{number:>{_GUTTER - 1}} ", _QUIET), first))
            lines += [Text(" " * _GUTTER) + each for each in rest]
        shapes = [shape.ljust(self.longest_shape) for shape in self._shapes(row)]
        if len(shapes) == 1 and lines[-1].cell_len + 2 + len(shapes[0]) <= self.edge:
            lines[-1].append(shapes[0].rjust(self.edge - lines[-1].cell_len), style=_SHAPE)
        else:
            lines += [Text(shape.rjust(self.edge), style=_SHAPE) for shape in shapes]
        return lines

    def _shapes(self, row: Row) -> list[str]:
        """Return the output shapes of the parts in a row. Neighbors of one shape are merged: block2-block4 → (...)."""
        created = [self.parts[path] for path in row.parts if path in self.parts]
        shapes = []
        for shape, group in itertools.groupby(created, key=lambda part: part.shape):
            paths = [part.path for part in group]
            if paths[0].rpartition(".")[0] == self.section.paths[0]:
                paths = [path.rpartition(".")[2] for path in paths] if len(created) > 1 else []
            label = "-".join(dict.fromkeys([*paths[:1], *paths[-1:]]))
            shapes.append(f"{label} → {in_layout(shape, self.backend)}".lstrip())
        return shapes

    def _highlighted(self, syntax: Syntax | None) -> Iterator[Text]:
        """Iterate over all lines of the column. They are highlighted in one call, which is faster."""
        source = "\n".join(line[self.indent :] for line in _lines(self.section, self.backend))
        if syntax is None:
            return map(Text, source.split("\n"))
        return iter(syntax.highlight(source).split("\n", allow_blank=True))

    def _note(self, note: str) -> list[Text]:
        lines = textwrap.wrap(note, self.width - _GUTTER if self.width else len(note) + 1)
        return [Text(" " * _GUTTER + line, style=f"italic {_QUIET}") for line in lines]

    def _wrapped(self, line: Text) -> list[Text]:
        """Wrap a line of code that is too long for the column, at spaces if possible, with indented continuations."""
        if self.width is None:
            return [line]
        room = self.width - _GUTTER
        indent = _leading(line)
        lines = []
        while line.cell_len > room:
            space = line.plain.rfind(" ", _leading(line) + 1, room + 1)
            head, line = line.divide([space if space > 0 else room])
            lines.append(head)
            line = Text(" " * min(indent + 4, room // 2)) + line[_leading(line) :]
        return [*lines, line]


def _leading(line: Text) -> int:
    return len(line.plain) - len(line.plain.lstrip())
