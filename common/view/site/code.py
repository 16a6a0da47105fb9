"""Syntax highlighting of Python with Pygments, with short class names to keep the pages small."""

from __future__ import annotations

import functools
import html
import itertools
from typing import Any

from pygments import token
from pygments.lexers.python import PythonLexer

from common.backends import environments
from common.view.side_by_side.model import Snippet

__all__ = ["highlighted", "lines_of"]

_CLASSES = {
    token.Comment: "c",
    token.Keyword: "k",
    token.Operator.Word: "k",
    token.Literal.Number: "m",
    token.Literal.String: "s",
    token.Literal.String.Doc: "d",
    token.Name.Class: "f",
    token.Name.Function: "f",
    token.Name.Decorator: "a",
    token.Name.Builtin.Pseudo: "v",
}
"""CSS class of each token type and its subtypes. Other tokens have no class."""


def highlighted(source: str) -> list[str]:
    """Return the lines of Python source as HTML. A token of several lines is marked up in each line."""
    lines = [""]
    for style, tokens in itertools.groupby(PythonLexer(stripnl=False, ensurenl=False).get_tokens(source), _style):
        for i, piece in enumerate("".join(text for _, text in tokens).split("\n")):
            if i:
                lines.append("")
            escaped = html.escape(piece, quote=False)
            lines[-1] += f'<b class="{style}">{escaped}</b>' if style and piece.strip() else escaped
    return lines


def _style(typed: tuple[Any, str]) -> str:
    kind, _ = typed
    while kind not in _CLASSES and kind.parent is not None:
        kind = kind.parent
    return _CLASSES.get(kind, "")


@functools.cache
def _file(path: str) -> list[str]:
    """Return the highlighted lines of a file. The whole file is lexed, because a snippet may start inside a string."""
    return highlighted(environments.PROJECT.joinpath(path).read_text(encoding="utf-8"))


def lines_of(snippet: Snippet) -> list[tuple[int, int, str]]:
    """Return the number, the indentation and the HTML of each line of a snippet."""
    lines = zip(
        snippet.source.split("\n"), _file(snippet.path)[snippet.first_line - 1 : snippet.last_line], strict=True
    )
    return [
        (number, len(text) - len(text.lstrip()), line)
        for number, (text, line) in enumerate(lines, start=snippet.first_line)
    ]
