"""Benchmark charts for the site, as SVG that uses the page's colors: throughput per path, and latency against memory.

They are not drawn with matplotlib, whose SVG is three times as large and would need its colors and ids replaced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from common.deploy.bench.results import Measurement
from common.deploy.execution_paths import PATHS
from common.deploy.recommend.criteria import LATENCY, MEMORY, THROUGHPUT, Quantity, shown
from common.view import svg
from common.view.site.error_chart import MARKS

__all__ = ["latency_against_memory", "throughput"]

ROW, WIDTH, NAMES, RIGHT, TOP, BOTTOM = 17.0, 380.0, 132.0, 16.0, 8.0, 38.0
"""Height of a row, width of the plot, width of the names at its left, and margins, in pixels."""
HEIGHT, LEFT = 280.0, 50.0


class _Scale:
    """A logarithmic axis from `begin` to `end`, in pixels, for some values."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        # The margin also keeps the range from being empty if all values are equal.
        self.low, self.high = math.log10(min(values)) - 0.06, math.log10(max(values)) + 0.06
        self.begin, self.end = begin, end

    def __call__(self, value: float) -> float:
        fraction = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + fraction * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return the values to label: powers of ten, and in a small range also 2, 5 or all digits times them."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        digits = range(1, 10) if self.high - self.low < 0.7 else (1, 2, 5) if len(powers) <= 4 else (1,)
        values = [digit * 10.0**power for power in powers for digit in digits]
        return [value for value in values if self.low <= math.log10(value) <= self.high]


def _draw_x_axis(root: ET.Element, scale: _Scale, top: float, foot: float, name: str) -> None:
    """Draw vertical grid lines, their labels, and the name of the axis."""
    for value in scale.ticks():
        x = svg.number(scale(value))
        svg.add(root, "path", "grid", d=f"M{x} {svg.number(top)}V{svg.number(foot)}")
        svg.add(root, "text", "", x=scale(value), y=foot + 14, text_anchor="middle").text = f"{value:g}"
    middle = (scale.begin + scale.end) / 2
    svg.add(root, "text", "kind", x=middle, y=foot + 30, text_anchor="middle").text = name


def throughput(measurements: Sequence[Measurement], label: str) -> str:
    """Draw the throughput of each path in a row, fastest path first. Larger markers are larger batches."""
    known = [each for each in measurements if THROUGHPUT.of(each)]
    best: dict[str, float] = {}
    for each in known:
        best[each.path] = max(best.get(each.path, 0.0), _of(THROUGHPUT, each))
    order = sorted(best, key=lambda path: -best[path])
    batches = sorted({each.batch for each in known})
    foot = TOP + ROW * len(order)
    root = svg.root("chart", NAMES + WIDTH + RIGHT, foot + BOTTOM, label)
    scale = _Scale([_of(THROUGHPUT, each) for each in known], NAMES, NAMES + WIDTH)
    _draw_x_axis(root, scale, TOP, foot, f"{THROUGHPUT.name} ({THROUGHPUT.unit})")
    for row, path in enumerate(order):
        y = TOP + ROW * (row + 0.5)
        svg.add(root, "text", "", x=NAMES - 12, y=y + 4, text_anchor="end").text = path
        own = sorted((each for each in known if each.path == path), key=lambda each: each.batch)
        group = svg.add(root, "g", f"series {PATHS[path].backend}")
        ends = [scale(_of(THROUGHPUT, each)) for each in own]
        svg.add(group, "path", "line", d=f"M{svg.number(min(ends))} {svg.number(y)}H{svg.number(max(ends))}")
        for each, x in zip(own, ends, strict=True):
            if (interval := THROUGHPUT.interval(each)) is not None:
                bounds = f"M{svg.number(scale(interval.low))} {svg.number(y)}H{svg.number(scale(interval.high))}"
                svg.add(group, "path", "interval", d=bounds)
            size = 0.8 + 0.6 * batches.index(each.batch) / max(len(batches) - 1, 1)
            _draw_marker(
                group, each, x, y, size, f"{path}, batch {each.batch}: {shown(_of(THROUGHPUT, each))} images/s"
            )
    return ET.tostring(root, encoding="unicode")


def latency_against_memory(measurements: Sequence[Measurement], front: Sequence[Measurement], label: str) -> str:
    """Draw latency against memory. Paths in `front` are labeled; the others are faint and have only a tooltip."""
    known = [each for each in measurements if LATENCY.of(each) and MEMORY.of(each)]
    root = svg.root("chart", LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM, label)
    across = _Scale([_of(MEMORY, each) for each in known], LEFT, LEFT + WIDTH)
    up = _Scale([_of(LATENCY, each) for each in known], TOP + HEIGHT, TOP)
    _draw_x_axis(root, across, TOP, TOP + HEIGHT, f"{MEMORY.name} ({MEMORY.unit})")
    for value in up.ticks():
        svg.add(root, "path", "grid", d=f"M{LEFT:.0f} {svg.number(up(value))}H{LEFT + WIDTH:.0f}")
        svg.add(root, "text", "", x=LEFT - 6, y=up(value) + 4, text_anchor="end").text = f"{value:g}"
    svg.add(
        root, "text", "kind", transform=f"translate(12 {TOP + HEIGHT / 2:.0f}) rotate(-90)", text_anchor="middle"
    ).text = f"{LATENCY.name} ({LATENCY.unit})"
    taken: list[tuple[float, float, float]] = []
    for each in sorted(known, key=lambda each: (each in front, -_of(LATENCY, each))):
        x, y = across(_of(MEMORY, each)), up(_of(LATENCY, each))
        group = svg.add(root, "g", f"series {PATHS[each.path].backend}{'' if each in front else ' off'}")
        tooltip = f"{each.path}: {shown(_of(LATENCY, each))} ms, {shown(_of(MEMORY, each))} MB"
        _draw_marker(group, each, x, y, 1.0, tooltip)
        if each in front:
            _draw_label(root, each.path, x, y, taken)
    return ET.tostring(root, encoding="unicode")


def _of(quantity: Quantity, measurement: Measurement) -> float:
    return quantity.of(measurement) or 0.0


def _draw_marker(group: ET.Element, each: Measurement, x: float, y: float, size: float, tooltip: str) -> None:
    """Draw the marker of a path, and a larger transparent circle that shows the tooltip."""
    place = f"translate({svg.number(x)} {svg.number(y)}) scale({size:.2g})"
    svg.add(group, "path", "mark", d=MARKS[PATHS[each.path].backend], transform=place)
    point = svg.add(group, "circle", "point", cx=x, cy=y, r=7)
    svg.add(point, "title").text = tooltip


def _draw_label(root: ET.Element, name: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> None:
    """Write a name beside a marker, and move it down until it overlaps no other one.

    `taken` holds the left end, the right end and the y coordinate of each name.
    """
    width = svg.text_width(name)
    left = x + 8 + width > LEFT + WIDTH + RIGHT
    begin = x - 8 - width if left else x + 8
    while any(abs(y - other) < 12 and begin < right and at < begin + width for at, right, other in taken):
        y += 12
    taken.append((begin, begin + width, y))
    svg.add(root, "text", "", x=x + (-8 if left else 8), y=y + 4, text_anchor="end" if left else "start").text = name
