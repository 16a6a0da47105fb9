"""A network layer by layer: the rows of `rosetta summary`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.reference import Call, Description

__all__ = ["Row", "rows"]


@dataclass(frozen=True)
class Row:
    """One row: where it ends, what it is in its framework's terms, and its output's shape in that layout."""

    path: str
    kind: str
    shape: tuple[int, ...]


def rows(calls: Iterable[Call], description: Description, container: str) -> list[Row]:
    """Return the network's direct parts, in order of execution, from every layer's call.

    Where the description says so a part is shown by its own parts, and several together make one row, which is then a
    `container`.
    """
    parts = []
    for call in calls:
        parent = call.path.rpartition(".")[0]
        shown = not parent or parent in description.summary_expands
        if call.path and shown and call.path not in description.summary_expands:
            parts.append(call)
    result: list[Row] = []
    group: list[Call] = []
    for part in parts:
        group.append(part)
        if not description.summary_ends or part.path in description.summary_ends:
            result.append(Row(part.path, part.kind if len(group) == 1 else container, part.shape))
            group = []
    return result
