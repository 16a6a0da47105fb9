"""Error against depth as an SVG that takes the page's colours, and whose taps are the parts of the network.

`common.view.plots` draws the same for a file. A page needs what a picture cannot have: light and dark, a part that is
marked in the code to be marked here too, and a few kilobytes for each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from xml.etree import ElementTree as ET

from common.parity.comparison import TapError
from common.parity.results import Cell
from common.view import svg

__all__ = ["MARKS", "draw", "part_of"]

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 220.0, 46.0, 12.0, 10.0, 92.0
STEP, LEAST = 9.0, 300.0
"""Pixels from one tap to the next, and what all of them take at least."""
MOST_LABELS = 36
_ZERO = {"float64": 1e-18, "float32": 1e-10}
"""Where an error of zero is drawn: below any that two numbers of the dtype can have."""

MARKS = {
    "torch": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
    "jax": "M-2.7-2.7h5.4v5.4h-5.4z",
    "tf": "M0-3.4l3.4 6h-6.8z",
    "mxnet": "M0-3.6l3.6 3.6l-3.6 3.6l-3.6-3.6z",
}
"""The mark of each framework, so that colour is not all that tells them apart."""


def draw(cells: Sequence[Cell], paths: Collection[str], label: str) -> str:
    """Return the errors of one network, check and dtype in each framework as an SVG; `paths` are the network's parts.

    A point is the worst input's error at a tap, relative to the tap's largest value in the reference.
    """
    found = {cell.backend: _worst(cell.errors) for cell in cells}
    taps: dict[str, TapError] = {}
    for errors in found.values():
        taps |= {tap: error for tap, error in errors.items() if tap not in taps}
    zero = _ZERO[cells[0].dtype]
    values = [error.error for errors in found.values() for error in errors.values() if 0 < error.error < math.inf]
    limits = [limit for error in taps.values() for limit in (error.limit.budget, error.limit.tolerance)]
    none = any(error.error == 0 for errors in found.values() for error in errors.values())
    low = math.floor(math.log10(min([*values, *limits])))
    high = math.ceil(math.log10(max([*values, *limits])))
    room = max(LEAST, STEP * len(taps))
    step = room / len(taps)
    foot = TOP + HEIGHT - (18 if none else 0)

    def x(place: float) -> float:
        return LEFT + step * (place + 0.5)

    def y(value: float) -> float:
        if value <= zero:
            return TOP + HEIGHT - 6
        return TOP + (foot - TOP) * (high - math.log10(value)) / (high - low)

    width = LEFT + room + RIGHT
    root = ET.Element("svg", {"class": "chart", "role": "img", "aria-label": label})
    root.set("viewBox", f"0 0 {width:.0f} {TOP + HEIGHT + BOTTOM:.0f}")
    root.set("width", f"{width:.0f}")
    root.set("height", f"{TOP + HEIGHT + BOTTOM:.0f}")
    every = max(1, (high - low + 6) // 7)
    for exponent in range(low, high + 1, every):
        level = y(10.0**exponent)
        svg.add(root, "path", "grid", d=f"M{LEFT:.0f} {svg.number(level)}H{svg.number(width - RIGHT)}")
        text = svg.add(root, "text", "", x=LEFT - 6, y=level + 4, text_anchor="end")
        text.text = "10"
        svg.add(text, "tspan", "", dy=-5, font_size=8).text = str(exponent).replace("-", "\N{MINUS SIGN}")
    if none:
        svg.add(root, "text", "", x=LEFT - 6, y=y(0) + 4, text_anchor="end").text = "0"
    for name, attribute in (("tolerance", "tolerance"), ("budget", "budget")):
        line = _steps([y(getattr(error.limit, attribute)) for error in taps.values()], LEFT, step)
        svg.add(root, "path", name, d=line)
    place = {tap: i for i, tap in enumerate(taps)}
    for backend, errors in found.items():
        group = svg.add(root, "g", f"series {backend}")
        known = {tap: error for tap, error in errors.items() if math.isfinite(error.error)}
        for run in _runs(known):
            points = "L".join(f"{svg.number(x(place[tap]))} {svg.number(y(known[tap].error))}" for tap in run)
            svg.add(group, "path", "line", d=f"M{points}")
        marks = (f"M{svg.number(x(place[tap]))} {svg.number(y(error.error))}" for tap, error in known.items())
        svg.add(group, "path", "mark", d="".join(mark + MARKS[backend].replace("M", "m", 1) for mark in marks))
        for tap, error in errors.items():
            if not math.isfinite(error.error):
                svg.add(group, "path", "unknown", d=f"M{svg.number(x(place[tap]))} {TOP:.0f}v{HEIGHT:.0f}")
    for tap, i in place.items():
        said = ", ".join(f"{backend} {_said(errors[tap])}" for backend, errors in found.items() if tap in errors)
        column = svg.add(root, "rect", "tap", x=x(i) - step / 2, y=TOP, width=step, height=HEIGHT)
        if path := part_of(tap, paths):
            column.set("data-path", path)
        svg.add(column, "title").text = f"{tap}: {said}"
    for i, name in _labels(list(taps)):
        left, top = svg.number(x(i) + 4), svg.number(TOP + HEIGHT + 6)
        text = svg.add(root, "text", "", transform=f"translate({left} {top}) rotate(-90)", text_anchor="end")
        text.text = name if len(name) < 17 else f"…{name[-15:]}"
    return ET.tostring(root, encoding="unicode")


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


def _runs(errors: Mapping[str, TapError]) -> list[list[str]]:
    """Return the taps in pieces that a line may join: what is of one kind."""
    kinds = itertools.groupby(errors, lambda tap: {"derivative", "gradient"} & {errors[tap].input})
    return [list(run) for _, run in kinds]


def _steps(levels: Sequence[float], left: float, step: float) -> str:
    """Return a line that is level over each tap."""
    line, before = f"M{svg.number(left)} {svg.number(levels[0])}", levels[0]
    for i, level in enumerate(levels):
        if level != before:
            line += f"H{svg.number(left + step * i)}V{svg.number(level)}"
            before = level
    return f"{line}H{svg.number(left + step * len(levels))}"


def part_of(tap: str, paths: Collection[str]) -> str:
    """Return the part that a tap, a gradient or a weight is of."""
    name = tap.removeprefix("derivative ").removeprefix("gradient of ").partition(" ")[0]
    return name if name in paths else parent if (parent := name.rpartition(".")[0]) in paths else ""


def _labels(taps: Sequence[str]) -> list[tuple[int, str]]:
    """Return the places to label, as many as there is room for: every tap, or where each block or stage begins."""
    found = list(enumerate(taps))
    for depth in range(max(tap.count(".") for tap in taps) + 1, 0, -1):
        if len(found) <= MOST_LABELS:
            break
        heads = [".".join(tap.split(".")[:depth]) for tap in taps]
        # A stage's own tap comes behind those of its blocks, and begins nothing.
        begins = [i for i in range(1, len(taps)) if not f"{heads[i - 1]}.".startswith(f"{heads[i]}.")]
        found = [(i, heads[i]) for i in (0, *begins)]
    kept = found[:1]
    for i, name in found[1:]:
        if (i - kept[-1][0]) * max(STEP, LEAST / len(taps)) >= 12:
            kept.append((i, name))
    return kept
