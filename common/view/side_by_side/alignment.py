"""Classes and functions that correspond, cut into pieces and put side by side in rows."""

from __future__ import annotations

import ast
import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.backends.registry import BACKENDS
from common.view.side_by_side.ast_source import METHODS, Definition, File, Making, Run, end
from common.view.side_by_side.model import Row, Section, Snippet
from common.view.side_by_side.names import ABSENT, LEAVES

__all__ = ["order_note", "sections_of"]


def sections_of(
    title: str,
    definitions: Mapping[str, Sequence[Definition]],
    alone: set[Definition],
    paths: Sequence[str] = (),
    all_paths: Iterable[str] = (),
) -> Iterator[Section]:
    """Iterate over the section of classes or functions that correspond, and those of what they use in their files.

    `alone`: what has a section of its own, and is no part of this one.
    """
    own = {name: [each for one in given for each in _lineage(one, alone)] for name, given in definitions.items()}
    yield _section(title, own, definitions, paths, all_paths)
    done = {each for given in own.values() for each in given}
    queue = {name: list(dict.fromkeys(given)) for name, given in own.items()}
    helpers: dict[str, dict[str, list[Definition]]] = {}
    for name, waiting in queue.items():
        for definition in waiting:
            for used in definition.uses:
                if used not in done and used not in alone:
                    done.add(used)
                    waiting.append(used)
                    helpers.setdefault(used.name, {each: [] for each in BACKENDS})[name].append(used)
    for name, given in helpers.items():
        yield _section(name, given, given)


def _lineage(definition: Definition, alone: set[Definition]) -> list[Definition]:
    """Return a definition behind those of its bases that stand in the same file and have no section of their own."""
    inherited = [
        base
        for base in reversed(definition.bases)
        if base.file is definition.file
        and base not in alone
        and (base.name.startswith("_") or base.file.name != "layers")
    ]
    return [*inherited, definition]


def _section(
    title: str,
    definitions: Mapping[str, Sequence[Definition]],
    named: Mapping[str, Sequence[Definition]],
    paths: Sequence[str] = (),
    all_paths: Iterable[str] = (),
) -> Section:
    columns = {
        name: [piece for definition in _in_file_order(own) for piece in _pieces(definition)]
        for name, own in definitions.items()
        if own
    }
    in_order = {name: order_note(own[-1]) for name, own in definitions.items() if own and own[-1].container}
    rows = []
    for key, aligned in _align(columns):
        rows.append(
            Row(
                key,
                {name: piece.snippet for name, piece in aligned.items()},
                _made_by(aligned.values(), paths, all_paths),
                {name: note for name, note in in_order.items() if key == "forward" and name not in aligned},
            )
        )
    return Section(
        title,
        {name: ", ".join(dict.fromkeys(each.name for each in own)) for name, own in named.items() if own},
        tuple(rows),
        tuple(paths),
        {name: ABSENT[title, name] for name in BACKENDS if (title, name) in ABSENT and not definitions.get(name)},
    )


