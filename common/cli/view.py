"""The commands `rosetta activations`, `summary`, `show` and `site`: look at a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from common.backends.registry import BACKENDS
from common.catalog import get
from common.choices import DTypeName, SummaryFormat
from common.cli.options import (
    BACKEND,
    DTYPE,
    PORTS,
    Choice,
    ChoiceList,
    config_option,
    example,
    network_of,
    open_run,
    parse_config,
)
from common.errors import InputError
from common.terminal import console, print_fitted

if TYPE_CHECKING:
    import numpy as np


@click.command(
    short_help="Draw the feature maps of an image.",
    epilog=example(
        "rosetta activations lenet digit:7 --weights runs/lenet -o maps.png",
        "rosetta activations resnet18 cat.jpg --weights w.safetensors --layers stem.conv,stage1 -o maps.png",
        "rosetta activations lenet seven.png --weights w.safetensors --backends numpy,jax --dtype float64 -o maps.png",
    ),
)
@click.argument("network")
@click.argument("image")
@click.option(
    "--weights",
    "weights_path",
    required=True,
    type=click.Path(path_type=Path),
    help="Weights file or training run.",
)
@click.option(
    "--backends",
    type=ChoiceList(BACKENDS, "backend"),
    default=",".join(PORTS),
    show_default=True,
    help="Backends to show side by side.",
)
@click.option(
    "--layers",
    metavar="LAYER,...",
    help="Layers to show  [default: the first convolution, and each stage or layer whose output is an image]",
)
@click.option(
    "--dtype", type=DTYPE, default="float32", show_default=True, help="Number type (numpy always uses float64)."
)
@config_option
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="PNG file to write.")
def activations(
    network: str,
    image: str,
    weights_path: Path,
    backends: Sequence[str],
    layers: str | None,
    dtype: DTypeName,
    config: str | None,
    output: Path,
) -> int:
    """Draw the feature maps and first filters of NETWORK for IMAGE, one column per backend.

    IMAGE is a PNG or JPEG file, or digit:N for one of the 1797 handwritten digits included in rosetta. With the weights
    of a training run, pixels are normalized as in training; otherwise they range from 0 to 1.
    """
    from common import reference
    from common.files import check_writable
    from common.plotting import save_figure
    from common.training.batches import prepare
    from common.view import activations as view

    check_writable(output)
    mean = std = None
    if weights_path.is_dir():
        experiment, checkpoint = open_run(weights_path)
        mean, std, weights_path = experiment.mean, experiment.std, checkpoint.path / "weights.safetensors"
    entry = network_of(weights_path, network, config)
    shown = view.layers_shown(entry)
    if layers is not None:
        taps = list(reference.describe(entry).taps)
        chosen = ChoiceList(taps, f"layer of {entry.name}").convert(layers, None, None)
        shown = [tap for tap in taps if tap in chosen]
    channels = 3 if entry.config.in_channels == 3 else 1
    x = prepare(_picture(image), entry.input_shape, mean or [0.0] * channels, std or [1.0] * channels, dtype)
    rows = view.gather(entry, backends, weights_path, x, shown, dtype)
    save_figure(view.draw(rows, f"{entry.name} on {image}, {dtype}"), output)
    click.echo(f"{output}: {', '.join(row.name for row in rows)} of {entry.name} in {', '.join(backends)}")
    return 0


def _picture(given: str) -> np.ndarray:
    """Return the pixels of an image file, or of a handwritten digit included in rosetta."""
    from common.images import digits
    from common.training.datasets import open_image

    kind, _, number = given.partition(":")
    if kind != "digit" or Path(given).exists():
        return open_image(Path(given))
    images, _ = digits()
    if not number.isdecimal() or int(number) >= len(images):
        raise InputError(f"{given}: there is no such digit; choose from digit:0 to digit:{len(images) - 1}")
    return images[int(number)]


_FORMAT_BY_SUFFIX = {".md": "markdown", ".csv": "csv", ".json": "json"}


@click.command(
    short_help="Show the layers of a network.",
    epilog=example(
        "rosetta summary resnet18",
        "rosetta summary googlenet --backend tf --all",
        "rosetta summary vgg11 --batch 32 -o vgg11.md",
    ),
)
@click.argument("network")
@click.option(
    "--backend", type=BACKEND, default="numpy", show_default=True, help="Backend whose layer names and layout to use."
)
@click.option("--all", "everything", is_flag=True, help="Show every stage, block and layer, not only the top level.")
@config_option
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images per batch.")
@click.option("--dtype", type=DTYPE, default="float32", show_default=True, help="Number type of the activations.")
@click.option(
    "--format",
    "form",
    type=Choice(get_args(SummaryFormat), "format"),
    help="Output format  [default: by FILE's suffix, .md, .csv or .json; otherwise table]",
)
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="File to write.")
def summary(
    network: str,
    backend: str,
    everything: bool,
    config: str | None,
    batch: int,
    dtype: DTypeName,
    form: SummaryFormat | None,
    output: Path | None,
) -> int:
    """Show the layers of NETWORK: type, output shape, parameters, multiply-accumulates, memory, receptive field.

    Multiply-accumulates are for one image; activation bytes are for the whole batch. The receptive field is given by
    its size in pixels (height x width), its stride, and its start, which is negative where it begins in the padding.
    """
    from common import reference
    from common.files import atomic_writer, check_writable
    from common.parity.harness import run_one
    from common.view import summary as view

    written_as = form or _FORMAT_BY_SUFFIX.get(output.suffix if output else "", "table")
    entry = get(network, **parse_config(config))
    description = reference.describe(entry)
    if output is not None:
        check_writable(output)
    if backend == "numpy":
        calls, container = description.calls, "Sequential"
    else:
        answer = run_one(backend, "summary", entry, "float32")
        calls, container = tuple(reference.Call(**call) for call in answer["calls"]), answer["container"]
    rows = view.rows(calls, description, container, everything)
    result = view.Summary(entry, description, backend, dtype, batch, rows)
    if output is not None:
        with atomic_writer(output) as file:
            file.write(view.FORMATS[written_as](result).encode())
        click.echo(f"{output}: {entry.name}, {len(rows)} rows")
    elif written_as == "table":
        screen = console()
        table, totals = view.to_table(result)
        print_fitted(screen, table)
        screen.print(totals)
    else:
        click.echo(view.FORMATS[written_as](result), nl=False)
    return 0


@click.command(
    short_help="Show source in each framework side by side.",
    epilog=example(
        "rosetta show lenet",
        "rosetta show resnet18.stage2.block1 --backends torch,jax",
        "rosetta show googlenet.stage1.block1.branch3.conv2",
        'rosetta show resnet.stage1 --config \'{"arch": [[3, 16]], "in_channels": 3}\'',
        "rosetta show training.step --backends tf,mxnet",
        "rosetta show layers.batch_norm",
        "rosetta show operators",
    ),
)
@click.argument("what", metavar="NETWORK[.PART]")
@click.option(
    "--backends",
    type=ChoiceList(BACKENDS, "backend"),
    default=",".join(BACKENDS),
    show_default=True,
    help="Backends to show, in this order.",
)
@config_option
def show(what: str, backends: Sequence[str], config: str | None) -> int:
    """Show the source of a network, block or layer in each framework side by side, with output shapes.

    PART is an attribute path, as in a weights file: stage2.block1.conv1. In place of a network, name layers, operators
    or training, alone or with a part. As many columns are shown as fit in the terminal; without a terminal, sources
    follow one another unless the environment variable COLUMNS gives a width.
    """
    from common.view.side_by_side.lookup import find
    from common.view.side_by_side.render import print_view

    view = find(what, **parse_config(config))
    screen = console()
    columns = os.environ.get("COLUMNS", "")
    given = int(columns) if columns.isdecimal() else 0
    print_view(view, backends, screen, screen.width if screen.is_terminal else given or None)
    return 0


@click.command(
    short_help="Write a static website of the results.",
    epilog=example(
        "rosetta site -o site",
        "rosetta parity --checks forward,gradients,training --json parity.json",
        "rosetta site -o site --parity parity.json --bench bench.json",
    ),
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--parity",
    "parity_path",
    type=click.Path(path_type=Path),
    help="Include a report of `rosetta parity --json`.",
)
@click.option(
    "--bench",
    "bench_paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Include measurements that `rosetta bench --json` wrote; may be repeated.",
)
@click.option("--force", is_flag=True, help="Write to a folder that holds other files too; these are kept.")
def site(output: Path, parity_path: Path | None, bench_paths: tuple[Path, ...], force: bool) -> int:
    """Write a static website of the networks, framework idioms, pitfalls and results.

    Open index.html in a browser; no server is needed. Each network has a page with its diagram, its source in every
    framework side by side, its costs and its results. A site that is already in the folder is replaced.
    """
    from common.view.site.build import build

    built = build(output, parity_path, force, bench_paths)
    click.echo(f"{built.index}: {built.pages} pages, {built.size / 1e6:.1f} MB")
    return 0
