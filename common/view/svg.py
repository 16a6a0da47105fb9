"""Helpers to write SVG: elements, lines of text, arrows, and upper bounds of text widths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

__all__ = [
    "ARROW",
    "SIZES",
    "Shapes",
    "add",
    "label_width",
    "line",
    "name_range",
    "number",
    "root",
    "sizes",
    "spoken",
    "text",
    "text_width",
]

SIZES = {"title": 17.0, "heading": 14.0, "label": 12.0, "note": 11.0}
"""Font size in pixels of each text style. All styles but `note` are semibold."""
ARROW = " → "

Shapes = list[tuple[int, ...]]
"""Shapes written on one line, with arrows between them."""

# Advance widths in em: the largest among the fonts that browsers use for system-ui and sans-serif.
_WIDTHS = {
    **dict.fromkeys("fijlrt.,:;|'!()[] ", 0.42),
    **dict.fromkeys("mwMW%", 1.0),
    **dict.fromkeys("ABCDEFGHKNOPQRSTUVXYZ+=→×", 0.84),
}
_OTHER_WIDTH = 0.65
_SEMIBOLD = 1.1


def text_width(content: str, style: str = "note") -> float:
    """Return an upper bound of the width of a line of text in any common font, in pixels."""
    weight = 1.0 if style == "note" else _SEMIBOLD
    return SIZES[style] * weight * sum(_WIDTHS.get(letter, _OTHER_WIDTH) for letter in content)


def sizes(shape: tuple[int, ...], layout: str = "nchw") -> str:
    """Format a shape (C, H, W) as `64×24×24`, or as `24×24×64` in the layout `nhwc`."""
    return "×".join(map(str, shape if layout == "nchw" else (*shape[1:], shape[0])))


def spoken(shape: tuple[int, ...]) -> str:
    """Format a shape for a screen reader: `64 x 24 x 24`."""
    return " x ".join(map(str, shape))


def name_range(names: Sequence[str]) -> str:
    """Join consecutive names: block1, block2, block3 and block4 become `block1–4`."""
    if len(names) == 1:
        return names[0]
    return f"{names[0]}–{names[-1].removeprefix(re.sub(r'[0-9]+$', '', names[0]))}"


def label_width(content: str | Shapes) -> float:
    """Return an upper bound of the width of a note: text, or shapes with arrows between them."""
    return text_width(content if isinstance(content, str) else ARROW.join(map(sizes, content)))


def number(value: float) -> str:
    """Format a coordinate to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def root(style: str, width: float, height: float, label: str) -> ET.Element:
    """Return the `svg` element of a picture for an HTML page. `label` is its description for screen readers."""
    element = ET.Element("svg", {"class": style, "role": "img", "aria-label": label})
    element.set("viewBox", f"0 0 {number(width)} {number(height)}")
    element.set("width", number(width))
    element.set("height", number(height))
    return element


def add(parent: ET.Element, tag: str, style: str = "", **attributes: float | str) -> ET.Element:
    """Add a child element with the class `style`. Underscores in attribute names become hyphens."""
    named = {"class": style} if style else {}
    for name, value in attributes.items():
        named[name.replace("_", "-")] = value if isinstance(value, str) else number(value)
    return ET.SubElement(parent, tag, named)


def text(
    parent: ET.Element, style: str, x: float, y: float, content: str | Shapes | dict[str, str], left: bool = False
) -> None:
    """Write a line of text, centered at `x`, or starting at `x` if `left`.

    Shapes, and a dictionary with one text per layout (`nchw` and `nhwc`), are written in both layouts; CSS shows one.
    """
    element = add(parent, "text", f"{style} left" if left else style, x=x, y=y, font_size=SIZES[style])
    if isinstance(content, list):
        content = {layout: ARROW.join(sizes(shape, layout) for shape in content) for layout in ("nchw", "nhwc")}
        if content["nchw"] == content["nhwc"]:
            content = content["nchw"]
    if isinstance(content, str):
        element.text = content
    else:
        for layout, written in content.items():
            add(element, "tspan", layout).text = written


def line(parent: ET.Element, *points: tuple[float, float], arrow: bool = False) -> None:
    """Draw a line through the points. With `arrow`, add a head; the last segment must be horizontal or vertical."""
    path = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    if arrow:
        # The head is part of the path: an SVG marker needs an id, which would be repeated if a page has two drawings.
        before, end = (y for _, y in points[-2:])
        if before == end:
            path += "m-5-3.5l5 3.5l-5 3.5"
        else:
            path += "m-3.5-5l3.5 5l3.5-5" if before < end else "m-3.5 5l3.5-5l3.5 5"
    add(parent, "path", "line", d=path)
