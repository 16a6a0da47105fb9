"""The command `rosetta export`. Heavy modules are imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.cli.options import PORTS, Choice, example, open_run, read_weights
from common.deploy.export.formats import FORMATS
from common.errors import ConfigError, InputError

if TYPE_CHECKING:
    import numpy as np

    from common.catalog import Network

__all__ = ["export"]

_MOST_IMAGES = 512
"""Images to calibrate on. More would take longer and hardly change the ranges of the activations."""


@click.command(
    short_help="Export a network for a runtime.",
    epilog=example(
        "rosetta export resnet18 --weights w.safetensors --to onnx -o resnet18.onnx",
        "rosetta export lenet --weights runs/lenet --to litert --dtype int8 -o lenet.tflite",
        "rosetta export lenet --weights runs/lenet --to litert --dtype int8 --calibration photos -o lenet.tflite",
        "rosetta export resnet18 --weights w.safetensors --to saved-model --backend jax --batch any -o resnet18",
        "rosetta export resnet18 --weights w.safetensors --to torch-aot-winograd --batch 8 -o resnet18.pt2",
    ),
)
@click.argument("network")
@click.option(
    "--weights",
    "weights_path",
    required=True,
    type=click.Path(path_type=Path),
    help="Weights file or training run.",
)
@click.option(
    "--to",
    "format_name",
    required=True,
    type=Choice(FORMATS, "format"),
    metavar="FORMAT",
    help=f"Format to export to: {', '.join(FORMATS)}.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File or folder to write.")
@click.option(
    "--backend",
    type=Choice(PORTS, "backend"),
    help="Backend to export from, for a format that several can write  [default: the first]",
)
@click.option("--dtype", default="float32", show_default=True, help="Number type: float64, float32, float16 or int8.")
@click.option("--batch", default="1", show_default=True, help="Images per batch: a number, or any.")
@click.option(
    "--size",
    type=Choice(("fixed", "any"), "size"),
    default="fixed",
    show_default=True,
    help="Image size: fixed, as in the weights' configuration, or any.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Folder of typical PNG or JPEG images to calibrate int8 on  [default: handwritten digits]",
)
@click.option("--force", is_flag=True, help="Replace an existing file or folder.")
def export(
    network: str,
    weights_path: Path,
    format_name: str,
    output: Path,
    backend: str | None,
    dtype: str,
    batch: str,
    size: str,
    calibration: Path | None,
    force: bool,
) -> int:
    """Export NETWORK to a file that a runtime can serve without rosetta, and write a manifest beside it.

    The artifact is run in a fresh process of its runtime and its output is compared with the reference; a wrong export
    is not saved. Batch normalization is folded into the preceding layers.

    The manifest describes inputs, outputs, layout, preprocessing, the source of the weights and the measured error. To
    run an artifact: `python common/deploy/serving MANIFEST x.npy y.npy`; that folder works without rosetta.

    torch-aot artifacts are compiled for the vector instructions of this processor (AVX-512 or AVX2) and need no
    compiler to run. To support processors without AVX-512, set ATEN_CPU_CAPABILITY=avx2 before exporting.
    """
    from common.deploy.export import formats
    from common.deploy.export.export import ExportRequest, check
    from common.deploy.export.export import export as write
    from common.deploy.export.manifest import Preprocessing, manifest_path

    kind = formats.get(format_name)
    check(output, force)
    preprocessing = Preprocessing()
    if weights_path.is_dir():
        experiment, checkpoint = open_run(weights_path)
        preprocessing = Preprocessing(experiment.mean, experiment.std)
        weights_path = checkpoint.path / "weights.safetensors"
    weights = read_weights(weights_path, network, None)
    request = ExportRequest(
        weights,
        kind.name,
        dtype,
        backend,
        _batch(batch),
        size == "any",
        preprocessing,
        None if calibration is None else _images(calibration, weights.network, dtype),
    )
    manifest = write(request, output, force)
    made_by = ", ".join(f"{name} {version}" for name, version in manifest.made_by.items() if name != "rosetta")
    megabytes = sum(file.stat().st_size for file in _files(output)) / 1e6
    click.echo(f"{output}: {kind.about} of {manifest.network}, {dtype}, {megabytes:,.1f} MB, by {made_by}")
    for server, verified in (manifest.verified or {}).items():
        click.echo(
            f"verified with {server} on {verified.input}: error {verified.error:.1e} of the largest logit, "
            f"at most {verified.tolerance:.1e} allowed"
        )
    click.echo(f"{manifest_path(output)}: names, shapes, preprocessing, versions, hashes")
    return 0


def _files(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if path.is_file()] if output.is_dir() else [output]


def _batch(given: str) -> int | None:
    if given == "any":
        return None
    if not given.isdecimal() or not 1 <= int(given) <= 4096:
        raise ConfigError(f"--batch {given}: expected a number from 1 to 4096, or any")
    return int(given)


def _images(folder: Path, network: Network, dtype: str) -> np.ndarray:
    """Return the images of a folder at the network's input size, with values in [0, 1], (N, C, H, W)."""
    import numpy as np

    from common.training.batches import prepare
    from common.training.datasets import open_image

    if dtype != "int8":
        raise ConfigError(f"--calibration is for --dtype int8; {dtype} needs none")
    if not folder.is_dir():
        raise InputError(f"--calibration {folder}: no such folder; give a folder of PNG or JPEG images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise InputError(f"--calibration {folder}: no PNG or JPEG image in it")
    channels = 3 if network.config.in_channels == 3 else 1
    plain = [0.0] * channels, [1.0] * channels
    return np.stack(
        [prepare(open_image(path), network.input_shape, *plain, "float32") for path in paths[:_MOST_IMAGES]]
    )
