"""Summary of a network's layers: output shapes, costs and receptive fields, as a table, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.catalog import Network
from common.reference import Call, Description, Field
from common.weights import DTypeName

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["FORMATS", "Row", "Summary", "rows", "to_csv", "to_json", "to_markdown", "to_table", "to_text"]


@dataclass(frozen=True)
class Row:
    """One row of a summary: a layer, a block or a stage, or several layers in sequence.

    `path` is that of the last layer, `kind` the class in the framework, `shape` the output's in the framework's layout.
    The costs are sums over all layers in the row, for one image. `activations` counts the elements of the layers'
    outputs. `fields` are the receptive fields of the output along height and width.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    statistics: int
    multiply_accumulates: int
    activations: int
    fields: tuple[Field, Field] | None


@dataclass(frozen=True)
class Summary:
    """The rows of a network for a backend, with the dtype and the batch size of the activations."""

    network: Network
    description: Description
    backend: str
    dtype: DTypeName
    batch: int
    rows: Sequence[Row]

    def activation_bytes(self, activations: int) -> int:
        """Return the memory in bytes that a number of activations per image takes for the whole batch."""
        return self.batch * activations * np.dtype(self.dtype).itemsize


def rows(calls: Iterable[Call], description: Description, container: str, everything: bool = False) -> list[Row]:
    """Return the rows of a network's direct parts, in order of execution, from the calls of all layers.

    The description says which parts are replaced by their own parts, and which are merged into one row of the class
    `container`. With `everything`, each stage, block and layer has a row, before the rows of its own parts.
    """
    named = list(_named(calls, description))
    if everything:
        groups = [[call] for call in _outermost_first(named)]
    else:
        groups = [[]]
        for call in named:
            parent = call.path.rpartition(".")[0]
            shown = not parent or parent in description.summary_expands
            if shown and call.path not in description.summary_expands:
                groups[-1].append(call)
                if not description.summary_ends or call.path in description.summary_ends:
                    groups.append([])
        groups.pop()
    inside: defaultdict[str, list[Call]] = defaultdict(list)
    for call in description.calls:
        for path in _within(call.path):
            inside[path].append(call)
    fields = {call.path: call.fields for call in description.calls}
    result = []
    for group in groups:
        last = group[-1]
        layers = [layer for call in group for layer in inside[call.path]]
        result.append(
            Row(
                last.path,
                last.kind if len(group) == 1 else container,
                tuple(last.shape),
                sum(layer.parameters for layer in layers),
                sum(layer.statistics for layer in layers),
                sum(layer.multiply_accumulates for layer in layers),
                sum(layer.activations for layer in layers),
                fields[last.path],
            )
        )
    return result


def _named(calls: Iterable[Call], description: Description) -> Iterator[Call]:
    """Iterate over the calls with the reference's paths, without modules that only a port has, such as Identity."""
    known = {call.path for call in description.calls if call.path}
    seen: Counter[str] = Counter()
    for call in calls:
        path = call.path
        if not call.own and path not in known:
            # A function has its name as path; the reference numbers the layers of that name.
            seen[path] += 1
            path = f"{path}{seen[path]}"
        if path in known:
            yield Call(path, call.kind, call.shape)


