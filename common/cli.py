"""The command `rosetta`. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from common import __version__
from common.catalog import FAMILIES, NETWORKS, Network, get
from common.deploy.bench_verb import bench
from common.deploy.export_verb import export
from common.deploy.recommend_verb import recommend
from common.errors import ConfigError, InputError, RosettaError, unknown
from common.options import (
    BACKENDS,
    CHECKS,
    DTYPES,
    FORMATS,
    MUTANTS,
    OPTIMIZERS,
    FiniteRange,
    check_choice,
    config_option,
    example,
    network_of,
    parse_config,
    parse_list,
    seed_option,
)
from common.terminal import console, print_fitted, with_progress
from common.training.verbs import compare, evaluate, predict, train

if TYPE_CHECKING:
    import numpy as np

__all__ = ["main"]


class _Group(click.Group):
    """A group whose error for an unknown verb names the nearest ones."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None and not cmd_name.startswith("-"):
            raise unknown("verb", cmd_name, self.commands)
        return command


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=example("rosetta doctor", "rosetta parity lenet resnet18 --html report.html"),
)
@click.version_option(__version__, prog_name="rosetta")
def cli() -> None:
    """The classic convolutional networks in PyTorch, JAX, TensorFlow, MXNet and NumPy, proven to be the same.

    Exit status: 0 all agree or done, 1 a disagreement, 2 the request or a file is wrong, 3 a backend is missing or
    died.
    """


@cli.command(epilog=example("rosetta doctor"))
def doctor() -> int:
    """Say which backends are ready, where, in which versions, and how to install what is missing."""
    from rich.table import Table

    from common.parity.doctor import examine

    screen = console()
    table = Table("backend", "status", "versions", "interpreter", box=None, pad_edge=False)
    examinations = examine(BACKENDS)
    for examination in examinations:
        table.add_row(examination.backend, examination.status, examination.versions, examination.where)
    print_fitted(screen, table)
    for examination in examinations:
        if examination.mend:
            screen.print(f"{examination.backend}: {examination.mend}", soft_wrap=True)
    return 0 if all(examination.status == "ready" for examination in examinations) else 3