def _made_by(pieces: Iterable[_Piece], owners: Iterable[str], paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of what pieces make, in the first of the owners in which they make anything."""
    for owner in owners:
        inside = [path for path in paths if path and path.rpartition(".")[0] == owner]
        made = tuple(path for path in inside if any(piece.makes(path.rpartition(".")[2]) for piece in pieces))
        if made:
            return made
    return ()


def _in_file_order(definitions: Iterable[Definition]) -> list[Definition]:
    """Return definitions of one implementation, each once, as a reader of its files comes by them."""
    return sorted(dict.fromkeys(definitions), key=lambda each: (each.file.name, each.node.lineno))


@dataclass(frozen=True)
class _Piece:
    """Lines that have one purpose: `role`, and of a statement what it makes or runs, the last of `names` foremost.

    `others`: the attributes that are made elsewhere, and so not by a pattern here.
    """

    role: str
    snippet: Snippet
    names: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()
    others: frozenset[str] = frozenset()

    def makes(self, name: str) -> bool:
        """Whether these lines make the attribute `name`."""
        return name not in self.others and any(pattern.fullmatch(name) for pattern in self.patterns)

    def key(self, common: set[str]) -> str:
        """Return what tells these lines from others: the last name that is among the common ones, or else the last."""
        names = [name for name in self.names if name in common] or self.names
        return f"{self.role}: {names[-1]}" if names else self.role


def _pieces(definition: Definition) -> Iterator[_Piece]:
    """Cut a definition into pieces which together are all of its lines, with the comments above it."""
    source, node = definition.file, definition.node
    line = _begin(source, node)

    def cut(role: str, last: int, *names: str, makes: Sequence[Making] = ()) -> _Piece:
        nonlocal line
        others = {making.name for _, making in definition.makings} - set(names)
        patterns = tuple(making.pattern for making in makes)
        piece = _Piece(role, source.snippet(line, last), names, patterns, frozenset(others))
        line = last + 1
        return piece

    if isinstance(node, ast.FunctionDef):
        yield cut("def", _head_end(source, node))
        yield cut("body", end(node))
    elif not isinstance(node, ast.ClassDef):
        yield cut(definition.name, end(definition.statements[-1]))
    else:
        yield cut("class", _head_end(source, node))
        for statement, following in itertools.zip_longest(node.body, node.body[1:]):
            if isinstance(statement, ast.FunctionDef):
                yield from _method_pieces(definition, statement, cut)
            elif not _is_docstring(statement):
                yield cut(_purpose(statement), end(following if _is_docstring(following) else statement))


def _method_pieces(definition: Definition, method: ast.FunctionDef, cut: Callable[..., _Piece]) -> Iterator[_Piece]:
    """Cut a method: its head, and its body, statement by statement where that can be aligned."""
    role = METHODS.get(method.name, method.name)
    head = _head_end(definition.file, method)
    yield cut(role, head)
    steps = [statement for statement in method.body if end(statement) > head]
    if role == "__init__":
        for step in steps:
            makes = [making for _, making in definition.makings if making.enclosing is step]
            names = [LEAVES.get(making.name, making.name) for making in makes]
            yield cut(role, end(step), *(reversed(names) if names else [_purpose(step)]), makes=makes)
    elif role == "forward":
        for step in steps:
            runs = [run for _, run in definition.runs if run.of_self and run.enclosing is step]
            names = [name for run in runs for name in _run_names(definition, run)]
            yield cut(role, end(step), *(names or [_purpose(step)]))
    elif steps:
        yield cut(f"{role}: body", end(method))


def _run_names(definition: Definition, run: Run) -> list[str]:
    """Return the names of the attributes that a step of the forward pass runs; a loop over all runs each."""
    return [making.name for _, making in definition.makings] if run.pattern is None else [run.name]


def _purpose(statement: ast.stmt) -> str:
    """Return what statements that correspond have in common: what they assign to or call, or else their kind."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return ast.unparse(statement.targets[0] if isinstance(statement, ast.Assign) else statement.target)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return ast.unparse(statement.value.func)
    return type(statement).__name__.lower()


def _align(columns: Mapping[str, Sequence[_Piece]]) -> Iterator[tuple[str, dict[str, _Piece]]]:
    """Iterate over rows of pieces with the same key, which comes with them; every column keeps its order."""
    common = {role: _common(columns, role) for role in ("__init__", "forward")}
    rows: list[tuple[str, dict[str, _Piece]]] = []
    for name, pieces in columns.items():
        keys = [piece.key(common.get(piece.role, set())) for piece in pieces]
        merged: list[tuple[str, dict[str, _Piece]]] = []
        for row, i in _merge([key for key, _ in rows], keys):
            key, cells = rows[row] if row is not None else (keys[i or 0], {})
            merged.append((key, cells if i is None else {**cells, name: pieces[i]}))
        rows = merged
    yield from rows


def _common(columns: Mapping[str, Sequence[_Piece]], role: str) -> set[str]:
    """Return the names that the pieces of a role have in every column that has more than its head."""
    named = [{name for piece in pieces if piece.role == role for name in piece.names} for pieces in columns.values()]
    return set.intersection(*filter(None, named)) if any(named) else set()


def _merge(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[int | None, int | None]]:
    """Iterate over the indices of two sequences in order, with equal elements that `difflib` matches in one pair."""
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            yield from zip(range(i, i_end), range(j, j_end), strict=True)
        else:
            yield from ((index, None) for index in range(i, i_end))
            yield from ((None, index) for index in range(j, j_end))


def _is_docstring(statement: ast.stmt | None) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _begin(source: File, statement: ast.stmt) -> int:
    """Return the line at which a definition begins, with its decorators and the comment right above it."""
    line = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", ()))])
    while line > 1 and source.lines[line - 2].startswith("#"):
        line -= 1
    return line


def _head_end(source: File, node: ast.ClassDef | ast.FunctionDef) -> int:
    """Return the last line of a definition's signature and docstring."""
    first = node.body[0]
    if _is_docstring(first):
        return end(first)
    line = min([first.lineno, *(each.lineno for each in getattr(first, "decorator_list", ()))]) - 1
    while not source.lines[line - 1].strip() or source.lines[line - 1].lstrip().startswith("#"):
        line -= 1
    return line


def order_note(definition: Definition) -> str:
    """Return what takes the place of a forward pass that is not written out, "" where one is."""
    return f"{definition.container} runs its attributes in order" if definition.container else ""
