"""The pytest plugin: the fixture `parity`, and one report of all comparisons.

Every pytest run loads it if rosetta is installed; heavy imports are therefore inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np

    from common.parity.results import Report
    from common.testing.ports import Port, Workers

__all__ = ["parity", "parity_workers"]

_reports = pytest.StashKey[list["Report"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options for files with the report of all comparisons."""
    group = parser.getgroup("rosetta", "comparisons of models, by the fixture `parity`")
    group.addoption("--parity-html", type=Path, metavar="FILE", help="write all comparisons as one page, tap by tap")
    group.addoption("--parity-json", type=Path, metavar="FILE", help="write all comparisons as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Check at the start that the files can be written."""
    config.stash[_reports] = []
    files = [path for path in (config.getoption("--parity-html"), config.getoption("--parity-json")) if path]
    if files:
        from common.errors import InputError
        from common.files import check_writable

        for path in files:
            try:
                check_writable(path)
            except InputError as error:
                raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def parity_workers() -> Iterator[Workers]:
    """Worker processes for all tests of the session."""
    from common.testing.ports import Workers

    with Workers() as workers:
        yield workers


@pytest.fixture
def parity(request: pytest.FixtureRequest, parity_workers: Workers) -> Callable[..., Report]:
    """Compare two models with `parity(reference, candidate, x, labels)`, as `common.testing.compare` does.

    The test fails if they differ or a framework is missing. Returns the report.
    """
    reports = request.config.stash[_reports]

    def compared(
        reference: Port, candidate: Port, x: np.ndarray, labels: np.ndarray | None = None, **options: Any
    ) -> Report:
        from common.errors import RosettaError
        from common.testing.comparison import compare, table

        name = options.pop("name", request.node.name)
        taken = {network.name for report in reports for network in report.settings.networks}
        names = (name if number == 1 else f"{name} ({number})" for number in range(1, len(taken) + 2))
        options["name"] = next(each for each in names if each not in taken)
        report, refused = None, ""
        try:
            report = compare(reference, candidate, x, labels, workers=parity_workers, **options)
        except RosettaError as error:
            refused = str(error)
        if report is None:  # outside the handler, or pytest would show the original exception
            pytest.fail(refused, pytrace=False)
        reports.append(report)
        if report.exit_status():
            pytest.fail(table(report), pytrace=False)
        return report

    return compared


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print all comparisons as one report, and write the requested files."""
    reports = config.stash[_reports]
    if not reports:
        return
    from common.files import save
    from common.parity import report as rendering
    from common.testing.comparison import merged, table

    total = merged(reports)
    terminalreporter.section("parity")
    terminalreporter.write_line(table(total, terminalreporter._tw.fullwidth))
    for option, render in (("--parity-html", rendering.to_html), ("--parity-json", rendering.to_json)):
        path = config.getoption(option)
        if path:
            save(path, render(total))
            terminalreporter.write_line(f"wrote {path}")
