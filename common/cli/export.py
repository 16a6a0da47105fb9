"""The verb `rosetta export`. What is heavy is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.cli.options import example, read_weights
from common.deploy.export.formats import FORMATS
from common.errors import ConfigError, InputError

if TYPE_CHECKING:
    import numpy as np

    from common.catalog import Network

__all__ = ["export"]

_MOST_IMAGES = 512
"""As many as ranges are found on; more would not widen them by much, and each is run in the framework."""


@click.command(
    epilog=example(
        "rosetta export resnet18 --weights w.safetensors --to onnx -o resnet18.onnx",
        "rosetta export lenet --weights runs/lenet --to litert --dtype int8 -o lenet.tflite",
        "rosetta export lenet --weights runs/lenet --to litert --dtype int8 --calibration photos -o lenet.tflite",
        "rosetta export resnet18 --weights w.safetensors --to saved-model --backend jax --batch any -o resnet18",
        "rosetta export resnet18 --weights w.safetensors --to torch-aot-winograd --batch 8 -o resnet18.pt2",
    )
)
@click.argument("network")
@click.option(
    "--weights", "weights_path", required=True, type=click.Path(path_type=Path), help="Canonical weights, or a run."
)
@click.option("--to", "format_name", required=True, help=f"One of {', '.join(FORMATS)}.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The artifact to write.")
@click.option("--backend", help="Whose port makes it, where there are several  [default: the first]")
@click.option("--dtype", default="float32", show_default=True, help="float64, float32, float16 or int8.")
@click.option("--batch", default="1", show_default=True, help="Images at a time: a number, or any.")
@click.option("--size", default="fixed", show_default=True, help="fixed, or any: images of any size.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="A folder of PNG or JPEG images like those to come, for int8  [default: digits]",
)
@click.option("--force", is_flag=True, help="Replace what exists.")
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
    """Write NETWORK as an artifact that a runtime serves without this project, and a manifest beside it.

    The artifact is run again in a fresh process of that runtime, on digits and on noise, and compared with the
    reference: verified, or not written. Batch normalization is folded into the layers before it.

    The manifest says what goes in and comes out, in which layout and with which preprocessing, whose weights they are,
    and how far off it is. `python common/deploy/serving MANIFEST x.npy y.npy` runs it; that folder needs no rosetta.

    torch-aot is compiled, for processors with the vectors of this one (AVX-512, AVX2), and starts without a compiler;
    with ATEN_CPU_CAPABILITY=avx2 set, for those without AVX-512 too.
    """
    from common.deploy.export import formats
    from common.deploy.export.export import ExportRequest, check
    from common.deploy.export.export import export as write
    from common.deploy.export.manifest import Preprocessing, manifest_path

    kind = formats.get(format_name)
    check(output, force)
    preprocessing = Preprocessing()
    if weights_path.is_dir():
        from common.training.checkpoints import trained

        experiment, checkpoint = trained(weights_path)
        preprocessing = Preprocessing(experiment.mean, experiment.std)
        weights_path = checkpoint.path / "weights.safetensors"
    weights = read_weights(weights_path, network, None)
    request = ExportRequest(
        weights,
        kind.name,
        dtype,
        backend,
        _batch(batch),
        _any_size(size),
        preprocessing,
        None if calibration is None else _images(calibration, weights.network, dtype),
    )
    manifest = write(request, output, force)
    made_by = ", ".join(f"{name} {version}" for name, version in manifest.made_by.items() if name != "rosetta")
    megabytes = sum(file.stat().st_size for file in _files(output)) / 1e6
    click.echo(f"{output}: {kind.about} of {manifest.network}, {dtype}, {megabytes:,.1f} MB, by {made_by}")
    for server, found in (manifest.verified or {}).items():
        click.echo(
            f"verified with {server} on {found.input}: off by {found.error:.1e} of the largest logit, of "
            f"{found.tolerance:.1e} at most"
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


def _any_size(given: str) -> bool:
    if given not in ("fixed", "any"):
        raise ConfigError(f"--size {given}: expected fixed or any; a fixed size is that of the weights' configuration")
    return given == "any"


def _images(folder: Path, network: Network, dtype: str) -> np.ndarray:
    """Return a folder's images as the network takes them, in [0, 1], (N, C, H, W)."""
    import numpy as np

    from common.training.batches import prepare
    from common.training.datasets import open_image

    if dtype != "int8":
        raise ConfigError(f"--calibration is for --dtype int8; {dtype} needs none")
    if not folder.is_dir():
        raise InputError(f"--calibration {folder}: no such folder; give one of PNG or JPEG images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise InputError(f"--calibration {folder}: no PNG or JPEG image in it")
    channels = 3 if network.config.in_channels == 3 else 1
    plain = [0.0] * channels, [1.0] * channels
    return np.stack(
        [prepare(open_image(path), network.input_shape, *plain, "float32") for path in paths[:_MOST_IMAGES]]
    )
