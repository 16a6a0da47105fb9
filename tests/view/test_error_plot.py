"""Tests of the plot of error against depth: it shows the values of the report, also zeros and NaNs."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from common import plotting
from common.errors import InputError
from common.parity.comparison import Limit, TapError
from common.parity.results import Cell
from common.view import error_plot

TAPS = ("conv1", "pool1", "fc1", "logits")


def result(backend: str, errors: list[float], dtype: str = "float64", network: str = "lenet") -> Cell:
    """Return a cell of a report. Every tap has errors on two inputs, of which the second is larger or equal."""
    entries = [
        TapError(name, tap, error if name == "noise" else error / 2, Limit(1e-15 * (i + 1), 1e-14 * (i + 1)))
        for i, (tap, error) in enumerate(zip(TAPS, errors, strict=True))
        for name in ("digits", "noise")
    ]
    return Cell(network, "forward", "", dtype, backend, "agree", errors=tuple(entries))


def with_errors(cell: Cell, *errors: TapError) -> Cell:
    return dataclasses.replace(cell, errors=errors)


def lines(axes, label: str) -> list:
    return [line for line in axes.get_lines() if line.get_label() == label]


def test_a_line_shows_the_largest_errors_of_a_backend() -> None:
    errors = {"torch": [1e-16, 2e-16, 3e-16, 4e-16], "jax": [5e-16, 6e-16, 7e-16, 8e-15]}
    figure = error_plot.draw_errors([result(backend, values) for backend, values in errors.items()])
    (axes,) = figure.get_axes()
    for backend, values in errors.items():
        (line,) = lines(axes, backend)
        assert list(line.get_xdata()) == [0, 1, 2, 3]
        assert list(line.get_ydata()) == values
    assert axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == list(TAPS)
    for limit, scale in (("budget", 1e-15), ("tolerance", 1e-14)):
        (line,) = lines(axes, limit)
        assert list(line.get_ydata()[1:-1]) == pytest.approx([scale, 2 * scale, 3 * scale, 4 * scale])
    marks = {lines(axes, backend)[0].get_marker() for backend in errors}
    assert len(marks) == 2  # backends differ not only by color
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["torch", "jax", "budget", "tolerance"]


def test_zero_has_its_own_tick_and_nan_is_a_vertical_line() -> None:
    figure = error_plot.draw_errors([result("tf", [0.0, 1e-16, math.inf, 1e-16])])
    (axes,) = figure.get_axes()
    points = next(line for line in lines(axes, "tf") if line.get_marker() == "^")
    assert list(points.get_xdata()) == [0, 1, 3]
    lowest = axes.get_yticks()[0]
    assert points.get_ydata()[0] == lowest < 1e-16
    assert axes.get_yticklabels()[0].get_text() == "0"
    (mark,) = lines(axes, "not comparable")
    assert list(mark.get_xdata()) == [2, 2]
    # A tap that is not comparable on one input is not comparable.
    first, *others = result("tf", [1e-16] * 4).errors
    cell = with_errors(result("tf", [1e-16] * 4), dataclasses.replace(first, error=math.inf), *others)
    (axes,) = error_plot.draw_errors([cell]).get_axes()
    assert list(lines(axes, "not comparable")[0].get_xdata()) == [0, 0]


def test_networks_are_rows_and_dtypes_are_columns() -> None:
    given = [
        result("torch", [1e-8] * 4, dtype, network)
        for network, dtype in itertools.product(("lenet", "bn_lenet"), ("float64", "float32"))
        if (network, dtype) != ("bn_lenet", "float32")  # deep networks are trained in float64 only
    ]
    axes = error_plot.draw_errors(given).get_axes()
    assert [each.get_title("left") for each in axes if each.get_visible()] == [
        *("lenet forward float64", "lenet forward float32", "bn_lenet forward float64")
    ]


def test_derivatives_are_not_joined_to_taps() -> None:
    cell = result("mxnet", [1e-16] * 4)
    derivative = dataclasses.replace(cell.errors[0], input="derivative", error=1e-7)
    (axes,) = error_plot.draw_errors([with_errors(cell, *cell.errors, derivative)]).get_axes()
    assert [list(line.get_ydata()) for line in lines(axes, "mxnet")] == [[1e-16] * 4, [1e-7]]
    assert axes.get_xticklabels()[-1].get_text() == "derivative conv1"


def test_many_taps_are_labeled_at_the_start_of_blocks() -> None:
    taps = ["stem.conv"]
    for stage, block in itertools.product((1, 2), range(1, 6)):
        taps += [f"stage{stage}.block{block}.conv{i}" for i in range(1, 5)] + [f"stage{stage}.block{block}"]
        taps += [f"stage{stage}"] * (block == 5)
    cell = result("torch", [1e-16] * 4)
    cell = with_errors(cell, *(dataclasses.replace(cell.errors[0], tap=tap) for tap in taps))
    (axes,) = error_plot.draw_errors([cell]).get_axes()
    found = [label.get_text() for label in axes.get_xticklabels()]
    assert found == ["stem.conv", *(f"stage{s}.block{b}" for s in (1, 2) for b in range(1, 6) if (s, b) != (1, 1))]


def test_svg_has_text_elements_and_is_reproducible(tmp_path: Path) -> None:
    svgs = [plotting.to_svg(error_plot.draw_errors([result("torch", [1e-16] * 4)])) for _ in range(2)]
    assert svgs[0] == svgs[1]
    words = [element.text for element in ElementTree.fromstring(svgs[0]).iter("{http://www.w3.org/2000/svg}text")]
    assert {"conv1", "torch", "budget", "lenet forward float64"} <= set(words)
    figure = error_plot.draw_errors([result("torch", [1e-16] * 4)])
    plotting.save_plot(figure, tmp_path / "e.svg")
    plotting.save_plot(figure, tmp_path / "e.PNG")
    assert (tmp_path / "e.svg").read_text() == svgs[0]
    assert (tmp_path / "e.PNG").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_and_an_unknown_suffix_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        error_plot.draw_errors([with_errors(result("torch", [1e-16] * 4))])
    figure = error_plot.draw_errors([result("torch", [1e-16] * 4)])
    for name in ("errors.pdf", "errors"):
        with pytest.raises(InputError, match=r"is written as \.png or \.svg"):
            plotting.save_plot(figure, tmp_path / name)
    assert not list(tmp_path.iterdir())
