"""Runs of `rosetta bench` kept as lines of JSON, and what became slower since the last one on the same machine.

A line is whole once its newline is written, so that what a crash tears off is recognised.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from common import records
from common.deploy import machine
from common.deploy.measurements import Interval, Measurement, Run
from common.deploy.recorded import whole_lines
from common.errors import InputError

__all__ = ["Change", "append", "check", "compare", "default_path", "dumps", "loads", "read"]

_SLOWER = 1.05
"""What is slower by less may be so by another version of the operating system."""
_BEGINNING = b'{"schema": '
"""Of every line, so that a file that is no history is not added to."""

Verdict = Literal["slower", "faster", "same", "broken"]


@dataclass(frozen=True)
class Change:
    """One measurement against the last of the same thing: `ratio` above 1 is slower; None where it cannot be taken."""

    now: Measurement
    before: Measurement
    when: str
    ratio: Interval | None
    verdict: Verdict

    @property
    def regression(self) -> bool:
        """Whether it is clearly slower than it was, or was measured and no longer can be."""
        return self.verdict in ("slower", "broken")


def default_path() -> Path:
    """Return where the history is kept unless asked otherwise."""
    from platformdirs import user_data_path

    return user_data_path("rosetta") / "bench.jsonl"


def dumps(run: Run, indent: int | None = None) -> str:
    """Return a run as JSON."""
    return json.dumps(dataclasses.asdict(run), indent=indent)


def loads(text: str | bytes) -> Run:
    """Return the run that JSON is of. Raises ValueError where it is none."""
    run: Run = records.build(Run, records.parse(text))
    return run


def read(path: Path) -> list[Run]:
    """Return the runs of a history, the oldest first; none where there is no file yet.

    A last line that was torn by a crash is left out. Raises InputError where a line is no run, or the file cannot be
    read.
    """
    try:
        lines = whole_lines(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    runs = []
    for number, line in enumerate(lines, start=1):
        try:
            runs.append(loads(line))
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: no run of `rosetta bench`: {error}; remove the line, or name another --history"
            ) from None
    return runs


def check(path: Path) -> None:
    """Raise InputError where a file that exists is no history, so that no run can be added."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_BEGINNING))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not _BEGINNING.startswith(beginning):
        raise InputError(f"{path}: no history of `rosetta bench`, and left as it is; name another --history")


def append(path: Path, run: Run) -> None:
    """Add a run to a history, all of it or nothing. Raises InputError where that cannot be done."""
    check(path)
    try:
        # Two runs may end at the same time. Not buffered: a buffer tries once more when the file is closed.
        with FileLock(f"{path}.lock"), path.open("a+b", buffering=0) as file:
            file.seek(0)
            contents = file.read()
            kept = b"".join(line + b"\n" for line in whole_lines(contents))
            start = min(len(kept), len(contents))
            file.truncate(start)
            # An editor may have left the last newline out.
            line = memoryview(kept[start:] + f"{dumps(run)}\n".encode())
            try:
                while line:
                    line = line[file.write(line) :]
            except BaseException:
                file.truncate(start)
                raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def compare(run: Run, history: Iterable[Run]) -> list[Change]:
    """Return what became of each measurement that was made before on the same machine, with the last such time."""
    here = machine.identity(run.machine)
    last: dict[object, tuple[Measurement, str]] = {}
    for earlier in history:
        if machine.identity(earlier.machine) == here:
            measured = (one for one in earlier.measurements if one.status == "measured")
            last |= {one.key: (one, earlier.when) for one in measured}
    return [_change(now, *last[now.key]) for now in run.measurements if now.key in last]


def _change(now: Measurement, before: Measurement, when: str) -> Change:
    if now.latency_ms is None or before.latency_ms is None:
        return Change(now, before, when, None, "broken")
    new, old = now.latency_ms, before.latency_ms
    ratio = new.over(old)
    verdict: Verdict = "same"
    if new.low > old.high and ratio.value > _SLOWER:
        verdict = "slower"
    elif new.high < old.low and ratio.value < 1 / _SLOWER:
        verdict = "faster"
    return Change(now, before, when, ratio, verdict)


def regressions(changes: Sequence[Change]) -> list[Change]:
    """Return the changes that are regressions."""
    return [change for change in changes if change.regression]
