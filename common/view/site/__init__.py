"""The site: a page for each network, idioms side by side, the pitfalls and the parity report, as plain files.

It opens from the file system and loads nothing from anywhere else: no font, no script, no picture.
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
"""What the implementations are called where there is room."""


@dataclass(frozen=True)
class Built:
    """What was written: the first page, how many pages there are, and how many bytes all of it takes."""

    index: Path
    pages: int
    size: int


def build(target: Path, parity: Path | None = None, force: bool = False, bench: Sequence[Path] = ()) -> Built:
    """Write the site into a folder, with the results of a parity report's JSON if one is given, and of benchmarks'.

    An earlier site there is replaced. Raises InputError for a folder with other files in it, unless `force` says that
    the site may stand beside them, and for a report or a benchmark that is none; the folder is then as it was.
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
        raise InputError(f"{path}: {error.strerror}; the site is made from a checkout, which has it") from None


class _Site:
    """The pages, and what they have in common."""

    def __init__(self, report: Report | None, measured: Sequence[Run]) -> None:
        self.report = report
        self.measured = benchmarks.sections(measured)
        self.context: dict[str, Any] = {}
        if report is not None:
            from common.parity.report import context

            self.context = context(report)
            self.context["backends_in_report"] = self.context.pop("backends")
        self.entries = networks.in_order()
        self.pitfalls = _docs("pitfalls.md")
        self.matters = {network.name: pitfalls.matters(network, self.pitfalls) for network in self.entries}
        self.index: list[tuple[str, str, str]] = []
        """What can be searched for: what it is called, what it is, and where."""
        self.templates = _templates()

    def files(self) -> dict[str, str]:
        """Return the contents of every file by name."""
        source = resources.files("common.view.site")
        files = {name: source.joinpath(name).read_text(encoding="utf-8") for name in _ASSETS}
        files["index.html"] = self._index()
        files |= {f"{network.name}.html": self._network(network) for network in self.entries}
        files |= {
            f"{network.name}-parity.html": self._taps(network) for network in self.entries if self._rows(network.name)
        }
        files["idioms.html"] = self._idioms()
        files["pitfalls.html"] = self._pitfalls()
        files["initializers.html"] = self._document("initializers.md", "Initializers", "pitfalls.html")
        files["parity.html"] = self._render("parity.html.j2", title="Parity", page="parity.html", **self.context)
        files["benchmarks.html"] = self._benchmarks()
        files |= {section.page: self._measured(section.name) for section in self.measured}
        files["search.js"] = f"rosettaIndex({json.dumps(self.index, ensure_ascii=False, separators=(',', ':'))});\n"
        return files

    def _render(self, template: str, **values: Any) -> str:
        return self.templates.get_template(template).render(
            version=__version__, names=_NAMES, has_report=self.report is not None, **values
        )

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """Return the parity report's rows of a network."""
        return [row for row in self.context.get("rows", ()) if row["entry"].name == name]

    def _index(self) -> str:
        entries: list[dict[str, Any]] = []
        for network in self.entries:
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
        most = {
            "parameters": max(entry["description"].parameters for entry in entries),
            "cost": max(entry["description"].multiply_accumulates for entry in entries),
        }
        return self._render(
            "index.html.j2", title="", page="index.html", entries=entries, most=most, **self.context | _PALETTES
        )

    def _network(self, network: Network) -> str:
        view = lookup.of_network(network)
        drawn = diagram.draw(network)
        rows = networks.part_rows(network, view)
        units = networks.units(view)
        page = f"{network.name}.html"
        self.index += [
            (f"{network.name}.{row.path}", f"{row.kind}, {row.shape['nchw']}", f"{page}#{row.path}") for row in rows
        ]
        paths = {row.path for row in rows}
        results = [
            {
                **row,
                "numbers": f"{network.name}-parity.html#{row['id']}",
                # Those of gradients are larger than all else on a page, and stand beside their numbers.
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
            drawing=drawn,
            drawing_width=drawn.partition(' width="')[2].partition('"')[0],
            units=units,
            parts=rows,
            intro=_intro(view),
            matters=self.matters[network.name],
            benchmarked=[section for section in self.measured if section.name == network.name],
            results=results,
            marks=error_chart.MARKS,
            **self.context | _PALETTES,
        )

    def _taps(self, network: Network) -> str:
        """Return the page of all numbers of a network's results."""
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
            sections=self.measured,
            best=benchmarks.BEST,
            runtimes=benchmarks.sourced(),
        )

    def _measured(self, name: str) -> str:
        """Return the page of all that a network was measured to cost."""
        return self._render(
            "measured.html.j2",
            title=f"Benchmarks of {name}",
            page=f"{name}-benchmarks.html",
            name=name,
            known=name in NETWORKS,
            sections=[section for section in self.measured if section.name == name],
            columns=benchmarks.COLUMNS,
            marks=error_chart.MARKS,
        )

    def _idioms(self) -> str:
        acts = []
        for act in idioms.ACTS:
            self.index.append((act.title, "idiom", f"idioms.html#{act.anchor}"))
            code = {
                backend: [(snippet, lines_of(snippet)) for snippet in found]
                for backend, found in idioms.examples(act).items()
            }
            acts.append({"act": act, "code": code})
        return self._render("idioms.html.j2", title="Idioms", page="idioms.html", acts=acts)

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
    """Return the charts of a row of a report by dtype."""
    return [
        (dtype, error_chart.draw(drawn, paths, f"Errors of {row['label']}, {row['check']}, {dtype}, against depth"))
        for dtype, across in row["by_dtype"].items()
        if (drawn := [cell for cell in across if cell is not None and cell.errors])
    ]


_PALETTES = {"light": diagram.LIGHT, "dark": diagram.DARK}


def _intro(view: View) -> str:
    """Return the docstring of the reference's file: what the network is, and where it differs from its paper."""
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
    """Return a count with three digits and a unit: 61.7 k, 128.8 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number / size:.0f} {unit}"
    return str(number)
