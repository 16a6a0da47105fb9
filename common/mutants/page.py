"""Read and update docs/pitfalls.md: run its examples and write the results of the mutants.

An example is a fenced block ```python BACKEND, followed by a block of text with its output. Between the comments
`<!-- parity NUMBER -->` and `<!-- end -->` is a table of parity's results, one row per port that can have the mistake.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from common.backends import environments, launch
from common.errors import BackendError
from common.mutants.run import Outcome

__all__ = ["COMMAND", "PAGE", "Example", "examples", "outputs", "page_rows", "rows", "same_output", "updated"]

PAGE = environments.PROJECT / "docs" / "pitfalls.md"
"""Exists only in a checkout."""
COMMAND = "python benchmarks/pitfalls.py -o docs/pitfalls.md"
"""The command that updates the page."""

_EXAMPLE = re.compile(r"^```python (\w+)\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FOUND = re.compile(r"^<!-- parity (\d+) -->\n\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^### (\d+)\. ", re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]\d+)?(?!\w)")
_EXCEPTION = re.compile(r"\b\w+(?:Error|Exception)\b")
_HEAD = "| port | found by | first at | error |\n|---|---|---|---|\n"

_RUNNER = """
import contextlib, io, json, sys
printed = []
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(code, "<example>", "exec"), {"__name__": "__main__"})
    printed.append(output.getvalue())
print(json.dumps(printed))
"""


@dataclass(frozen=True)
class Example:
    """Code that shows a pitfall in the framework of `backend`, with the output on the page."""

    pitfall: int
    backend: str
    code: str
    output: str


def examples(text: str) -> Iterator[Example]:
    """Iterate over the examples of the page, each with the number of its section."""
    sections = [(match.start(), int(match[1])) for match in _SECTION.finditer(text)]
    for match in _EXAMPLE.finditer(text):
        *_, number = (number for start, number in sections if start < match.start())
        yield Example(number, *match.groups())


def outputs(codes: Sequence[str], interpreter: Path | str) -> list[str]:
    """Return the output of each example; all run in one process, because importing a framework takes seconds.

    Raises BackendError with the last line of the traceback if one fails.
    """
    result = subprocess.run(
        [str(interpreter), "-W", "ignore", "-c", _RUNNER],
        input=json.dumps(codes),
        env=launch.project_environment(TF_CPP_MIN_LOG_LEVEL="3"),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise BackendError(f"an example of {PAGE.name} fails: {result.stderr.strip().splitlines()[-1]}")
    printed: list[str] = json.loads(result.stdout.splitlines()[-1])
    return printed


def _row(outcome: Outcome) -> str:
    port = outcome.mutant.backend
    if outcome.status != "killed":
        return f"| {port} | nothing | | |"
    if outcome.error is None:
        refusal = _EXCEPTION.search(outcome.detail)
        return f"| {port} | {outcome.check} | | {refusal[0] if refusal else 'refused'} |"
    error = f"{outcome.error:.1e}" if math.isfinite(outcome.error) else outcome.detail
    return f"| {port} | {outcome.check} | {outcome.tap} | {error} |"


def rows(outcomes: Sequence[Outcome]) -> dict[tuple[int, str], str]:
    """Return the table rows of mutants by pitfall number and port."""
    return {(int(outcome.mutant.name.split()[0]), outcome.mutant.backend): _row(outcome) for outcome in outcomes}


def page_rows(text: str) -> dict[tuple[int, str], str]:
    """Return the rows on the page by pitfall number and port."""
    return {
        (int(match[1]), row.split("|")[1].strip()): row
        for match in _FOUND.finditer(text)
        for row in match[2].split("\n")[2:]
        if row
    }


def updated(text: str, printed: Mapping[Example, str], found: Mapping[tuple[int, str], str]) -> str:
    """Return the page with new outputs of its examples and new table rows."""
    fresh = iter([printed[example] for example in examples(text)])

    def example(match: re.Match[str]) -> str:
        return f"```python {match[1]}\n{match[2]}```\n\n```text\n{next(fresh)}```"

    def table(match: re.Match[str]) -> str:
        members = [row for (number, _), row in found.items() if number == int(match[1])]
        return f"<!-- parity {match[1]} -->\n\n{_HEAD}" + "".join(f"{row}\n" for row in members) + "\n<!-- end -->"

    return _FOUND.sub(table, _EXAMPLE.sub(example, text))


def same_output(expected: str, actual: str) -> bool:
    """Return whether two texts are equal, except that fractions may differ by one in the last digit.

    Whole numbers are counts and must be equal.
    """
    if _NUMBER.sub("#", expected) != _NUMBER.sub("#", actual):
        return False
    for one, other in zip(_NUMBER.findall(expected), _NUMBER.findall(actual), strict=True):
        exponent = Decimal(one).as_tuple().exponent
        if "." not in one and "e" not in one:
            if one != other:
                return False
        elif abs(Decimal(one) - Decimal(other)) > Decimal(1).scaleb(int(exponent)):
            return False
    return True
