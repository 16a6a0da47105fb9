"""Canonical weights: initialization, and reading and writing of weights files.

A weights file is a `.safetensors` file with metadata. Its tensors have canonical names and the torch layout, in network
order. Files are memory-mapped when read, so unused tensors cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from safetensors import SafetensorError

from common import catalog, json_records, reference
from common.catalog import Network
from common.choices import DTypeName, Scheme
from common.errors import ConfigError, WeightsError, shown
from common.files import DTYPES, atomic_writer, map_safetensors, safetensors_header, write_safetensors
from common.layout import Tensor
from common.reference import ExternalNetwork

__all__ = [
    "DTypeName",
    "Scheme",
    "WeightsFile",
    "check",
    "initialize",
    "misnamed",
    "network_of",
    "read",
    "read_for",
    "write",
    "write_initial",
]


_FORMAT, _VERSION = "rosetta-weights", "1"
_CHUNK = 1 << 18
"""Numbers processed at a time; a chunk fits into a processor's cache."""


@dataclass(frozen=True)
class WeightsFile:
    """A checked weights file. `tensors` are views of the memory-mapped file; writes to them do not reach the file."""

    path: Path
    network: Network
    tensors: Mapping[str, np.ndarray]


def _uniform_range(name: str, tensor: Tensor, scheme: Scheme) -> tuple[float, float]:
    """Return the bounds of the uniform distribution of a tensor's numbers."""
    leaf = name.rpartition(".")[2]
    if tensor.kind == "vector":
        if scheme == "xavier":
            constant = 1.0 if leaf in ("weight", "running_var") else 0.0
            return constant, constant
        return {
            "weight": (0.25, 1.25),
            "bias": (-0.25, 0.25),
            "running_mean": (-0.5, 0.5),
            "running_var": (0.5, 1.5),
        }.get(leaf, (-0.5, 0.5))
    receptive_field = math.prod(tensor.shape[2:])
    fan_in, fan_out = tensor.shape[1] * receptive_field, tensor.shape[0] * receptive_field
    # Xavier: Glorot and Bengio, 2010, equation 16. Probe: variance 2 / fan_in, which preserves the scale of activations
    # through any number of ReLU layers (He et al., 2015, equation 10).
    bound = math.sqrt(6 / (fan_in + fan_out)) if scheme == "xavier" else math.sqrt(6 / fan_in)
    return -bound, bound


def _chunks(name: str, tensor: Tensor, scheme: Scheme, seed: int) -> Iterator[np.ndarray]:
    """Iterate over chunks of a tensor's numbers in float64; all chunks share one buffer."""
    low, high = _uniform_range(name, tensor, scheme)
    # One random stream per name: a tensor's numbers do not depend on other tensors or their order.
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *name.encode()])))
    buffer = np.empty(_CHUNK)
    remaining = math.prod(tensor.shape)
    while remaining:
        numbers = buffer[: min(remaining, _CHUNK)]
        generator.random(out=numbers)
        numbers *= high - low
        numbers += low
        yield numbers
        remaining -= numbers.size


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"`seed` (={seed!r}) must be an integer of 0 or more")


def initialize(
    network: Network, scheme: Scheme = "xavier", seed: int = 0, dtype: DTypeName = "float32"
) -> dict[str, np.ndarray]:
    """Return new weights by canonical name, the same on every machine; float32 weights are the rounded float64 ones.

    `xavier` is for training: Xavier-uniform weights, zero biases, scales and variances of one. `probe` is for parity:
    every tensor is random, since zeros and ones can hide mistakes.
    """
    _check_seed(seed)
    tensors = {}
    for name, tensor in reference.describe(network).manifest.items():
        array = np.empty(math.prod(tensor.shape), dtype=dtype)
        position = 0
        for numbers in _chunks(name, tensor, scheme, seed):
            array[position : position + numbers.size] = numbers
            position += numbers.size
        tensors[name] = array.reshape(tensor.shape)
    return tensors


def write_initial(
    path: Path,
    network: Network,
    scheme: Scheme = "xavier",
    seed: int = 0,
    dtype: DTypeName = "float32",
    durable: bool = True,
) -> None:
    """Write the weights that `initialize` returns to a file, with only one chunk in memory at a time.

    `durable` is passed to `atomic_writer`.
    Raises ConfigError for an unknown scheme or dtype, InputError if the file cannot be written.
    """
    _check_seed(seed)
    if scheme not in get_args(Scheme):
        raise ConfigError(f"`scheme` (={scheme!r}) must be one of {', '.join(get_args(Scheme))}")
    manifest = reference.describe(network).manifest
    target = _dtype(dtype)
    with atomic_writer(path, durable) as file:
        shapes = {name: tensor.shape for name, tensor in manifest.items()}
        file.write(safetensors_header(shapes, target, _metadata(network)))
        for name, tensor in manifest.items():
            for numbers in _chunks(name, tensor, scheme, seed):
                file.write(numbers.astype(target).data)


def write(path: Path, network: Network, tensors: Mapping[str, np.ndarray]) -> None:
    """Write `tensors` as the weights of `network`, in network order.

    Raises WeightsError if the tensors do not fit the network, InputError if the file cannot be written.
    """
    check("these weights", network, tensors)
    ordered = {name: tensors[name] for name in reference.describe(network).manifest}
    write_safetensors(Path(path), ordered, _metadata(network))


