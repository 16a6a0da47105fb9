"""Chart of error against depth for the site, as SVG that uses the page's colors and links taps to parts.

`common.view.error_plot` draws the same chart with matplotlib for a file. The site has about a hundred charts: with
matplotlib each takes 0.2 s and twice the bytes, and colors, ids and highlighting need changes to its SVG.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from xml.etree import ElementTree as ET

from common.parity.comparison import TapError
from common.parity.results import Cell
from common.view import svg
from common.view.error_plot import all_taps, labels, runs, worst_errors

__all__ = ["MARKS", "draw", "part_of"]

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 220.0, 46.0, 12.0, 18.0, 104.0
STEP, MIN_WIDTH = 9.0, 300.0
"""Pixels between two taps, and the minimum width of all taps together."""
MAX_LABELS = 36
LABEL_GAP = 12
"""Minimum distance of two vertical labels in pixels."""
MARKS = {
    "torch": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
    "jax": "M-2.7-2.7h5.4v5.4h-5.4z",
    "tf": "M0-3.4l3.4 6h-6.8z",
    "mxnet": "M0-3.6l3.6 3.6l-3.6 3.6l-3.6-3.6z",
    "numpy": "M0 3.4l-3.4-6h6.8z",
}
"""Marker of each framework as an SVG path, so that frameworks do not differ by color only."""


def draw(cells: Sequence[Cell], paths: Collection[str], label: str) -> str:
    """Draw the errors of one network, check and dtype in each framework. `paths` are the network's parts.

    A point is the largest error over all inputs at a tap, relative to the tap's largest value in the reference.
    """
    chart = _Chart({cell.backend: worst_errors(cell.errors) for cell in cells})
    root = svg.root("chart", math.ceil(chart.right + RIGHT), chart.foot + BOTTOM, label)
    chart.draw_axis(root)
    for name in ("tolerance", "budget"):
        chart.draw_limit(root, name)
    for backend in chart.errors:
        chart.draw_series(root, backend)
    chart.draw_taps(root, paths)
    chart.draw_labels(root)
    return ET.tostring(root, encoding="unicode")


class _Chart:
    """Coordinates and drawing of the errors by framework and tap. The error axis is logarithmic."""

    def __init__(self, errors: Mapping[str, Mapping[str, TapError]]) -> None:
        self.errors = errors
        self.taps = all_taps(errors.values())
        self.index = {tap: i for i, tap in enumerate(self.taps)}
        values = [error.error for own in errors.values() for error in own.values() if math.isfinite(error.error)]
        limits = [limit for error in self.taps.values() for limit in (error.limit.budget, error.limit.tolerance)]
        self.has_zero = 0 in values
        positive = [value for value in (*values, *limits) if value > 0]
        self.low, self.high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
        width = max(MIN_WIDTH, STEP * len(self.taps))
        self.step = width / len(self.taps)
        self.right, self.foot = LEFT + width, TOP + HEIGHT

    def x(self, index: float) -> float:
        """Return the x coordinate of the middle of a tap."""
        return LEFT + self.step * (index + 0.5)

    def y(self, value: float) -> float:
        """Return the y coordinate of an error. Zero is drawn below the logarithmic axis."""
        if value == 0:
            return self.foot - 4
        foot = self.foot - (18 if self.has_zero else 0)
        return TOP + (foot - TOP) * (self.high - math.log10(value)) / (self.high - self.low)

    def draw_axis(self, root: ET.Element) -> None:
        """Draw grid lines and labels at powers of ten, at most seven."""
        for exponent in range(self.low, self.high + 1, max(1, (self.high - self.low + 6) // 7)):
            level = self.y(10.0**exponent)
            svg.add(root, "path", "grid", d=f"M{LEFT:.0f} {svg.number(level)}H{svg.number(self.right)}")
            text = svg.add(root, "text", "", x=LEFT - 6, y=level + 4, text_anchor="end")
            text.text = "10"
            svg.add(text, "tspan", "", dy=-5, font_size=8).text = str(exponent).replace("-", "\N{MINUS SIGN}")
        if self.has_zero:
            svg.add(root, "text", "", x=LEFT - 6, y=self.y(0) + 4, text_anchor="end").text = "0"

    def draw_limit(self, root: ET.Element, name: str) -> None:
        """Draw the budgets or the tolerances of all taps as a step line."""
        levels = [self.y(getattr(error.limit, name)) for error in self.taps.values()]
        line, before = f"M{LEFT:.0f} {svg.number(levels[0])}", levels[0]
        for i, level in enumerate(levels):
            if level != before:
                line += f"H{svg.number(LEFT + self.step * i)}V{svg.number(level)}"
                before = level
        svg.add(root, "path", name, d=f"{line}H{svg.number(self.right)}")

    def draw_series(self, root: ET.Element, backend: str) -> None:
        """Draw a framework's errors: markers, joined within one kind of tap. A NaN or infinity is a vertical line."""
        group = svg.add(root, "g", f"series {backend}")
        errors = self.errors[backend]
        points = {
            tap: f"{svg.number(self.x(self.index[tap]))} {svg.number(self.y(error.error))}"
            for tap, error in errors.items()
            if math.isfinite(error.error)
        }
        for _, run in runs({tap: errors[tap] for tap in points}):
            svg.add(group, "path", "line", d="M" + "L".join(points[tap] for tap in run))
        mark = MARKS[backend].replace("M", "m", 1)
        svg.add(group, "path", "mark", d="".join(f"M{point}{mark}" for point in points.values()))
        for tap in errors:
            if tap not in points:
                svg.add(group, "path", "unknown", d=f"M{svg.number(self.x(self.index[tap]))} {TOP:.0f}v{HEIGHT:.0f}")

    def draw_taps(self, root: ET.Element, paths: Collection[str]) -> None:
        """Draw a transparent column per tap, with the errors as tooltip and the part for highlighting."""
        for tap, i in self.index.items():
            values = [f"{backend} {_text(errors[tap])}" for backend, errors in self.errors.items() if tap in errors]
            column = svg.add(root, "rect", "tap", x=self.x(i) - self.step / 2, y=TOP, width=self.step, height=HEIGHT)
            if path := part_of(tap, paths):
                column.set("data-path", path)
            svg.add(column, "title").text = f"{tap}: {', '.join(values)}"

    def draw_labels(self, root: ET.Element) -> None:
        """Write the kinds of taps at the top if there are several, and as many tap names as fit at the bottom."""
        begin = 0
        kinds = runs(self.taps)
        for kind, taps in kinds:
            if begin:
                edge = svg.number(self.x(begin) - self.step / 2)
                svg.add(root, "path", "grid", d=f"M{edge} {TOP:.0f}V{self.foot + 6:.0f}")
            if len(kinds) > 1:
                svg.add(root, "text", "kind", x=self.x(begin), y=TOP - 6).text = f"{kind}s"
            names = [tap.removeprefix(f"{kind} ").removeprefix("of ") for tap in taps]
            for i, name in labels(names, MAX_LABELS, LABEL_GAP / self.step):
                place = f"translate({svg.number(self.x(begin + i) + 4)} {self.foot + 6:.0f}) rotate(-90)"
                text = svg.add(root, "text", "", transform=place, text_anchor="end")
                text.text = name if len(name) < 17 else f"…{name[-15:]}"
            begin += len(taps)


def _text(error: TapError) -> str:
    return f"{error.error:.1e}" if math.isfinite(error.error) else "not comparable"


def part_of(tap: str, paths: Collection[str]) -> str:
    """Return the path of the part that a tap, a gradient or a weight belongs to, or "" if it has none."""
    name = tap.removeprefix("derivative ").removeprefix("gradient of ").partition(" ")[0]
    return name if name in paths else parent if (parent := name.rpartition(".")[0]) in paths else ""
