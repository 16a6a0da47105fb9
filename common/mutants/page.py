"""The page of pitfalls: its examples, what they print, and what parity finds of each mistake.

An example is a fenced block ```python BACKEND; the block of text behind it is what it prints. What parity finds stands
between two comments, `<!-- parity NUMBER -->` and `<!-- end -->`: a table with a row for each port that can have the
mistake.
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
"""Of a checkout; what is installed has no documentation."""
COMMAND = "python benchmarks/pitfalls.py -o docs/pitfalls.md"
"""What writes the page's figures anew."""

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
    """A few lines that show a pitfall, in the framework of `backend`, and what the page says that they print."""

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
    """Return what each example prints, run one after the other in one process, as importing a framework takes seconds.

    Raises BackendError where one fails, with its traceback's last line.
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
    """Return a table's row for each mistake put into a port, by the pitfall's number and the port."""
    return {(int(outcome.mutant.name.split()[0]), outcome.mutant.backend): _row(outcome) for outcome in outcomes}


def page_rows(text: str) -> dict[tuple[int, str], str]:
    """Return the rows that the page has, by the pitfall's number and the port."""
    return {
        (int(match[1]), row.split("|")[1].strip()): row
        for match in _FOUND.finditer(text)
        for row in match[2].split("\n")[2:]
        if row
    }


def updated(text: str, printed: Mapping[Example, str], found: Mapping[tuple[int, str], str]) -> str:
    """Return the page with what its examples printed now, and what parity finds now."""
    fresh = iter([printed[example] for example in examples(text)])

    def example(match: re.Match[str]) -> str:
        return f"```python {match[1]}\n{match[2]}```\n\n```text\n{next(fresh)}```"

    def table(match: re.Match[str]) -> str:
        members = [row for (number, _), row in found.items() if number == int(match[1])]
        return f"<!-- parity {match[1]} -->\n\n{_HEAD}" + "".join(f"{row}\n" for row in members) + "\n<!-- end -->"

    return _FOUND.sub(table, _EXAMPLE.sub(example, text))


def same_output(said: str, found: str) -> bool:
    """Return whether two texts are the same, but for fractions that may be off by one in their last digit.

    Whole numbers are counts, and may not.
    """
    if _NUMBER.sub("#", said) != _NUMBER.sub("#", found):
        return False
    for one, other in zip(_NUMBER.findall(said), _NUMBER.findall(found), strict=True):
        exponent = Decimal(one).as_tuple().exponent
        if "." not in one and "e" not in one:
            if one != other:
                return False
        elif abs(Decimal(one) - Decimal(other)) > Decimal(1).scaleb(int(exponent)):
            return False
    return True
