"""Picture of a network's feature maps for one image, and of its first filters, in each framework."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import layout, reference
from common.backends import registry
from common.catalog import Network
from common.files import map_safetensors
from common.parity.harness import run_each
from common.plotting import new_figure, printable
from common.weights import DTypeName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Row", "draw", "gather", "largest_difference", "layers_shown"]

_MAX_TILES = 16
"""Maximum number of channels or filters shown per layer."""
_PANEL, _GAP, _BAR, _MARGIN, _LINE = 2.4, 0.2, 0.6, 0.25, 0.25
"""Width of a panel, gap between panels, width of the color bar, margin and height of a text line, in inches."""
_MAGNITUDE, _SIGNED = "viridis", "RdBu_r"
"""Color maps, safe for color blindness, for non-negative values and for values of both signs."""


@dataclass(frozen=True)
class Row:
    """One row of the picture: an activation or the filters in each framework.

    `arrays` are in the canonical layout: activations (1, C, H, W) or (1, features), or filters (O, I, h, w). `shapes`
    are those in the framework's own layout. `compared`: whether to show the largest difference between frameworks.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    filters: bool = False
    compared: bool = True


def layers_shown(network: Network) -> list[str]:
    """Return the taps shown by default: the first one, and every direct part with a spatial output."""
    taps = reference.describe(network).taps
    first = next(iter(taps))
    return [tap for tap, shape in taps.items() if tap == first or ("." not in tap and math.prod(shape[2:]) > 1)]


def gather(
    network: Network, names: Sequence[str], weights: Path, x: np.ndarray, layers: Sequence[str], dtype: DTypeName
) -> list[Row]:
    """Run the network on one image (C, H, W) in each backend, each in its own process, and return all rows.

    Raises BackendError if a backend is missing, fails or dies.
    """
    manifest = reference.describe(network).manifest
    first = next(iter(manifest))
    image = x[None]
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder:
        source = Path(folder) / "x.npy"
        np.save(source, image)
        taps = {name: Path(folder) / f"{name}-taps" for name in names}
        filters = {name: Path(folder) / f"{name}-filters" for name in names}
        run_each(
            names,
            network,
            dtype,
            lambda name: [
                {"action": "trace", "inputs": {"x": str(source)}, "outputs": {"x": str(taps[name])}},
                {"action": "weights", "names": [first], "outputs": {"result": str(filters[name])}},
            ],
            weights=str(weights.resolve()),
        )
        traces = {name: map_safetensors(path)[1] for name, path in taps.items()}
        kernels = {name: np.array(map_safetensors(path)[1][first]) for name, path in filters.items()}
        activations = {layer: {name: np.array(traces[name][layer]) for name in names} for layer in layers}
    same = dict.fromkeys(names, image)
    native = {
        name: layout.to_channels_last(manifest[first], values) if _channels_last(name) else values
        for name, values in kernels.items()
    }
    return [
        Row("input", same, _native_shapes(same), compared=False),
        Row(first, kernels, {name: values.shape for name, values in native.items()}, filters=True),
        *(Row(layer, arrays, _native_shapes(arrays)) for layer, arrays in activations.items()),
    ]


def _channels_last(name: str) -> bool:
    return registry.get(name).layout == "NHWC"


def _native_shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {
        name: (layout.nchw_to_nhwc(values) if _channels_last(name) else values).shape for name, values in arrays.items()
    }


def largest_difference(row: Row) -> float:
    """Return the largest elementwise difference between any two frameworks."""
    values = np.stack([np.asarray(array, np.float64) for array in row.arrays.values()])
    return float(np.max(values.max(axis=0) - values.min(axis=0)))


def _tiles(row: Row, array: np.ndarray) -> np.ndarray:
    """Return the images shown for an array: (tiles, H, W)."""
    if row.filters:
        return array.reshape(-1, *array.shape[2:])[:_MAX_TILES]
    if array.ndim == 4:
        return array[0, :_MAX_TILES]
    side = math.ceil(math.sqrt(array.size))
    square = np.full(side * math.ceil(array.size / side), np.nan)
    square[: array.size] = array.reshape(-1)
    return square.reshape(1, -1, side)


