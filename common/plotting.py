"""Figures: colors, markers and writing PNG or SVG files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.files import atomic_writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LOOKS", "PALETTE", "check_picture", "new_figure", "printable", "save_figure", "save_plot", "to_svg"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Colors that the color-blind can tell apart (Okabe and Ito, 2008), without yellow, which is too light on white."""

_DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """Return a new figure of this size in inches, safe to draw on from any thread."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=_DPI, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. Raises InputError where the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with atomic_writer(path, durable=False) as file:
        # savefig would draw the figure twice.
        canvas = FigureCanvasAgg(figure)
        canvas.print_png(file, metadata={"Software": None})  # type: ignore[no-untyped-call, unused-ignore]


def printable(text: str) -> str:
    """Return text with a question mark for each character that the font lacks."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(character if font.get_char_index(ord(character)) else "?" for character in text)


LOOKS = {
    "torch": (PALETTE[1], "o"),
    "jax": (PALETTE[0], "s"),
    "tf": (PALETTE[3], "^"),
    "mxnet": (PALETTE[2], "D"),
    "numpy": (PALETTE[6], "v"),
}
"""Color and marker of each backend, the same in every figure."""

_PICTURE_SUFFIXES = (".png", ".svg")


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG document, the same for the same figure; words stay text, not outlines."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.hashsalt": "rosetta", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def check_picture(path: Path) -> None:
    """Raise InputError unless the file name ends in .png or .svg."""
    if path.suffix.lower() not in _PICTURE_SUFFIXES:
        raise InputError(f"{path}: a picture is written as {' or '.join(_PICTURE_SUFFIXES)}; change the suffix")


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the suffix of its name. Raises InputError where the file cannot be written."""
    check_picture(path)
    if path.suffix.lower() == ".png":
        save_figure(figure, path)
        return
    svg = to_svg(figure)
    with atomic_writer(path, durable=False) as file:
        file.write(svg.encode())
