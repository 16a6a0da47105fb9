"""Builder of the website: renders every page from the code, the catalog and measured results.

The pages open from the file system and load nothing from other places: no font, no script, no picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import __version__, reference
from common.backends import environments
from common.backends.registry import BACKENDS
from common.catalog import NETWORKS, Network
from common.deploy.bench.history import read_run
from common.errors import InputError
from common.view.diagram import diagram
from common.view.side_by_side import lookup
from common.view.side_by_side.model import Snippet, View
from common.view.site import benchmarks, error_chart, folder, idioms, markdown, networks, parity_report, pitfalls
from common.view.site.code import lines_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from common.deploy.bench.results import Run
    from common.parity.results import Report

__all__ = ["Built", "build"]

_ASSETS = ("site.css", "site.js")
_NAMES = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX", "tf": "TensorFlow", "mxnet": "MXNet"}
"""Full names of the implementations."""


@dataclass(frozen=True)
class Built:
    """A site that was written: its first page, its number of pages, and its size in bytes."""

    index: Path
    pages: int
    size: int


def build(target: Path, parity: Path | None = None, force: bool = False, bench: Sequence[Path] = ()) -> Built:
    """Write the site into a folder, with the results of a parity report and of benchmarks (JSON files) if given.

    Replaces an earlier site in that folder. Raises InputError if the folder has other files, unless `force` is set,
    and if a report or a benchmark is not valid. The folder is then unchanged.
    """
    folder.check(target, force)
    report = parity_report.read(parity) if parity is not None else None
    files = _Site(report, [read_run(path) for path in bench]).files()
    folder.write(target, files, {"version": __version__}, force)
    pages = sum(name.endswith(".html") for name in files)
    return Built(target / "index.html", pages, sum(len(text.encode()) for text in files.values()))


def _docs(name: str) -> str:
    path = environments.PROJECT / "docs" / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; run `rosetta site` from a checkout, which has this file") from None


class _Site:
    """Renders all pages."""

    def __init__(self, report: Report | None, runs: Sequence[Run]) -> None:
        self.report = report
        self.benchmarks = benchmarks.sections(runs)
        self.context: dict[str, Any] = {}
        if report is not None:
            from common.parity.report import context

            self.context = context(report)
            self.context["backends_in_report"] = self.context.pop("backends")
        self.networks = networks.in_order()
        self.pitfalls = _docs("pitfalls.md")
        self.index: list[tuple[str, str, str]] = []
        """Search index: name, kind and address of each entry."""
        self.templates = _templates()

    def files(self) -> dict[str, str]:
        """Return the contents of every file by name."""
        source = resources.files("common.view.site")
        files = {name: source.joinpath(name).read_text(encoding="utf-8") for name in _ASSETS}
        files["index.html"] = self._index()
        files |= {f"{network.name}.html": self._network(network) for network in self.networks}
        files |= {
            f"{network.name}-parity.html": self._taps(network) for network in self.networks if self._rows(network.name)
        }
        files["idioms.html"] = self._idioms()
        files["pitfalls.html"] = self._pitfalls()
        files["initializers.html"] = self._document("initializers.md", "Initializers", "pitfalls.html")
        files["parity.html"] = self._render("parity.html.j2", title="Parity", page="parity.html", **self.context)
        files["benchmarks.html"] = self._benchmarks()
        files |= {section.page: self._benchmark(section.name) for section in self.benchmarks}
        files["search.js"] = f"rosettaIndex({json.dumps(self.index, ensure_ascii=False, separators=(',', ':'))});\n"
        return files

    def _render(self, template: str, **values: Any) -> str:
        return self.templates.get_template(template).render(
            version=__version__, names=_NAMES, has_report=self.report is not None, **values
        )

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of the parity report for one network."""
        return [row for row in self.context.get("rows", ()) if row["entry"].name == name]

    def _index(self) -> str:
        entries: list[dict[str, Any]] = []
        for network in self.networks:
            description = reference.describe(network)
            self.index.append((network.name, f"network, {networks.year(network)}", f"{network.name}.html"))
            entries.append(
                {
                    "network": network,
                    "year": networks.year(network),
                    "description": description,
                    "fingerprint": networks.fingerprint(network),
                    "forward": next((row for row in self._rows(network.name) if row["check"] == "forward"), None),
                }
            )
        largest = {
            "parameters": max(entry["description"].parameters for entry in entries),
            "cost": max(entry["description"].multiply_accumulates for entry in entries),
        }
        return self._render(
            "index.html.j2", title="", page="index.html", entries=entries, largest=largest, **self.context | _PALETTES
        )

    def _network(self, network: Network) -> str:
        view = lookup.of_network(network)
        drawing = diagram.draw(network)
        rows = networks.part_rows(network, view)
        page = f"{network.name}.html"
        self.index += [
            (f"{network.name}.{row.path}", f"{row.kind}, {row.shape['nchw']}", f"{page}#{row.path}") for row in rows
        ]
        paths = {row.path for row in rows}
        results = [
            {
                **row,
                "numbers": f"{network.name}-parity.html#{row['id']}",
                # Charts of gradients are large: they are shown on the page with the numbers.
                "charts": _charts(row, paths) if row["check"] == "forward" else [],
            }
            for row in self._rows(network.name)
        ]
        return self._render(
            "network.html.j2",
            title=network.name,
            page=page,
            network=network,
            year=networks.year(network),
            description=reference.describe(network),
            drawing=drawing,
            drawing_width=drawing.partition(' width="')[2].partition('"')[0],
            units=networks.units(view),
            parts=rows,
            intro=_intro(view),
            pitfalls=pitfalls.affecting(network, self.pitfalls),
            benchmarks=self._benchmarks_of(network.name),
            results=results,
            marks=error_chart.MARKS,
            **self.context | _PALETTES,
        )

    def _taps(self, network: Network) -> str:
        """Return the page with the error at every tap of a network."""
        paths = {part.path for part in lookup.of_network(network).parts}
        results = []
        for row in self._rows(network.name):
            dtypes = [cell.dtype for cell in row["cells"]]
            taps = []
            for name, entries in row["taps"]:
                by_dtype = []
                for dtype in row["by_dtype"]:
                    own = [entry for entry, of in zip(entries, dtypes, strict=True) if of == dtype]
                    by_dtype.append((next((entry.limit for entry in own if entry is not None), None), own))
                taps.append({"name": name, "path": error_chart.part_of(name, paths), "by_dtype": by_dtype})
            results.append({**row, "numbers_by_tap": taps, "charts": _charts(row, paths)})
        page = f"{network.name}-parity.html"
        title = f"Parity of {network.name}"
        return self._render(
            "taps.html.j2",
            title=title,
            page=page,
            network=network,
            results=results,
            marks=error_chart.MARKS,
            **self.context,
        )

    def _benchmarks(self) -> str:
        return self._render(
            "benchmarks.html.j2",
            title="Benchmarks",
            page="benchmarks.html",
            sections=self.benchmarks,
            best=benchmarks.BEST,
            runtimes=benchmarks.runtime_facts(),
        )

    def _benchmarks_of(self, name: str) -> list[benchmarks.Section]:
        return [section for section in self.benchmarks if section.name == name]

    def _benchmark(self, name: str) -> str:
        """Return the page with all benchmark results of a network."""
        return self._render(
            "benchmark.html.j2",
            title=f"Benchmarks of {name}",
            page=f"{name}-benchmarks.html",
            name=name,
            known=name in NETWORKS,
            sections=self._benchmarks_of(name),
            columns=benchmarks.COLUMNS,
            marks=error_chart.MARKS,
        )

    def _idioms(self) -> str:
        tasks = []
        for task in idioms.TASKS:
            self.index.append((task.title, "idiom", f"idioms.html#{task.anchor}"))
            code = {
                backend: [(snippet, lines_of(snippet)) for snippet in snippets]
                for backend, snippets in idioms.examples(task).items()
            }
            tasks.append({"task": task, "code": code})
        return self._render("idioms.html.j2", title="Idioms", page="idioms.html", tasks=tasks)

    def _pitfalls(self) -> str:
        titles = pitfalls.headings(self.pitfalls)
        self.index += [
            (f"{number}. {markdown.plain(title)}", "pitfall", f"pitfalls.html#pitfall-{number}")
            for number, title in sorted(titles.items())
        ]
        return self._document("pitfalls.md", "Pitfalls", "pitfalls.html", self.pitfalls)

    def _document(self, name: str, title: str, page: str, text: str | None = None) -> str:
        body = markdown.render(_docs(name) if text is None else text)
        return self._render("document.html.j2", title=title, page=page, body=body)


def _charts(row: Mapping[str, Any], paths: Collection[str]) -> list[tuple[str, str]]:
    """Return one chart per dtype for a row of a parity report: (dtype, SVG)."""
    return [
        (dtype, error_chart.draw(cells, paths, f"Errors of {row['label']}, {row['check']}, {dtype}, against depth"))
        for dtype, across in row["by_dtype"].items()
        if (cells := [cell for cell in across if cell is not None and cell.errors])
    ]


_PALETTES = {"light": diagram.LIGHT, "dark": diagram.DARK}


def _intro(view: View) -> str:
    """Return the docstring of the reference implementation, with each paragraph on one line."""
    cells: dict[str, Snippet] = dict(view.sections[0].rows[0].cells)
    text = cells[next(name for name in BACKENDS if name in cells)].source.strip().strip('"').strip()
    return re.sub(r"\n(?!\n)", " ", text.replace("\n\n", "\0")).replace("\0", "\n\n")


def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("common.view.site", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["code"] = markdown.inline
    templates.filters["short"] = _short
    templates.globals["backends"] = BACKENDS
    return templates


def _short(number: int) -> str:
    """Format a count with three digits and a unit: 61.7 k, 129 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number / size:.0f} {unit}"
    return str(number)
