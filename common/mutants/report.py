"""Report of the mutants: a table, the list of survivors, and JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.mutants.run import Outcome
from common.terminal import print_fitted

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["exit_status", "print_table", "to_json"]


def _groups(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.mutant.kind, outcome.mutant.backend), []).append(outcome)
    return groups


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def print_table(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print a row per kind and backend, then every mutant that was not killed or was named at a wrong layer."""
    from rich.table import Table

    table = Table("kind", "backend", "mutants", "killed", "by", "equivalent", "survived", "named correctly", box=None)
    for (kind, backend), members in _groups(outcomes).items():
        count = Counter(outcome.status for outcome in members)
        checks = Counter(outcome.check for outcome in members if outcome.status == "killed")
        named = [outcome.named for outcome in members if outcome.named is not None]
        table.add_row(
            kind,
            backend,
            str(len(members)),
            _share(count["killed"], len(members) - count["equivalent"] - count["missing"]),
            ", ".join(f"{check} {number}" for check, number in checks.most_common()),
            str(count["equivalent"]),
            str(count["survived"]),
            _share(sum(named), len(named)),
        )
    print_fitted(console, table, keys=2)
    for outcome in outcomes:
        mutant = outcome.mutant
        if outcome.status != "killed":
            console.print(
                f"{outcome.status}: {mutant.backend}: {mutant.name}: {outcome.detail}".rstrip(": "), soft_wrap=True
            )
        elif outcome.named is False:
            console.print(f"named at {outcome.tap}: {mutant.backend}: {mutant.name}", soft_wrap=True)
    total = Counter(outcome.status for outcome in outcomes)
    console.print(", ".join(f"{number} {status}" for status, number in total.items()))


def to_json(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as JSON, schema 1."""
    return json.dumps(
        {
            "schema": 1,
            "mutants": [
                {
                    "backend": outcome.mutant.backend,
                    "kind": outcome.mutant.kind,
                    "name": outcome.mutant.name,
                    "status": outcome.status,
                    "check": outcome.check,
                    "first": outcome.tap,
                    "error": outcome.error if outcome.error is None or math.isfinite(outcome.error) else None,
                    "named": outcome.named,
                    "detail": outcome.detail,
                }
                for outcome in outcomes
            ],
        },
        indent=1,
    )


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """Return 1 if a mutant survived, 3 if a backend is missing, else 0."""
    found = {outcome.status for outcome in outcomes}
    return 1 if "survived" in found else 3 if "missing" in found else 0
