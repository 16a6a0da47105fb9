"""What execution paths cost, as SVGs that take the page's colors: throughput path by path, and latency for memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as ET

from common.deploy.bench.results import Measurement
from common.deploy.execution_paths import PATHS
from common.deploy.recommend.criteria import LATENCY, MEMORY, THROUGHPUT, Quantity, shown
from common.view import svg
from common.view.site.error_chart import MARKS

__all__ = ["throughput", "trade"]

ROW, WIDTH, NAMES, RIGHT, TOP, BOTTOM = 17.0, 380.0, 132.0, 16.0, 8.0, 38.0
"""Pixels: a row, what is drawn from left to right, the names before it, and what is around it."""
HEIGHT, LEFT = 280.0, 50.0
_LEVELS = (1, 2, 5)


class _Scale:
    """A logarithmic axis: from a value to pixels, and which values are labeled."""

    def __init__(self, values: Iterable[float], begin: float, end: float) -> None:
        every = list(values)
        # Some room on both sides, also where there is one value.
        self.low, self.high = math.log10(min(every)) - 0.06, math.log10(max(every)) + 0.06
        self.begin, self.end = begin, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return round values, fewer where there are many powers of ten."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        levels = _LEVELS if len(powers) <= 4 else (1,)
        every = [level * 10.0**power for power in powers for level in levels]
        return [value for value in every if self.low <= math.log10(value) <= self.high]


def _root(width: float, height: float, label: str) -> ET.Element:
    root = ET.Element("svg", {"class": "chart", "role": "img", "aria-label": label})
    root.set("viewBox", f"0 0 {width:.0f} {height:.0f}")
    root.set("width", f"{width:.0f}")
    root.set("height", f"{height:.0f}")
    return root


def _upright(root: ET.Element, scale: _Scale, top: float, foot: float, name: str) -> None:
    """Draw a line for each labeled value of a level axis, and the axis's name."""
    for value in scale.ticks():
        x = svg.number(scale(value))
        svg.add(root, "path", "grid", d=f"M{x} {svg.number(top)}V{svg.number(foot)}")
        svg.add(root, "text", "", x=scale(value), y=foot + 14, text_anchor="middle").text = f"{value:g}"
    middle = (scale.begin + scale.end) / 2
    svg.add(root, "text", "kind", x=middle, y=foot + 30, text_anchor="middle").text = name


def throughput(measurements: Sequence[Measurement], label: str) -> str:
    """Return images a second of each path, the fastest at its best first; a larger mark is a larger batch."""
    known = [each for each in measurements if THROUGHPUT.of(each)]
    best: dict[str, float] = {}
    for each in known:
        best[each.path] = max(best.get(each.path, 0.0), _of(THROUGHPUT, each))
    order = sorted(best, key=lambda path: -best[path])
    batches = sorted({each.batch for each in known})
    foot = TOP + ROW * len(order)
    root = _root(NAMES + WIDTH + RIGHT, foot + BOTTOM, label)
    scale = _Scale((_of(THROUGHPUT, each) for each in known), NAMES, NAMES + WIDTH)
    _upright(root, scale, TOP, foot, f"{THROUGHPUT.name} ({THROUGHPUT.unit})")
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
            _mark(group, each, x, y, size, f"{path}, batch {each.batch}: {shown(_of(THROUGHPUT, each))} images/s")
    return ET.tostring(root, encoding="unicode")


def trade(measurements: Sequence[Measurement], front: Sequence[Measurement], label: str) -> str:
    """Return latency against memory; paths of the front are named, the others faint, and said when pointed at."""
    known = [each for each in measurements if LATENCY.of(each) and MEMORY.of(each)]
    root = _root(LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM, label)
    across = _Scale((_of(MEMORY, each) for each in known), LEFT, LEFT + WIDTH)
    up = _Scale((_of(LATENCY, each) for each in known), TOP + HEIGHT, TOP)
    _upright(root, across, TOP, TOP + HEIGHT, f"{MEMORY.name} ({MEMORY.unit})")
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
        said = f"{each.path}: {shown(_of(LATENCY, each))} ms, {shown(_of(MEMORY, each))} MB"
        _mark(group, each, x, y, 1.0, said)
        if each in front:
            _beside(root, each.path, x, y, taken)
    return ET.tostring(root, encoding="unicode")


def _of(quantity: Quantity, measurement: Measurement) -> float:
    return quantity.of(measurement) or 0.0


def _mark(group: ET.Element, each: Measurement, x: float, y: float, size: float, said: str) -> None:
    """Draw a path's mark, and around it what is large enough to be pointed at."""
    place = f"translate({svg.number(x)} {svg.number(y)}) scale({size:.2g})"
    svg.add(group, "path", "mark", d=MARKS[PATHS[each.path].backend], transform=place)
    point = svg.add(group, "circle", "point", cx=x, cy=y, r=7)
    svg.add(point, "title").text = said


def _beside(root: ET.Element, name: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> None:
    """Write a name beside a mark, lower where another stands there already; `taken`: begin, end and height of each."""
    width = svg.text_width(name)
    left = x + 8 + width > LEFT + WIDTH + RIGHT
    begin = x - 8 - width if left else x + 8
    while any(abs(y - other) < 12 and begin < right and at < begin + width for at, right, other in taken):
        y += 12
    taken.append((begin, begin + width, y))
    svg.add(root, "text", "", x=x + (-8 if left else 8), y=y + 4, text_anchor="end" if left else "start").text = name
