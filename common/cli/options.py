"""Options, parameter types and helpers that several commands share. Nothing here imports anything heavy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from common.backends.registry import BACKENDS
from common.choices import Device, DTypeName
from common.errors import ConfigError, InputError, unknown

if TYPE_CHECKING:
    from common.catalog import Network
    from common.training.checkpoints import Checkpoint
    from common.training.experiment import Experiment
    from common.weights import WeightsFile

__all__ = [
    "BACKEND",
    "DEVICE",
    "DTYPE",
    "PORTS",
    "Choice",
    "ChoiceList",
    "CountList",
    "FiniteRange",
    "config_option",
    "example",
    "network_of",
    "open_run",
    "parse_config",
    "read_weights",
    "seed_option",
]

PORTS = tuple(name for name in BACKENDS if name != "numpy")
"""The backends that are compared with the reference, which is NumPy."""


class Choice(click.Choice[str]):
    """One of several names. `kind`: what the names are of, as the error for an unknown name says.

    The error suggests the nearest name, where Click's own would list all of them.
    """

    def __init__(self, names: Iterable[str], kind: str) -> None:
        super().__init__(tuple(names))
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices:
            raise unknown(self.kind, value, self.choices)
        return value


class ChoiceList(Choice):
    """One or more names, separated by commas, as a list without repetitions."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"{super().get_metavar(param, ctx)},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, list):  # already converted
            return value
        names = list(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
        if not names:
            raise ConfigError(f"name at least one {self.kind}; choose from {', '.join(self.choices)}")
        return [super(ChoiceList, self).convert(name, param, ctx) for name in names]


class CountList(click.ParamType[list[int]]):
    """One or more whole numbers from 1 to 65536, separated by commas, as a list without repetitions."""

    name = "n,..."
    _LARGEST = 2**16

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):  # already converted
            return value
        words = [word.strip() for word in value.split(",")]
        if not all(re.fullmatch("[0-9]{1,5}", word) and 1 <= int(word) <= self._LARGEST for word in words):
            option = param.opts[0] if param else "the list"
            raise ConfigError(
                f"{option} (={value!r}) must be whole numbers from 1 to {self._LARGEST}, such as 1 or 1,8,32"
            )
        return list(dict.fromkeys(map(int, words)))


BACKEND = Choice(BACKENDS, "backend")
DEVICE = Choice(get_args(Device), "device")
DTYPE = Choice(get_args(DTypeName), "dtype")


class FiniteRange(click.FloatRange):
    """A finite number within bounds. Click itself accepts `nan` for any bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


def example(*lines: str) -> str:
    """Return the examples at the end of a command's help."""
    # \b keeps Click from joining the lines.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def parse_config(given: str | None) -> dict[str, Any]:
    """Return the settings that `--config` gives, as JSON or as the path of a JSON file.

    Raises ConfigError for anything but a JSON object.
    """
    if given is None:
        return {}
    from common import json_records

    text, source = given, "--config"
    if not given.lstrip().startswith("{"):
        source = f"--config {given}"
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{source}: neither JSON nor a readable file ({error}); an example is '{{\"num_classes\": 7}}'"
            ) from None
    try:
        config = json_records.parse(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f'{source}: expected a JSON object such as {{"num_classes": 7}}, got {text[:60]}')
    return config


def read_weights(path: Path, name: str, config: str | None) -> WeightsFile:
    """Read a weights file. Raises ConfigError if it is not of network `name` with this `--config`."""
    from common import catalog, weights

    file = weights.read(path)
    expected, network = catalog.get(name, **parse_config(config)), file.network
    if network.family != expected.family or (config is not None and network.config != expected.config):
        raise ConfigError(
            f"{path}: weights of {network.name} {network.config_json()}; expected {expected.name} "
            f"{expected.config_json()}"
        )
    return file


def network_of(path: Path, name: str, config: str | None) -> Network:
    """Return the network of a weights file. Raises ConfigError as `read_weights` does."""
    return read_weights(path, name, config).network


def open_run(run: Path) -> tuple[Experiment, Checkpoint]:
    """Return a training run's configuration and its last undamaged checkpoint; warn of each damaged one after it.

    Raises InputError where the folder is not a training run, or has no undamaged checkpoint.
    """
    from common.training.checkpoints import last
    from common.training.experiment import Experiment

    experiment = Experiment.load(run)
    checkpoint, damage = last(run)
    for message in damage:
        click.echo(f"rosetta: {message}; using the checkpoint before it", err=True)
    if checkpoint is None:
        raise InputError(f"{run} has no undamaged checkpoint; train it first: `rosetta train -o {run} --resume`")
    return experiment, checkpoint


config_option = click.option(
    "--config", metavar="JSON", help="Settings of the network, in place of the catalog's: JSON, or a JSON file."
)
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random numbers.")
