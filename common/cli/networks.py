"""The commands `rosetta doctor`, `list`, `init` and `run`: backends, the catalog, initial weights, one forward pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from common.backends.registry import BACKENDS
from common.catalog import FAMILIES, NETWORKS, Network, get
from common.choices import DTypeName, Scheme
from common.cli.options import BACKEND, DTYPE, Choice, config_option, example, network_of, parse_config, seed_option
from common.errors import InputError
from common.terminal import console, print_fitted

if TYPE_CHECKING:
    import numpy as np


@click.command(short_help="Show which backends are installed.", epilog=example("rosetta doctor"))
def doctor() -> int:
    """List the backends: which are ready, their versions, and how to install the missing ones."""
    from rich.table import Table

    from common.backends.doctor import examine

    screen = console()
    table = Table("backend", "status", "versions", "interpreter", box=None, pad_edge=False)
    examinations = examine(tuple(BACKENDS))
    for examination in examinations:
        table.add_row(examination.backend, examination.status, examination.versions, examination.where)
    print_fitted(screen, table)
    for examination in examinations:
        if examination.mend:
            screen.print(f"{examination.backend}: {examination.mend}", soft_wrap=True)
    return 0 if all(examination.status == "ready" for examination in examinations) else 3


@click.command(short_help="List the networks.", name="list", epilog=example("rosetta list", "rosetta list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_networks(as_json: bool) -> int:
    """List the networks: input size, parameters, multiply-accumulates, paper."""
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


@click.command(
    short_help="Write random initial weights.",
    epilog=example(
        "rosetta init resnet18 -o resnet18.safetensors",
        "rosetta init lenet -o w.safetensors --scheme probe --seed 7 --dtype float64 --config '{\"num_classes\": 7}'",
    ),
)
@click.argument("network")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Weights file to write.")
@seed_option
@click.option(
    "--scheme",
    type=Choice(get_args(Scheme), "scheme"),
    default="xavier",
    show_default=True,
    help="Initializer: xavier for training, probe for parity checks.",
)
@config_option
@click.option("--dtype", type=DTYPE, default="float32", show_default=True, help="Number type of the weights.")
def init(network: str, output: Path, seed: int, scheme: Scheme, config: str | None, dtype: DTypeName) -> int:
    """Write random initial weights of NETWORK. A seed gives the same file on every machine."""
    from common import weights

    entry = get(network, **parse_config(config))
    weights.write_initial(output, entry, scheme, seed, dtype)
    size = output.stat().st_size / 1e6
    click.echo(f"{output}: {entry.name}, {scheme} weights of seed {seed}, {dtype}, {size:,.1f} MB")
    return 0


def _read_input(path: Path, network: Network) -> np.ndarray:
    """Read the input array of `rosetta run`. Raises InputError unless it is a finite batch of the network's shape."""
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


@click.command(
    short_help="Run a network on images.",
    epilog=example(
        "rosetta init lenet -o w.safetensors --scheme probe",
        "python -c \"import numpy; numpy.save('x.npy', numpy.random.rand(2, 1, 28, 28))\"",
        "rosetta run lenet --backend jax --weights w.safetensors --input x.npy -o y.npy --trace taps.safetensors",
    ),
)
@click.argument("network")
@click.option("--backend", required=True, type=BACKEND, help="Backend to run the network in.")
@click.option("--weights", "weights_path", required=True, type=click.Path(path_type=Path), help="Weights file to read.")
@click.option(
    "--input", "input_path", required=True, type=click.Path(path_type=Path), help=".npy file of images, (N, C, H, W)."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help=".npy file of logits to write.")
@click.option(
    "--trace",
    "trace_path",
    type=click.Path(path_type=Path),
    help="Also write every layer's output to this .safetensors file.",
)
@click.option(
    "--dtype", type=DTYPE, default="float32", show_default=True, help="Number type (numpy always uses float64)."
)
@config_option
def run(
    network: str,
    backend: str,
    weights_path: Path,
    input_path: Path,
    output: Path,
    trace_path: Path | None,
    dtype: DTypeName,
    config: str | None,
) -> int:
    """Run NETWORK on an array of images in one backend and write the logits."""
    import tempfile

    import numpy as np

    from common.files import atomic_writer, check_writable, map_safetensors, write_safetensors
    from common.parity.harness import run_one

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
            dtype,
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