def _within(path: str) -> Iterator[str]:
    """Iterate over a path and the paths of the blocks and stages that contain it."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _outermost_first(calls: Sequence[Call]) -> list[Call]:
    """Sort calls, which are in order of their ends, by their starts: a block comes before its layers."""
    begins: dict[str, int] = {}
    for place, call in enumerate(calls):
        for path in _within(call.path):
            begins.setdefault(path, place)
    return sorted(calls, key=lambda call: (begins[call.path], call.path.count(".")))


def _receptive_field(row: Row, image: Sequence[int]) -> dict[str, Any] | None:
    """Return the receptive field of a row's output in an image of (height, width) pixels.

    After a layer that reads all positions, the output has no stride, and its receptive field is clipped to the image.
    """
    if row.fields is None:
        return None
    if all(field.stride for field in row.fields):
        size, offset = [field.size for field in row.fields], [field.start for field in row.fields]
        return {"size": size, "stride": [field.stride for field in row.fields], "offset": offset, "whole_image": False}
    offset = [max(field.start, 0) for field in row.fields]
    ends = [min(field.start + field.size, pixels) for field, pixels in zip(row.fields, image, strict=True)]
    size = [end - first for end, first in zip(ends, offset, strict=True)]
    return {"size": size, "stride": None, "offset": offset, "whole_image": size == list(image)}


def _records(summary: Summary) -> list[dict[str, Any]]:
    """Return the rows as dictionaries, as written in JSON."""
    return [
        {
            "path": row.path,
            "layer": row.kind,
            "output_shape": [summary.batch, *row.shape[1:]],
            "parameters": row.parameters,
            "statistics": row.statistics,
            "multiply_accumulates": row.multiply_accumulates,
            "activation_bytes": summary.activation_bytes(row.activations),
            "receptive_field": _receptive_field(row, summary.network.config.input_size),
        }
        for row in summary.rows
    ]


def _totals(summary: Summary) -> dict[str, int]:
    description = summary.description
    return {
        "parameters": description.parameters,
        "statistics": description.statistics,
        "multiply_accumulates": description.multiply_accumulates,
        "activation_bytes": summary.activation_bytes(description.activations),
    }


_HEADINGS = (
    *("path", "layer", "output shape", "parameters", "statistics", "multiply-accumulates", "activation bytes"),
    *("receptive field", "stride", "offset"),
)
_NUMBERS = _HEADINGS[3:]


def _pair(values: Sequence[int]) -> str:
    """Format the values for height and width, as one number if they are equal."""
    return str(values[0]) if values[0] == values[1] else " x ".join(map(str, values))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _cells(record: Mapping[str, Any]) -> list[str]:
    """Format a record as the cells of a table row. Zero and None are empty cells."""
    costs = [_count(record[key]) for key in ("parameters", "statistics", "multiply_accumulates", "activation_bytes")]
    field = record["receptive_field"]
    if field is None:
        columns = ["", "", ""]
    elif field["stride"] is None:
        columns = ["whole image" if field["whole_image"] else " x ".join(map(str, field["size"])), "", ""]
    else:
        columns = [" x ".join(map(str, field["size"])), _pair(field["stride"]), _pair(field["offset"])]
    return [record["path"], record["layer"], ", ".join(map(str, record["output_shape"])), *costs, *columns]


def _sentence(summary: Summary) -> str:
    """Describe the totals in a sentence."""
    totals, images = _totals(summary), "1 image" if summary.batch == 1 else f"{summary.batch:,} images"
    return (
        f"{totals['parameters']:,} parameters, {totals['statistics']:,} statistics, "
        f"{totals['multiply_accumulates']:,} multiply-accumulates in convolutions and dense layers for one image, "
        f"{totals['activation_bytes']:,} bytes of activations for {images} in {summary.dtype}"
    )


def to_table(summary: Summary) -> tuple[Table, str]:
    """Return a table of the rows, and a sentence with the totals."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left", vertical="bottom")
    for record in _records(summary):
        table.add_row(*_cells(record))
    return table, _sentence(summary)


def to_text(summary: Summary) -> str:
    """Return the table and the totals as plain text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=300, highlight=False, markup=False)
    with console.capture() as captured:
        for part in to_table(summary):
            console.print(part)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def to_markdown(summary: Summary) -> str:
    """Return the rows as a Markdown table, followed by a sentence with the totals."""
    ruler = ["--:" if heading in _NUMBERS else "---" for heading in _HEADINGS]
    lines = [_HEADINGS, ruler, *map(_cells, _records(summary))]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\n{_sentence(summary)}\n"


def to_csv(summary: Summary) -> str:
    """Return the rows as CSV, with two columns for each (height, width) pair, and the totals as the last row."""
    lines: list[dict[str, Any]] = []
    for record in _records(summary):
        field = record.pop("receptive_field") or {}
        record["output_shape"] = " ".join(map(str, record["output_shape"]))
        for key in ("size", "stride", "offset"):
            height, width = field.get(key) or ("", "")
            name = "receptive_field" if key == "size" else key
            record |= {f"{name}_height": height, f"{name}_width": width}
        lines.append(record)
    file = io.StringIO()
    writer = csv.DictWriter(file, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows([*lines, {"path": "total", **_totals(summary)}])
    return file.getvalue()


def to_json(summary: Summary) -> str:
    """Return the rows and the totals as JSON."""
    record = {
        "network": summary.network.name,
        "config": summary.network.settings(),
        "backend": summary.backend,
        "dtype": summary.dtype,
        "batch": summary.batch,
        "rows": _records(summary),
        "totals": _totals(summary),
    }
    return f"{json.dumps(record, indent=1)}\n"


FORMATS: Mapping[str, Callable[[Summary], str]] = {
    "table": to_text,
    "markdown": to_markdown,
    "csv": to_csv,
    "json": to_json,
}
"""Writers of a summary by format."""
