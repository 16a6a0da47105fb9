"""Aligns corresponding classes and functions: splits them into pieces and puts the pieces into rows."""

from __future__ import annotations

import ast
import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.backends.registry import BACKENDS
from common.view.side_by_side.ast_source import METHODS, Definition, File, Making, Run, end, start
from common.view.side_by_side.model import Row, Section, Snippet
from common.view.side_by_side.names import ABSENT, LEAVES

__all__ = ["order_note", "sections_of"]


def sections_of(
    title: str,
    definitions: Mapping[str, Sequence[Definition]],
    separate: set[Definition],
    paths: Sequence[str] = (),
    all_paths: Iterable[str] = (),
) -> Iterator[Section]:
    """Iterate over the section of corresponding classes or functions, and sections of the helpers that they use.

    `separate`: definitions that have their own sections and are not repeated here.
    """
    own = {name: [each for one in given for each in _with_bases(one, separate)] for name, given in definitions.items()}
    yield _section(title, own, definitions, paths, all_paths)
    done = {each for given in own.values() for each in given}
    queue = {name: list(dict.fromkeys(given)) for name, given in own.items()}
    helpers: dict[str, dict[str, list[Definition]]] = {}
    for name, waiting in queue.items():
        for definition in waiting:
            for used in definition.uses:
                if used not in done and used not in separate:
                    done.add(used)
                    waiting.append(used)
                    helpers.setdefault(used.name, {each: [] for each in BACKENDS})[name].append(used)
    for name, given in helpers.items():
        yield _section(name, given, given)


def _with_bases(definition: Definition, separate: set[Definition]) -> list[Definition]:
    """Return the base classes of a definition that are shown with it, and the definition itself."""
    inherited = [
        base
        for base in reversed(definition.bases)
        if base.file is definition.file
        and base not in separate
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
                _created_by(aligned.values(), paths, all_paths),
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


def _created_by(pieces: Iterable[_Piece], owners: Iterable[str], paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of the parts that pieces create, in the first owner where they create any."""
    for owner in owners:
        inside = [path for path in paths if path and path.rpartition(".")[0] == owner]
        created = tuple(path for path in inside if any(piece.creates(path.rpartition(".")[2]) for piece in pieces))
        if created:
            return created
    return ()


def _in_file_order(definitions: Iterable[Definition]) -> list[Definition]:
    """Return definitions of one implementation without repetition, sorted by file and line."""
    return sorted(dict.fromkeys(definitions), key=lambda each: (each.file.name, each.node.lineno))


@dataclass(frozen=True)
class _Piece:
    """Lines with one purpose.

    `role`: the method that they belong to. `names`: what they create or call, the most important one last. `patterns`
    match the attributes that they create. `others`: attributes that other lines create, even if a pattern matches them.
    """

    role: str
    snippet: Snippet
    names: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()
    others: frozenset[str] = frozenset()

    def creates(self, name: str) -> bool:
        """True if these lines create the attribute `name`."""
        return name not in self.others and any(pattern.fullmatch(name) for pattern in self.patterns)

    def key(self, common: set[str]) -> str:
        """Return the key for alignment: the role and the last name, preferably one of the `common` names."""
        names = [name for name in self.names if name in common] or self.names
        return f"{self.role}: {names[-1]}" if names else self.role


def _pieces(definition: Definition) -> Iterator[_Piece]:
    """Split a definition, with the comments above it, into pieces. Together they have all of its lines."""
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
    """Split a method into its head and its body. Bodies of constructors and forward passes are split by statement."""
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
    """Return the names of the attributes that a step of the forward pass calls."""
    return [making.name for _, making in definition.makings] if run.pattern is None else [run.name]


def _purpose(statement: ast.stmt) -> str:
    """Return the target of an assignment, the name of a called function, or otherwise the type of the statement."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return ast.unparse(statement.targets[0] if isinstance(statement, ast.Assign) else statement.target)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return ast.unparse(statement.value.func)
    return type(statement).__name__.lower()


def _align(columns: Mapping[str, Sequence[_Piece]]) -> Iterator[tuple[str, dict[str, _Piece]]]:
    """Iterate over rows (key, pieces with this key by column). Every column keeps its order."""
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
    """Return the names that occur in the pieces of a role in every column, ignoring columns without any."""
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
    """Return the first line of a definition, with its decorators and the comment directly above it."""
    line = start(statement)
    while line > 1 and source.lines[line - 2].startswith("#"):
        line -= 1
    return line


def _head_end(source: File, node: ast.ClassDef | ast.FunctionDef) -> int:
    """Return the last line of a definition's signature and docstring."""
    first = node.body[0]
    if _is_docstring(first):
        return end(first)
    line = start(first) - 1
    while not source.lines[line - 1].strip() or source.lines[line - 1].lstrip().startswith("#"):
        line -= 1
    return line


def order_note(definition: Definition) -> str:
    """Return the note for a class without a forward pass of its own, or "" if it has one."""
    return f"{definition.container} runs its attributes in order" if definition.container else ""