@cli.command(name="list", epilog=example("rosetta list", "rosetta list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_networks(as_json: bool) -> int:
    """Show the catalogue: input, parameters, multiply-accumulates, paper."""
    from common import reference

    entries: list[dict[str, Any]] = []
    for network in [*NETWORKS.values(), *(FAMILIES[name] for name in FAMILIES if name not in NETWORKS)]:
        description = reference.describe(network)
        entries.append(
            {
                "name": network.name,
                "family": network.family,
                "input": list(network.input_shape),
                "parameters": description.parameters,
                "statistics": description.statistics,
                "multiply_accumulates": description.multiply_accumulates,
                "paper": network.paper,
                "arxiv": network.arxiv,
                "section": network.section,
                "learning_rate": network.learning_rate,
                "batch_size": network.batch_size,
                "config": network.settings(),
                "takes_arch": hasattr(network.config, "arch"),
            }
        )
    if as_json:
        click.echo(json.dumps(entries, indent=1))
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("network", "input", "parameters", "multiply-accumulates", "arch", "paper", "arXiv"):
        table.add_column(heading, justify="right" if heading in ("parameters", "multiply-accumulates") else "left")
    for entry in entries:
        table.add_row(
            entry["name"],
            "x".join(map(str, entry["input"])),
            f"{entry['parameters']:,}",
            f"{entry['multiply_accumulates']:,}",
            "any" if entry["takes_arch"] else "",
            entry["paper"],
            entry["arxiv"],
        )
    print_fitted(console(), table)
    return 0


@cli.command(
    epilog=example(
        "rosetta init resnet18 -o resnet18.safetensors",
        "rosetta init lenet -o w.safetensors --scheme probe --seed 7 --dtype float64 --config '{\"num_classes\": 7}'",
    )
)
@click.argument("network")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The weights file to write.")
@seed_option
@click.option("--scheme", default="xavier", show_default=True, help="xavier (for training) or probe (for parity).")
@config_option
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64.")
def init(network: str, output: Path, seed: int, scheme: str, config: str | None, dtype: str) -> int:
    """Write new canonical weights of NETWORK: the same bytes on every machine."""
    from common import weights

    entry = get(network, **parse_config(config))
    weights.write_initial(output, entry, scheme, seed, dtype)  # type: ignore[arg-type]  # it checks them
    size = output.stat().st_size / 1e6
    click.echo(f"{output}: {entry.name}, {scheme} weights of seed {seed}, {dtype}, {size:,.1f} MB")
    return 0


def _read_input(path: Path, network: Network) -> np.ndarray:
    """Read and check the input array of `rosetta run`."""
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not an array that numpy.save wrote: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        kind = array.dtype if isinstance(array, np.ndarray) else "an archive of arrays"
        raise InputError(f"{path}: holds {kind}; expected one array of real numbers")
    channels, height, width = network.input_shape
    expected = f"{network.name} expects (N, {channels}, {height}, {width})"
    if array.ndim != 4 or len(array) == 0:
        raise InputError(f"{path}: shape {array.shape}; {expected}")
    if array.shape[1] != channels:
        raise InputError(f"{path}: {array.shape[1]} channels, shape {array.shape}; {expected}")
    if array.shape[2:] != (height, width):
        raise InputError(f"{path}: images of {array.shape[2]}x{array.shape[3]}; {expected}")
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds a NaN or an infinity; an input must be finite")
    return np.asarray(array, dtype=np.float64)


@cli.command(
    epilog=example(
        "rosetta init lenet -o w.safetensors --scheme probe",
        "python -c \"import numpy; numpy.save('x.npy', numpy.random.rand(2, 1, 28, 28))\"",
        "rosetta run lenet --backend jax --weights w.safetensors --input x.npy -o y.npy --trace taps.safetensors",
    )
)
@click.argument("network")
@click.option("--backend", required=True, help=f"One of {', '.join(BACKENDS)}.")
@click.option("--weights", "weights_path", required=True, type=click.Path(path_type=Path), help="Canonical weights.")
@click.option("--input", "input_path", required=True, type=click.Path(path_type=Path), help="A .npy, (N, C, H, W).")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .npy of logits to write.")
@click.option("--trace", "trace_path", type=click.Path(path_type=Path), help="A .safetensors of all taps to write.")
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64 (numpy: always float64).")
@config_option
def run(
    network: str,
    backend: str,
    weights_path: Path,
    input_path: Path,
    output: Path,
    trace_path: Path | None,
    dtype: str,
    config: str | None,
) -> int:
    """Run NETWORK with given weights on a given input, in one backend."""
    import tempfile

    import numpy as np

    from common.files import atomic_writer, check_writable, map_safetensors, write_safetensors
    from common.parity.harness import run_one

    check_choice("backend", backend, BACKENDS)
    check_choice("dtype", dtype, DTYPES)
    entry = network_of(weights_path, network, config)
    x = _read_input(input_path, entry)
    if trace_path is not None and trace_path.resolve() == output.resolve():
        raise InputError(f"--output and --trace are both {output}; give two names")
    for path in (output, trace_path):
        if path is not None:
            check_writable(path)
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder:
        source, result = Path(folder) / "x.npy", Path(folder) / "result"
        np.save(source, x)
        run_one(
            backend,
            "run" if trace_path is None else "trace",
            entry,
            dtype,  # type: ignore[arg-type]
            weights=str(weights_path.resolve()),
            inputs={"x": str(source)},
            outputs={"x": str(result)},
        )
        taps = map_safetensors(result)[1] if trace_path is not None else {"logits": np.load(result)}
    with atomic_writer(output) as target:
        np.save(target, taps["logits"])
    if trace_path is not None:
        write_safetensors(trace_path, taps)
    click.echo(f"{output}: logits {taps['logits'].shape}, {taps['logits'].dtype}, of {entry.name} in {backend}")
    return 0


@cli.command(
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
    `rosetta predict`, normalised as in training where the weights are those of a run, and left from 0 to 1 else.
    """
    from common import reference
    from common.files import check_writable
    from common.training.batches import prepare
    from common.training.curves import save_figure
    from common.training.verbs import trained
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


@cli.command(
    epilog=example(
        "rosetta parity",
        "rosetta parity lenet resnet18 --backends torch,jax --dtype float64",
        'rosetta parity resnet --config \'{"arch": [[1, 8], [2, 16]], "input_size": [57, 83]}\' --batch 3',
        "rosetta parity --checks gradients,training bn_lenet resnet18",
        "rosetta parity lenet --checks training --optimizers sgd,adamw --dtype float64",
        "rosetta parity --html report.html --json report.json --junit report.xml",
        "rosetta parity resnet18 --plot errors.svg",
    )
)
@click.argument("networks", nargs=-1, metavar="[NETWORK]...")
@click.option("--backends", default=",".join(BACKENDS[1:]), show_default=True, help="Which to hold to the reference.")
@click.option(
    "--checks",
    default="forward",
    show_default=True,
    help="forward: every tap in evaluation mode; gradients: taps, statistics and gradients in training mode; training: "
    "ten steps. The last two run large networks on small inputs, without dropout.",
)
@click.option("--dtype", default=",".join(DTYPES), show_default=True, help="float64, float32 or both.")
@config_option
@click.option(
    "--batch", type=click.IntRange(min=1), help="Images in each input  [default: 2, and 4 for gradients and training]"
)
@click.option(
    "--optimizers",
    help=f"Which to train by, of {', '.join(OPTIMIZERS)}  [default: sgd, and all of them for lenet and bn_lenet]",
)
@seed_option
@click.option("--jobs", type=click.IntRange(min=1), help="How many compute at a time  [default: the processors]")
@click.option("--timeout", type=FiniteRange(min=1), default=600, show_default=True, help="Seconds one cell may take.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report as JSON.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write it as one self-contained page.")
@click.option("--junit", "junit_path", type=click.Path(path_type=Path), help="Write it as JUnit XML.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw error against depth, as .png or .svg.")
def parity(
    networks: tuple[str, ...],
    backends: str,
    checks: str,
    dtype: str,
    config: str | None,
    batch: int | None,
    optimizers: str | None,
    seed: int,
    jobs: int | None,
    timeout: float,
    json_path: Path | None,
    html_path: Path | None,
    junit_path: Path | None,
    plot_path: Path | None,
) -> int:
    """Run every NETWORK (all, unless some are named) in every backend and compare every tap with the reference.

    Each runs on a batch of real digits and on one of noise, with weights in which every tensor is random. Gradients are
    held to derivatives of the reference's loss by central differences and, as training runs are, to one another.
    """
    from common import reference
    from common.files import check_writable
    from common.parity import harness, report
    from common.view import plots

    overrides = parse_config(config)
    chosen = [get(name, **overrides) for name in dict.fromkeys(networks or NETWORKS)]
    for network in chosen:
        reference.describe(network)
    if seed < 0:
        raise ConfigError(f"--seed (={seed}) must be 0 or more")
    limits: dict[str, Any] = {} if jobs is None else {"jobs": jobs}
    settings = harness.Settings(
        chosen,
        parse_list("--backends", backends, BACKENDS[1:], "backend to compare"),
        parse_list("--checks", checks, CHECKS, "check"),  # type: ignore[arg-type]
        parse_list("--dtype", dtype, DTYPES, "dtype"),  # type: ignore[arg-type]
        batch,
        seed,
        timeout,
        optimizers=optimizers and parse_list("--optimizers", optimizers, OPTIMIZERS, "optimizer"),  # type: ignore[arg-type]
        **limits,
    )
    outputs = {json_path: report.to_json, html_path: report.to_html, junit_path: report.to_junit}
    if plot_path is not None:
        plots.check_picture(plot_path)
    for path in (*outputs, plot_path):
        if path is not None:
            check_writable(path)
    shown = ["numpy", *(name for name in settings.backends if name != "numpy")]
    result = with_progress(lambda progress: harness.run(settings, progress), shown)
    report.print_table(result, console())
    for path, render in outputs.items():
        if path is not None:
            report.save(path, render(result))
            click.echo(f"report: {path}")
    if plot_path is not None:
        found = [each for each in report.to_record(result)["results"] if each["errors"]]
        if found:
            plots.save_plot(plots.draw_errors(found), plot_path)
        click.echo(f"plot: {plot_path}" if found else "plot: no backend gave anything to draw", err=not found)
    status: int = result.exit_status()
    return status


@cli.command(
    epilog=example(
        "rosetta diagnose resnet18 --backend tf",
        "rosetta diagnose lenet --backend jax --checks forward --dtype float32",
    )
)
@click.argument("network")
@click.option("--backend", required=True, help=f"One of {', '.join(BACKENDS[1:])}.")
@click.option("--checks", default="forward,gradients", show_default=True, help="forward, gradients or both.")
@click.option("--dtype", default="float64", show_default=True, help="float64 or float32.")
@config_option
@click.option("--batch", type=click.IntRange(min=1), help="Images in each input.")
@seed_option
@click.option("--all", "everything", is_flag=True, help="Show every tap, not only those that are wrong.")
def diagnose(
    network: str,
    backend: str,
    checks: str,
    dtype: str,
    config: str | None,
    batch: int | None,
    seed: int,
    everything: bool,
) -> int:
    """Find which layers of NETWORK a backend computes wrongly, and say what each behaves like.

    Every layer is run twice: as part of the network, where it is given what the layers before it made, and alone, given
    what the reference made. Then mistakes that are known from porting are tried against the ones that are wrong.
    """
    from common import reference
    from common.parity import harness, report

    check_choice("backend to compare", backend, BACKENDS[1:])
    check_choice("dtype", dtype, DTYPES)
    entry = get(network, **parse_config(config))
    reference.describe(entry)
    if seed < 0:
        raise ConfigError(f"--seed (={seed}) must be 0 or more")
    settings = harness.Settings(
        [entry],
        [backend],
        parse_list("--checks", checks, CHECKS[:2], "check of layers"),  # type: ignore[arg-type]
        [dtype],  # type: ignore[list-item]
        batch,
        seed,
        isolate=True,
    )
    result = harness.run(settings)
    report.print_diagnosis(result, console(), everything)
    status: int = result.exit_status()
    return status


@cli.command(
    epilog=example(
        "rosetta mutants",
        "rosetta mutants --backends torch --kinds constant,keyword --sample 20",
        "rosetta mutants --kinds pitfall,constant,keyword,activation,swap,zero --json mutants.json",
    )
)
@click.option("--backends", default=",".join(BACKENDS[1:]), show_default=True, help="Whose port to put mistakes into.")
@click.option("--kinds", default="pitfall", show_default=True, help=f"Which, of {', '.join(MUTANTS)}.")
@click.option(
    "--sample", type=click.IntRange(min=1), help="How many of each kind and backend, at random  [default: all]"
)
@seed_option
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write what became of each as JSON.")
def mutants(backends: str, kinds: str, sample: int | None, seed: int, json_path: Path | None) -> int:
    """Put mistakes into each port, in memory, and see whether parity finds every one, and where.

    pitfall: what goes wrong between frameworks; constant: each number of each model file one step up; keyword: each
    left out; activation: each left out; swap: two equally shaped weights exchanged; zero: a layer's weight, bias, scale
    or statistics zeroed. A mutant is killed by the first check that disagrees: building the port, forward, gradients,
    training.
    """
    from common.files import check_writable
    from common.mutants import report, run
    from common.mutants.generic import of_sources, of_weights
    from common.mutants.pitfalls import of_pitfalls
    from common.parity.report import save

    names = parse_list("--backends", backends, BACKENDS[1:], "backend to put mistakes into")
    wanted = parse_list("--kinds", kinds, MUTANTS, "kind of mutant")
    if json_path is not None:
        check_writable(json_path)
    chosen = []
    for name in names:
        every = (mutant for made in (of_pitfalls, of_sources, of_weights) for mutant in made(name))
        own = [mutant for mutant in every if mutant.kind in wanted]
        chosen += run.sampled(own, sample, seed) if sample else own
    outcomes = with_progress(lambda progress: run.run(chosen, names, progress), names)
    report.print_table(outcomes, console())
    if json_path is not None:
        save(json_path, report.to_json(outcomes))
        click.echo(f"report: {json_path}")
    return report.exit_status(outcomes)


_SUFFIXES = {".md": "markdown", ".csv": "csv", ".json": "json"}


@cli.command(
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


@cli.command(
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
    from common.view.parts import find
    from common.view.show import print_view

    names = parse_list("--backends", backends, BACKENDS, "backend")
    view = find(what, **parse_config(config))
    screen = console()
    columns = os.environ.get("COLUMNS", "")
    given = int(columns) if columns.isdecimal() else 0
    print_view(view, names, screen, screen.width if screen.is_terminal else given or None)
    return 0


@cli.command(
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
    from common.view.site import build

    built = build(output, parity_path, force, bench_paths)
    click.echo(f"{built.index}: {built.pages} pages, {built.size / 1e6:.1f} MB")
    return 0


for verb in (train, evaluate, predict, compare, bench, export, recommend):
    cli.add_command(verb)


def _fail(message: str) -> None:
    click.echo(f"rosetta: {' '.join(message.split())}", err=True)


def _terminate(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; every error of the user's is one line on standard error."""
    # So that workers are ended and temporary files removed. Whoever asked to go on without a terminal does.
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminate)
    try:
        return cli.main(arguments, prog_name="rosetta", standalone_mode=False) or 0
    except RosettaError as error:
        _fail(str(error))
        return error.exit_status
    except click.ClickException as error:
        _fail(error.format_message())
        return 2
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; no file is left half written")
        return 130
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed in {sys.executable}; install rosetta there with all that it needs")
        status = 3
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    except (OSError, MemoryError) as error:
        _fail(f"the machine gave out: {error or 'out of memory'}; no file is left half written")
        status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
