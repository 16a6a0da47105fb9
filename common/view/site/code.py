"""Python, highlighted by Pygments: as few classes as the style sheet has colors, so that pages stay small."""

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
"""The style sheet's class of a kind of token, and of all that are of that kind; the others have none."""


def highlighted(source: str) -> list[str]:
    """Return the lines of a piece of Python as HTML; what spans lines is marked in each."""
    lines = [""]
    for style, tokens in itertools.groupby(PythonLexer(stripnl=False, ensurenl=False).get_tokens(source), _style):
        for i, piece in enumerate("".join(text for _, text in tokens).split("\n")):
            if i:
                lines.append("")
            escaped = html.escape(piece, quote=False)
            lines[-1] += f'<b class="{style}">{escaped}</b>' if style and piece.strip() else escaped
    return lines


def _style(given: tuple[Any, str]) -> str:
    kind, _ = given
    while kind not in _CLASSES and kind.parent is not None:
        kind = kind.parent
    return _CLASSES.get(kind, "")


@functools.cache
def _file(path: str) -> list[str]:
    """Return the lines of a file of the project: of a part alone, a lexer may not know that it begins in a string."""
    return highlighted(environments.PROJECT.joinpath(path).read_text(encoding="utf-8"))


def lines_of(snippet: Snippet) -> list[tuple[int, int, str]]:
    """Return the number, the indentation and the HTML of each line of a snippet."""
    found = _file(snippet.path)[snippet.first_line - 1 : snippet.last_line]
    plain = snippet.source.split("\n")
    return [
        (number, len(text) - len(text.lstrip()), line)
        for number, (text, line) in enumerate(zip(plain, found, strict=True), start=snippet.first_line)
    ]
