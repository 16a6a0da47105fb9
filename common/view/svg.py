"""Elements of an SVG, and how much room text takes in it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

__all__ = ["ARROW", "SIZES", "Shapes", "add", "label_width", "line", "number", "sizes", "spoken", "text", "text_width"]

SIZES = {"title": 17.0, "heading": 14.0, "label": 12.0, "note": 11.0}
"""Font size of each style of text, in pixels. All but notes are semibold."""
ARROW = " → "

Shapes = list[tuple[int, ...]]
"""What an arrow carries, or one shape after another as blocks make them."""

# Advance widths in em, each the most that it is in any of the fonts that browsers take for system-ui or sans-serif.
_WIDTHS = {
    **dict.fromkeys("fijlrt.,:;|'!()[] ", 0.42),
    **dict.fromkeys("mwMW%", 1.0),
    **dict.fromkeys("ABCDEFGHKNOPQRSTUVXYZ+=→×", 0.84),
}
_OTHER_WIDTH = 0.65
_SEMIBOLD = 1.1


def text_width(content: str, style: str = "note") -> float:
    """Return the most that a line of text takes in any usual font, in pixels."""
    weight = 1.0 if style == "note" else _SEMIBOLD
    return SIZES[style] * weight * sum(_WIDTHS.get(letter, _OTHER_WIDTH) for letter in content)


def sizes(shape: tuple[int, ...], layout: str = "nchw") -> str:
    """Return a shape as it is written: `64×24×24`, or in NHWC `24×24×64`."""
    return "×".join(map(str, shape if layout == "nchw" else (*shape[1:], shape[0])))


def spoken(shape: tuple[int, ...]) -> str:
    """Return a shape as a screen reader can say it: `64 x 24 x 24`."""
    return " x ".join(map(str, shape))


def label_width(content: str | Shapes) -> float:
    """Return the most that a note takes, be it text or shapes with arrows between."""
    return text_width(content if isinstance(content, str) else ARROW.join(map(sizes, content)))


def number(value: float) -> str:
    """Return a coordinate to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def add(parent: ET.Element, tag: str, style: str = "", **attributes: float | str) -> ET.Element:
    """Add an element of a class; an attribute's underscores stand for hyphens."""
    named = {"class": style} if style else {}
    for name, value in attributes.items():
        named[name.replace("_", "-")] = value if isinstance(value, str) else number(value)
    return ET.SubElement(parent, tag, named)


def text(
    parent: ET.Element, style: str, x: float, y: float, content: str | Shapes | dict[str, str], left: bool = False
) -> None:
    """Write a line of text with its middle at `x`, or its beginning if `left`.

    Shapes, with arrows between, and a text for each layout, `nchw` and `nhwc`, are written in both.
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
    """Draw a line through the points; an `arrow` ends in a head, and its last piece is level or upright."""
    path = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    if arrow:
        # The head is part of the line: a marker has an id, and a page with the drawing twice would have it twice.
        before, end = (y for _, y in points[-2:])
        if before == end:
            path += "m-5-3.5l5 3.5l-5 3.5"
        else:
            path += "m-3.5-5l3.5 5l3.5-5" if before < end else "m-3.5 5l3.5-5l3.5 5"
    add(parent, "path", "line", d=path)
