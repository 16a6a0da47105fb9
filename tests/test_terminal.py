"""Tables on terminals of any width: no text is cut, and no number is wrapped."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from support import ROOT

from common.terminal import print_fitted

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=14), max_size=4).map(" ".join)
NUMBERS = st.integers(0, 10**9).map("{:,} [1, 2]".format)


def printed(table: Table, width: int, keys: int = 1) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, color_system=None, markup=False)
    print_fitted(screen, table, keys)
    assert screen.width == width
    return screen.file.getvalue().splitlines()


def parts(lines: list[str]) -> list[list[str]]:
    """Return the lines between empty ones."""
    return [part.splitlines() for part in re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), WORDS, NUMBERS, WORDS, NUMBERS), min_size=1, max_size=4),
    st.integers(5, 100),
)
def test_nothing_is_shortened_at_any_width(rows: list[tuple[str, ...]], width: int) -> None:
    table = Table("KEY", "SOME WORDS", box=None, pad_edge=False)
    table.add_column("A NUMBER", justify="right")
    table.add_column("OTHER WORDS")
    table.add_column("ANOTHER NUMBER", justify="right")
    for row in rows:
        table.add_row(*row)
    lines = printed(table, width)
    text = "\n".join(lines)
    assert "…" not in text
    for row in rows:
        for number in (row[2], row[4]):
            assert number in text
    found = Counter(re.findall("[a-h]+", text))
    # A key stands in every part.
    assert found >= Counter(word for row in rows for cell in (row[0], row[1], row[3]) for word in cell.split())
    assert all(len(line) <= max(width, 3 + 2 + len("1,000,000,000 [1, 2]")) for line in lines)


def wide() -> Table:
    table = Table("name", "dtype", box=None, pad_edge=False, title="above", title_justify="left", caption="below")
    for heading in ("first", "second", "third"):
        table.add_column(heading, justify="right")
    table.add_row("lenet", "f64", "1 [0, 2]", "3 [2, 4]", "5 [4, 6]")
    return table


def test_each_part_begins_with_the_keys_and_has_as_many_columns_as_fit() -> None:
    # lenet and f64 take 12 characters, each further column 2 + 8.
    assert [line.split() for line in printed(wide(), 42, keys=2)] == [
        ["above"],
        ["name", "dtype", "first", "second", "third"],
        ["lenet", "f64", "1", "[0,", "2]", "3", "[2,", "4]", "5", "[4,", "6]"],
        ["below"],
    ]
    first, second = parts(printed(wide(), 41, keys=2))
    assert [line.split() for line in first] == [
        ["above"],
        ["name", "dtype", "first", "second"],
        ["lenet", "f64", "1", "[0,", "2]", "3", "[2,", "4]"],
    ]
    assert [line.split() for line in second] == [
        ["name", "dtype", "third"],
        ["lenet", "f64", "5", "[4,", "6]"],
        ["below"],
    ]


def test_spare_room_goes_first_to_narrow_columns() -> None:
    table = Table("key", "short", "long", "longer", box=None, pad_edge=False)
    table.add_row("k", "two words", "many words that go on for longer than there is room", "as many words again " * 4)
    lines = printed(table, 50)
    assert "two words" in lines[1]
    assert all(40 < len(line) <= 50 for line in lines)


def test_a_table_that_fits_looks_as_rich_prints_it() -> None:
    plain = Console(file=io.StringIO(), width=200, color_system=None, markup=False)
    table = Table("key", "words", box=None, pad_edge=False)
    table.add_column("number", justify="right")
    table.add_row("a", "two words", "1,000")
    plain.print(table)
    assert printed(table, 200) == plain.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_recommendation_is_whole_on_a_real_terminal(width: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    arguments = ["recommend", "googlenet", "--from", str(ROOT / "docs" / "bench" / "small.json")]
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "common", *arguments],
        {**variables, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, number) for number in (0, 1, 2)],
    )
    os.close(theirs)
    said = b""
    # A terminal whose other end was closed is an error to read from.
    while chunk := _read(ours):
        said += chunk
    os.close(ours)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()
    assert not any("…" in line for line in lines)
    assert any(line.startswith("rank  path ") for line in lines)
    ranking = [line for line in lines if re.match(r"\d+=?\s", line)]
    assert any("torch-channels-last" in line for line in ranking)
    assert all(len(line) <= width for line in ranking)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
