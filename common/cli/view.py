"""`rosetta activations`, `summary`, `show` and `site`: look at a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.catalog import get
from common.cli.options import (
    BACKENDS,
    DTYPES,
    FORMATS,
    check_choice,
    config_option,
    example,
    network_of,
    parse_config,
    parse_list,
)
from common.errors import InputError
from common.terminal import console, print_fitted

if TYPE_CHECKING:
    import numpy as np


@click.command(
    epilog=example(
        "rosetta activations lenet digit:7 --weights runs/lenet -o maps.png",
        "rosetta activations resnet18 cat.jpg --weights w.safetensors --layers stem.conv,stage1 -o maps.png",
        "rosetta activations lenet seven.png --weights w.safetensors --backends numpy,jax --dtype float64 -o maps.png",
    )
)
@click.argument("network")
@click.argument("image")
@click.option(
    "--weights", "weights_path", required=True, type=click.Path(path_type=Path), help="Canonical weights, or a run."
)
@click.option("--backends", default=",".join(BACKENDS[1:]), show_default=True, help="In which frameworks.")
@click.option(
    "--layers", help="Which taps to show  [default: the first convolution, and each part that makes an image]"
)
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64 (numpy: always float64).")
@config_option
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The PNG to write.")
def activations(
    network: str,
    image: str,
    weights_path: Path,
    backends: str,
    layers: str | None,
    dtype: str,
    config: str | None,
    output: Path,
) -> int:
    """Draw what NETWORK makes of IMAGE: feature maps and first filters, side by side in each framework.

    IMAGE is a PNG or JPEG file, or digit:N, one of the 1797 digits that come with rosetta. It is prepared as for
    `rosetta predict`, normalized as in training where the weights are those of a run, and left from 0 to 1 else.
    """
    from common import reference
    from common.files import check_writable
    from common.plotting import save_figure
    from common.training.batches import prepare
    from common.training.checkpoints import trained
    from common.view import activations as view

    names = parse_list("--backends", backends, BACKENDS, "backend")
    check_choice("dtype", dtype, DTYPES)
    check_writable(output)
    mean = std = None
    if weights_path.is_dir():
        experiment, checkpoint = trained(weights_path)
        mean, std, weights_path = experiment.mean, experiment.std, checkpoint.path / "weights.safetensors"
    entry = network_of(weights_path, network, config)
    shown = view.layers_shown(entry)
    if layers is not None:
        taps = list(reference.describe(entry).taps)
        asked = parse_list("--layers", layers, taps, f"layer of {entry.name}")
        shown = [tap for tap in taps if tap in asked]
    channels = 3 if entry.config.in_channels == 3 else 1
    x = prepare(_picture(image), entry.input_shape, mean or [0.0] * channels, std or [1.0] * channels, dtype)
    rows = view.gather(entry, names, weights_path, x, shown, dtype)  # type: ignore[arg-type]  # it was checked
    save_figure(view.draw(rows, f"{entry.name} on {image}, {dtype}"), output)
    click.echo(f"{output}: {', '.join(row.name for row in rows)} of {entry.name} in {', '.join(names)}")
    return 0


def _picture(given: str) -> np.ndarray:
    """Return the bytes of an image file or of a digit that comes with rosetta."""
    from common.images import digits
    from common.training.datasets import open_image

    kind, _, number = given.partition(":")
    if kind != "digit" or Path(given).exists():
        return open_image(Path(given))
    images, _ = digits()
    if not number.isdecimal() or int(number) >= len(images):
        raise InputError(f"{given}: there is no such digit; give digit:0 to digit:{len(images) - 1}")
    return images[int(number)]


_SUFFIXES = {".md": "markdown", ".csv": "csv", ".json": "json"}


@click.command(
    epilog=example(
        "rosetta summary resnet18",
        "rosetta summary googlenet --backend tf --all",
        "rosetta summary vgg11 --batch 32 -o vgg11.md",
    )
)
@click.argument("network")
@click.option("--backend", default="numpy", show_default=True, help=f"One of {', '.join(BACKENDS)}.")
@click.option("--all", "everything", is_flag=True, help="Show every stage, block and layer, not only the direct parts.")
@config_option
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images at once.")
@click.option("--dtype", default="float32", show_default=True, help="Of the activations: float32 or float64.")
@click.option(
    "--format",
    "form",
    help=f"One of {', '.join(FORMATS)}  [default: what FILE's suffix says, .md, .csv or .json; table]",
)
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write it there.")
def summary(
    network: str,
    backend: str,
    everything: bool,
    config: str | None,
    batch: int,
    dtype: str,
    form: str | None,
    output: Path | None,
) -> int:
    """Show NETWORK layer by layer: what each is, makes, costs and sees, in the backend's own terms and layout.

    Multiply-accumulates are for one image, activation bytes are of the outputs of a row's layers for the whole batch.
    Of the receptive field: its size in pixels (height x width), by how many pixels it moves from one output to the
    next, and where that of the first output begins, which is negative in the padding.
    """
    from common import reference
    from common.files import atomic_writer, check_writable
    from common.parity.harness import run_one
    from common.view import summary as view

    check_choice("backend", backend, BACKENDS)
    check_choice("dtype", dtype, DTYPES)
    form = form or _SUFFIXES.get(output.suffix if output else "", "table")
    check_choice("format", form, FORMATS)
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
    found = view.Summary(entry, description, backend, dtype, batch, rows)  # type: ignore[arg-type]  # it was checked
    if output is not None:
        with atomic_writer(output) as file:
            file.write(view.FORMATS[form](found).encode())
        click.echo(f"{output}: {entry.name}, {len(rows)} rows")
    elif form == "table":
        screen = console()
        table, totals = view.to_table(found)
        print_fitted(screen, table)
        screen.print(totals)
    else:
        click.echo(view.FORMATS[form](found), nl=False)
    return 0


@click.command(
    epilog=example(
        "rosetta show lenet",
        "rosetta show resnet18.stage2.block1 --backends torch,jax",
        "rosetta show googlenet.stage1.block1.branch3.conv2",
        'rosetta show resnet.stage1 --config \'{"arch": [[3, 16]], "in_channels": 3}\'',
        "rosetta show training.step --backends tf,mxnet",
        "rosetta show layers.batch_norm",
        "rosetta show operators",
    )
)
@click.argument("what", metavar="NETWORK[.PART]")
@click.option("--backends", default=",".join(BACKENDS), show_default=True, help="Which to show, in this order.")
@config_option
def show(what: str, backends: str, config: str | None) -> int:
    """Show how each framework writes a network, block or layer: the source, aligned, with the shapes it makes.

    A part is named by its attribute path, as in a weights file. In place of a network: layers, operators or training,
    with or without one of their parts. As many stand side by side as the terminal has room for; away from a terminal
    they follow one another, unless COLUMNS gives a width.
    """
    from common.view.side_by_side.lookup import find
    from common.view.side_by_side.render import print_view

    names = parse_list("--backends", backends, BACKENDS, "backend")
    view = find(what, **parse_config(config))
    screen = console()
    columns = os.environ.get("COLUMNS", "")
    given = int(columns) if columns.isdecimal() else 0
    print_view(view, names, screen, screen.width if screen.is_terminal else given or None)
    return 0


@click.command(
    epilog=example(
        "rosetta site -o site",
        "rosetta parity --checks forward,gradients,training --json parity.json",
        "rosetta site -o site --parity parity.json --bench bench.json",
    )
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option(
    "--parity", "parity_path", type=click.Path(path_type=Path), help="A parity report's JSON, to be shown too."
)
@click.option(
    "--bench",
    "bench_paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A run of `rosetta bench --json`, to be shown too; may be given several times.",
)
@click.option("--force", is_flag=True, help="Also into a folder with other files in it, which are left as they are.")
def site(output: Path, parity_path: Path | None, bench_paths: tuple[Path, ...], force: bool) -> int:
    """Write the networks, idioms, pitfalls and results as a site that opens from the file system.

    A page for each network has its drawing, its source in every framework side by side, its costs and its results. An
    earlier site in the folder is replaced.
    """
    from common.view.site.build import build

    built = build(output, parity_path, force, bench_paths)
    click.echo(f"{built.index}: {built.pages} pages, {built.size / 1e6:.1f} MB")
    return 0
