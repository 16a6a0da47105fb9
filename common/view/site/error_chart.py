"""Error against depth as an SVG that takes the page's colors, and whose taps are the parts of the network.

`common.view.error_plot` draws the same for a file. A page needs what a picture cannot have: light and
dark, a part that is marked in the code to be marked here too, and a few kilobytes for each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from xml.etree import ElementTree as ET

from common.parity.comparison import TapError
from common.parity.results import Cell
from common.view import svg
from common.view.error_plot import labels

__all__ = ["MARKS", "draw", "part_of"]

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 220.0, 46.0, 12.0, 18.0, 104.0
STEP, LEAST = 9.0, 300.0
"""Pixels from one tap to the next, and what all of them take at least."""
MOST_LABELS = 36
UPRIGHT = 12
"""Pixels from one upright word to the next."""
MARKS = {
    "torch": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
    "jax": "M-2.7-2.7h5.4v5.4h-5.4z",
    "tf": "M0-3.4l3.4 6h-6.8z",
    "mxnet": "M0-3.6l3.6 3.6l-3.6 3.6l-3.6-3.6z",
    "numpy": "M0 3.4l-3.4-6h6.8z",
}
"""The mark of each framework, so that color is not all that tells them apart."""


def draw(cells: Sequence[Cell], paths: Collection[str], label: str) -> str:
    """Return the errors of one network, check and dtype in each framework as an SVG; `paths` are the network's parts.

    A point is the worst input's error at a tap, relative to the tap's largest value in the reference.
    """
    chart = _Chart({cell.backend: _worst(cell.errors) for cell in cells})
    root = ET.Element("svg", {"class": "chart", "role": "img", "aria-label": label})
    width, height = f"{chart.right + RIGHT:.0f}", f"{chart.foot + BOTTOM:.0f}"
    root.set("viewBox", f"0 0 {width} {height}")
    root.set("width", width)
    root.set("height", height)
    chart.draw_axis(root)
    for name in ("tolerance", "budget"):
        chart.draw_limit(root, name)
    for backend in chart.found:
        chart.draw_series(root, backend)
    chart.draw_taps(root, paths)
    chart.draw_labels(root)
    return ET.tostring(root, encoding="unicode")


class _Chart:
    """The errors by framework and tap, and where they are drawn: taps side by side, errors on a logarithmic axis."""

    def __init__(self, found: Mapping[str, Mapping[str, TapError]]) -> None:
        self.found = found
        self.taps: dict[str, TapError] = {}
        for errors in found.values():
            self.taps |= {tap: error for tap, error in errors.items() if tap not in self.taps}
        self.place = {tap: i for i, tap in enumerate(self.taps)}
        values = [error.error for errors in found.values() for error in errors.values() if math.isfinite(error.error)]
        limits = [limit for error in self.taps.values() for limit in (error.limit.budget, error.limit.tolerance)]
        self.has_zero = 0 in values
        shown = [value for value in (*values, *limits) if value > 0]
        self.low, self.high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
        room = max(LEAST, STEP * len(self.taps))
        self.step = room / len(self.taps)
        self.right, self.foot = LEFT + room, TOP + HEIGHT

    def x(self, place: float) -> float:
        """Return the middle of a tap."""
        return LEFT + self.step * (place + 0.5)

    def y(self, value: float) -> float:
        """Return the height of an error; none at all lies below the axis."""
        if value == 0:
            return self.foot - 4
        foot = self.foot - (18 if self.has_zero else 0)
        return TOP + (foot - TOP) * (self.high - math.log10(value)) / (self.high - self.low)

    def draw_axis(self, root: ET.Element) -> None:
        """Draw a line for each power of ten, or for fewer where they are many."""
        for exponent in range(self.low, self.high + 1, max(1, (self.high - self.low + 6) // 7)):
            level = self.y(10.0**exponent)
            svg.add(root, "path", "grid", d=f"M{LEFT:.0f} {svg.number(level)}H{svg.number(self.right)}")
            text = svg.add(root, "text", "", x=LEFT - 6, y=level + 4, text_anchor="end")
            text.text = "10"
            svg.add(text, "tspan", "", dy=-5, font_size=8).text = str(exponent).replace("-", "\N{MINUS SIGN}")
        if self.has_zero:
            svg.add(root, "text", "", x=LEFT - 6, y=self.y(0) + 4, text_anchor="end").text = "0"

    def draw_limit(self, root: ET.Element, name: str) -> None:
        """Draw the budgets or the tolerances as a line that is level over each tap."""
        levels = [self.y(getattr(error.limit, name)) for error in self.taps.values()]
        line, before = f"M{LEFT:.0f} {svg.number(levels[0])}", levels[0]
        for i, level in enumerate(levels):
            if level != before:
                line += f"H{svg.number(LEFT + self.step * i)}V{svg.number(level)}"
                before = level
        svg.add(root, "path", name, d=f"{line}H{svg.number(self.right)}")

    def draw_series(self, root: ET.Element, backend: str) -> None:
        """Draw a framework's errors: marks, joined where they are of one kind; what is no number as an upright line."""
        group = svg.add(root, "g", f"series {backend}")
        errors = self.found[backend]
        points = {
            tap: f"{svg.number(self.x(self.place[tap]))} {svg.number(self.y(error.error))}"
            for tap, error in errors.items()
            if math.isfinite(error.error)
        }
        for _, run in itertools.groupby(points, lambda tap: _kind(errors[tap])):
            svg.add(group, "path", "line", d="M" + "L".join(points[tap] for tap in run))
        mark = MARKS[backend].replace("M", "m", 1)
        svg.add(group, "path", "mark", d="".join(f"M{point}{mark}" for point in points.values()))
        for tap in errors:
            if tap not in points:
                svg.add(group, "path", "unknown", d=f"M{svg.number(self.x(self.place[tap]))} {TOP:.0f}v{HEIGHT:.0f}")

    def draw_taps(self, root: ET.Element, paths: Collection[str]) -> None:
        """Draw what is pointed at: a column for each tap, which says its errors and knows its part."""
        for tap, i in self.place.items():
            said = [f"{backend} {_said(errors[tap])}" for backend, errors in self.found.items() if tap in errors]
            column = svg.add(root, "rect", "tap", x=self.x(i) - self.step / 2, y=TOP, width=self.step, height=HEIGHT)
            if path := part_of(tap, paths):
                column.set("data-path", path)
            svg.add(column, "title").text = f"{tap}: {', '.join(said)}"

    def draw_labels(self, root: ET.Element) -> None:
        """Write the kinds of taps above them, where there are several, and as many names below as there is room for."""
        begin = 0
        kinds = [(kind, list(taps)) for kind, taps in itertools.groupby(self.taps, lambda tap: _kind(self.taps[tap]))]
        for kind, taps in kinds:
            if begin:
                edge = svg.number(self.x(begin) - self.step / 2)
                svg.add(root, "path", "grid", d=f"M{edge} {TOP:.0f}V{self.foot + 6:.0f}")
            if len(kinds) > 1:
                svg.add(root, "text", "kind", x=self.x(begin), y=TOP - 6).text = f"{kind}s"
            names = [tap.removeprefix(f"{kind} ").removeprefix("of ") for tap in taps]
            for i, name in labels(names, MOST_LABELS, UPRIGHT / self.step):
                place = f"translate({svg.number(self.x(begin + i) + 4)} {self.foot + 6:.0f}) rotate(-90)"
                text = svg.add(root, "text", "", transform=place, text_anchor="end")
                text.text = name if len(name) < 17 else f"…{name[-15:]}"
            begin += len(taps)


def _kind(error: TapError) -> str:
    return error.input if error.input in ("derivative", "gradient") else "tap"


def _said(error: TapError) -> str:
    return f"{error.error:.1e}" if math.isfinite(error.error) else "not comparable"


def _worst(errors: Sequence[TapError]) -> dict[str, TapError]:
    """Return what was found at each tap in network order: of several inputs, the one farthest from the truth."""
    found: dict[str, TapError] = {}
    for error in errors:
        name = f"derivative {error.tap}" if error.input == "derivative" else error.tap
        if name not in found or error.error > found[name].error:
            found[name] = error
    return found


def part_of(tap: str, paths: Collection[str]) -> str:
    """Return the part that a tap, a gradient or a weight is of."""
    name = tap.removeprefix("derivative ").removeprefix("gradient of ").partition(" ")[0]
    return name if name in paths else parent if (parent := name.rpartition(".")[0]) in paths else ""