def _dtype(name: str) -> np.dtype:
    if name not in get_args(DTypeName):
        raise ConfigError(f"`dtype` (={name!r}) must be one of {', '.join(get_args(DTypeName))}")
    return np.dtype(name)


def _metadata(network: Network) -> dict[str, str]:
    return {"format": _FORMAT, "version": _VERSION, "network": network.name, "config": network.config_json()}


def _listed(names: Iterable[str], sign: str) -> list[str]:
    """Return at most six names, each after `sign`, for a message."""
    names = list(names)
    shown = [f"{sign} {name}" for name in names[:6]]
    return shown if len(names) <= 6 else [*shown, f"and {len(names) - 6} more"]


def misnamed(expected: Iterable[str], given: Iterable[str]) -> str:
    """Return the missing names, each after `-`, and the unexpected ones, each after `+`; "" if there are none."""
    expected, given = dict.fromkeys(expected), dict.fromkeys(given)
    missing, extra = (name for name in expected if name not in given), (name for name in given if name not in expected)
    return ", ".join([*_listed(missing, "-"), *_listed(extra, "+")])


def check(source: str, network: Network, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise WeightsError unless `tensors` have the network's names and shapes, one dtype, and finite values.

    The message begins with `source` and lists missing names after `-`, unexpected ones after `+`.
    """
    manifest = reference.describe(network).manifest
    if differences := misnamed(manifest, tensors):
        raise WeightsError(f"{source}: not the tensors of {network.name} (- missing, + unexpected): {differences}")
    for name, tensor in manifest.items():
        array = tensors[name]
        if array.shape != tensor.shape:
            raise WeightsError(f"{source}: {name} has shape {array.shape}; {network.name} expects {tensor.shape}")
        if array.dtype not in DTYPES.values():
            raise WeightsError(f"{source}: {name} is {array.dtype}; expected float32 or float64")
    dtypes = {name: array.dtype for name, array in tensors.items()}
    first = next(iter(dtypes))
    for name, dtype in dtypes.items():
        if dtype != dtypes[first]:
            raise WeightsError(
                f"{source}: {name} is {dtype} and {first} is {dtypes[first]}; expected one dtype for all"
            )
    for name in manifest:
        numbers = tensors[name].reshape(-1)
        for start in range(0, numbers.size, _CHUNK):
            if not np.isfinite(numbers[start : start + _CHUNK]).all():
                raise WeightsError(f"{source}: {name} holds a NaN or an infinity; weights must be finite")


def _metadata_network(path: Path, metadata: Mapping[str, str], tensors: int) -> Network:
    """Return the network that a file's metadata describes; `tensors` is the number of tensors in the file."""
    if metadata.get("format") != _FORMAT:
        raise WeightsError(
            f"{path}: a safetensors file, but not a rosetta weights file (its format is {metadata.get('format')!r}, "
            f"expected {_FORMAT!r}); write one with `rosetta init` or `save_weights`"
        )
    if metadata.get("version") != _VERSION:
        raise WeightsError(
            f"{path}: format version {metadata.get('version')!r}; this version of rosetta reads {_VERSION!r}"
        )
    try:
        name, config = metadata["network"], json_records.parse(metadata["config"])
        if not isinstance(config, dict):
            raise ConfigError(f"`config` (={shown(config)}) must be an object")
        network = catalog.get(name, **config)
        # Checked before any layer is created; each has at least one tensor.
        arch = getattr(network.config, "arch", ())
        depth = sum(stage if isinstance(stage, int) else stage[0] for stage in arch)
        if depth > tensors:
            raise ConfigError(f"`arch` has {depth} layers or blocks, but the file has only {tensors} tensors")
        reference.describe(network)
    except KeyError as error:
        raise WeightsError(f"{path}: its metadata has no {error}") from None
    except ValueError as error:
        raise WeightsError(f"{path}: its metadata describes no valid network: {error}") from None
    return network


def read(path: Path | str) -> WeightsFile:
    """Memory-map a weights file and check all of it.

    Raises WeightsError unless the file is complete and holds finite weights of the network in its metadata.
    """
    path = Path(path)
    try:
        metadata, tensors = map_safetensors(path)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole safetensors file: {error}") from None
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    network = _metadata_network(path, metadata, len(tensors))
    check(str(path), network, tensors)
    return WeightsFile(path, network, tensors)


def network_of(model: object) -> Network:
    """Return the catalog entry that `build` stored on a framework's model.

    Raises TypeError for a model that is not from `build`.
    """
    network = getattr(model, "network", None)
    if not isinstance(network, Network):
        raise TypeError(f"{type(model).__name__} has no catalog entry; create the model with `build(name, ...)`")
    return network


def read_for(model: object, path: Path | str) -> WeightsFile:
    """Read a weights file for `model`.

    Raises WeightsError if the file is invalid, or of another network or configuration.
    """
    network = network_of(model)
    if isinstance(network, ExternalNetwork):
        raise TypeError(f"{network.name} is not in the catalog; weights files exist for networks of the catalog only")
    file = read(path)
    if file.network.family != network.family or file.network.config != network.config:
        raise WeightsError(
            f"{path}: weights of {file.network.name} {file.network.config_json()}; this model is {network.name} "
            f"{network.config_json()}"
        )
    return file
