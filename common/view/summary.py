"""A network layer by layer: what each is, makes, costs and sees; as a table, Markdown, CSV or JSON."""

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
    """One row: where it ends, what it is in its framework's terms, and its output's shape in that layout.

    The costs are those of all layers in it, for one image; `activations` is how many numbers these hand on. `fields`
    are the receptive fields of its output along height and width.
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
    """The rows of a network, and what they are shown for: a backend's terms, a dtype and a batch."""

    network: Network
    description: Description
    backend: str
    dtype: DTypeName
    batch: int
    rows: Sequence[Row]

    def activation_bytes(self, activations: int) -> int:
        """Return how much memory so many numbers for each image take."""
        return self.batch * activations * np.dtype(self.dtype).itemsize


def rows(calls: Iterable[Call], description: Description, container: str, everything: bool = False) -> list[Row]:
    """Return the network's direct parts, in order of execution, from every layer's call.

    Where the description says so a part is shown by its own parts, and several together make one row, which is then a
    `container`. With `everything` each block, stage and layer has a row, before those of its own parts.
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
    found = []
    for group in groups:
        last = group[-1]
        layers = [layer for call in group for layer in inside[call.path]]
        found.append(
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
    return found


def _named(calls: Iterable[Call], description: Description) -> Iterator[Call]:
    """Iterate over the calls of what the reference has too, by its paths; what a port has besides computes nothing."""
    known = {call.path for call in description.calls if call.path}
    seen: Counter[str] = Counter()
    for call in calls:
        path = call.path
        if not call.own and path not in known:
            # A function has no path of its own; the reference numbers the layers that it stands for.
            seen[path] += 1
            path = f"{path}{seen[path]}"
        if path in known:
            yield Call(path, call.kind, call.shape)


def _within(path: str) -> Iterator[str]:
    """Iterate over a path and those of the blocks and stages that it lies in."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _outermost_first(calls: Sequence[Call]) -> list[Call]:
    """Return calls that are in the order of their ends in that of their beginnings: a block before its layers."""
    begins: dict[str, int] = {}
    for place, call in enumerate(calls):
        for path in _within(call.path):
            begins.setdefault(path, place)
    return sorted(calls, key=lambda call: (begins[call.path], call.path.count(".")))


def _sight(row: Row, image: Sequence[int]) -> dict[str, Any] | None:
    """Return what of the image (height, width) a row's output sees.

    Behind a layer that reads all positions one is left, without a stride, and what it sees is cut to the image.
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
    """Return the rows as what they are shown as."""
    return [
        {
            "path": row.path,
            "layer": row.kind,
            "output_shape": [summary.batch, *row.shape[1:]],
            "parameters": row.parameters,
            "statistics": row.statistics,
            "multiply_accumulates": row.multiply_accumulates,
            "activation_bytes": summary.activation_bytes(row.activations),
            "receptive_field": _sight(row, summary.network.config.input_size),
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
    """Return one number for height and width, or both where they differ."""
    return str(values[0]) if values[0] == values[1] else " x ".join(map(str, values))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _cells(record: Mapping[str, Any]) -> list[str]:
    """Return a record as a table shows it: nothing where a layer has none."""
    costs = [_count(record[key]) for key in ("parameters", "statistics", "multiply_accumulates", "activation_bytes")]
    sight = record["receptive_field"]
    if sight is None:
        seen = ["", "", ""]
    elif sight["stride"] is None:
        seen = ["whole image" if sight["whole_image"] else " x ".join(map(str, sight["size"])), "", ""]
    else:
        seen = [" x ".join(map(str, sight["size"])), _pair(sight["stride"]), _pair(sight["offset"])]
    return [record["path"], record["layer"], ", ".join(map(str, record["output_shape"])), *costs, *seen]


def _sentence(summary: Summary) -> str:
    """Return the totals in words."""
    totals, images = _totals(summary), "1 image" if summary.batch == 1 else f"{summary.batch:,} images"
    return (
        f"{totals['parameters']:,} parameters, {totals['statistics']:,} statistics, "
        f"{totals['multiply_accumulates']:,} multiply-accumulates in convolutions and dense layers for one image, "
        f"{totals['activation_bytes']:,} bytes of activations for {images} in {summary.dtype}"
    )


def to_table(summary: Summary) -> tuple[Table, str]:
    """Return the rows as a table, and the totals in words."""
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
    """Return the rows as a table in Markdown, and the totals in words below it."""
    ruler = ["--:" if heading in _NUMBERS else "---" for heading in _HEADINGS]
    lines = [_HEADINGS, ruler, *map(_cells, _records(summary))]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\n{_sentence(summary)}\n"


def to_csv(summary: Summary) -> str:
    """Return the rows as CSV, each pair as two columns, and the totals as a last row."""
    lines: list[dict[str, Any]] = []
    for record in _records(summary):
        sight = record.pop("receptive_field") or {}
        record["output_shape"] = " ".join(map(str, record["output_shape"]))
        for key in ("size", "stride", "offset"):
            height, width = sight.get(key) or ("", "")
            name = "receptive_field" if key == "size" else key
            record |= {f"{name}_height": height, f"{name}_width": width}
        lines.append(record)
    file = io.StringIO()
    writer = csv.DictWriter(file, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows([*lines, {"path": "total", **_totals(summary)}])
    return file.getvalue()


def to_json(summary: Summary) -> str:
    """Return rows and totals as JSON."""
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
"""How a summary may be written."""