def _caption(row: Row) -> str:
    """Return the title of a row."""
    array = next(iter(row.arrays.values()))
    if row.filters:
        outputs, inputs = array.shape[:2]
        of = "" if inputs == 1 else f" for each of {inputs} channels"
        kind, count = f"filters{of}", outputs * inputs
        return f"{row.name}: {outputs} {kind}{f', {_MAX_TILES} of {count} shown' if count > _MAX_TILES else ''}"
    if array.ndim == 4:
        channels = array.shape[1]
        shown = f"{_MAX_TILES} of {channels}" if channels > _MAX_TILES else str(channels)
        return f"{row.name}: {shown} channel{'s' * (channels > 1)}"
    return f"{row.name}: {array.size} values, row by row"


def _montage(tiles: np.ndarray) -> np.ndarray:
    """Arrange tiles in a grid that is nearly square, with gaps of NaN. (tiles, H, W) -> (rows, columns)."""
    count, height, width = tiles.shape
    # Small tiles are magnified, so that a gap can be narrower than one of their pixels.
    factor = math.ceil(64 / max(height, width))
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = height * factor, width * factor
    gap = max(height, width) // 8
    columns = math.ceil(math.sqrt(count))
    lines = math.ceil(count / columns)
    sheet = np.full((lines * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _scale(shown: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return one color scale for all frameworks. It is symmetric about zero if there are negative values."""
    lowest, highest = (float(reduce([reduce(tiles) for tiles in shown])) for reduce in (np.nanmin, np.nanmax))
    limit = max(abs(lowest), abs(highest)) or 1.0
    if lowest < 0:
        return {"cmap": _SIGNED, "vmin": -limit, "vmax": limit}
    return {"cmap": _MAGNITUDE, "vmin": 0, "vmax": limit}


def draw(rows: Sequence[Row], title: str = "") -> Figure:
    """Draw a row of panels per layer and a column per framework.

    All panels of a row share one color scale. The title of a panel is the shape in the framework's layout. Below a row
    is the largest difference between any two frameworks, over all channels, also those that are not shown.
    """
    sheets = [{name: _montage(_tiles(row, array)) for name, array in row.arrays.items()} for row in rows]
    columns = max(len(each) for each in sheets)
    heights = [_PANEL * max(sheet.shape[0] / sheet.shape[1] for sheet in each.values()) for each in sheets]
    width = 2 * _MARGIN + columns * (_PANEL + _GAP) + _BAR
    height = 2 * _MARGIN + 2 * _LINE + sum(heights) + len(rows) * (4 * _LINE)
    figure = new_figure(width, height)
    # Positions are set in inches to align the columns of all rows.
    figure.set_layout_engine("none")

    def axes(left: float, top: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, (top - high) / height, wide / width, high / height))

    def write(words: str, x: float, y: float, **style: Any) -> None:
        figure.text(x / width, y / height, printable(words), va="top", parse_math=False, **style)

    top = height - _MARGIN
    write(title, width / 2, top, ha="center")
    top -= 2 * _LINE
    for row, each, high in zip(rows, sheets, heights, strict=True):
        write(_caption(row), _MARGIN, top, fontweight="bold")
        top -= 2 * _LINE
        scale = _scale(list(each.values()))
        for i, (name, sheet) in enumerate(each.items()):
            panel = axes(_MARGIN + i * (_PANEL + _GAP), top, _PANEL, high)
            image = panel.imshow(sheet, interpolation="nearest", **scale)
            panel.set_title(f"{name}  ({', '.join(map(str, row.shapes[name]))})", fontsize="small", color="0.2")
            panel.set_axis_off()
        bar = figure.colorbar(image, cax=axes(_MARGIN + columns * (_PANEL + _GAP), top, 0.12, high))
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize="small")
        top -= high
        if row.compared and len(row.arrays) > 1:
            write(_comparison(row), _MARGIN, top - 0.3 * _LINE, fontsize="small", color="0.3")
        top -= 2 * _LINE
    return figure


def _comparison(row: Row) -> str:
    difference = largest_difference(row)
    largest = max(float(np.max(np.abs(array))) for array in row.arrays.values())
    shown = f"{difference:.1e}" if difference else "none"
    return f"largest difference between any two: {shown}; largest value: {largest:.2g}"
