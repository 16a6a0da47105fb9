"""What the verbs of `rosetta` share: options and choices. Nothing here imports anything heavy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common import json_records
from common.errors import ConfigError, unknown

if TYPE_CHECKING:
    from common.catalog import Network
    from common.weights import WeightsFile

__all__ = [
    "BACKENDS",
    "CHECKS",
    "DEVICES",
    "DTYPES",
    "FORMATS",
    "MUTANTS",
    "OBJECTIVES",
    "OPTIMIZERS",
    "PLACES",
    "SCHEDULES",
    "FiniteRange",
    "check_choice",
    "config_option",
    "example",
    "network_of",
    "parse_config",
    "parse_list",
    "read_weights",
    "seed_option",
]

# Written down again here, since the modules that define them import NumPy; a test holds them together.
BACKENDS = ("numpy", "torch", "jax", "tf", "mxnet")
CHECKS = ("forward", "gradients", "training")
DEVICES = ("cpu", "gpu")
DTYPES = ("float64", "float32")
FORMATS = ("table", "markdown", "csv", "json")
OBJECTIVES = ("latency", "throughput", "memory", "size", "cold-start", "energy")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
MUTANTS = ("pitfall", "constant", "keyword", "activation", "swap", "zero")
PLACES = ("python", "c", "mobile", "browser", "any")
SCHEDULES = ("constant", "step", "cosine")


class FiniteRange(click.FloatRange):
    """A number within bounds. To Click `nan` is within any, and then nothing is over a limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


def example(*lines: str) -> str:
    """Return lines as the examples at the end of a verb's help."""
    # \b keeps click from joining the lines.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def parse_config(given: str | None) -> dict[str, Any]:
    """Return the overrides that `--config` gives, as JSON or as the path of a JSON file."""
    if given is None:
        return {}
    text, source = given, "--config"
    if not given.lstrip().startswith("{"):
        source = f"--config {given}"
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{source}: neither JSON nor a file that can be read ({error}); an example is '{{\"num_classes\": 7}}'"
            ) from None
    try:
        config = json_records.parse(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f'{source}: expected a JSON object such as {{"num_classes": 7}}, and was given {text[:60]}')
    return config


def parse_list(option: str, given: str, known: Sequence[str], kind: str) -> list[str]:
    """Return what an option lists, separated by commas. Raises ConfigError for none and for unknown ones."""
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"{option} is empty; choose from {', '.join(known)}")
    for name in names:
        check_choice(kind, name, known)
    return names


def check_choice(kind: str, given: str, known: Sequence[str]) -> None:
    """Raise ConfigError, naming the nearest, where `given` is not among the known."""
    if given not in known:
        raise unknown(kind, given, known)


def read_weights(path: Path, name: str, config: str | None) -> WeightsFile:
    """Read a weights file. Raises ConfigError if it is of another network or configuration than given."""
    from common import catalog, weights

    file = weights.read(path)
    asked, found = catalog.get(name, **parse_config(config)), file.network
    if found.family != asked.family or (config is not None and found.config != asked.config):
        raise ConfigError(
            f"{path}: weights of {found.name} {found.config_json()}; asked for was {asked.name} {asked.config_json()}"
        )
    return file


def network_of(path: Path, name: str, config: str | None) -> Network:
    """Return the network of a weights file. Raises ConfigError as `read_weights` does."""
    return read_weights(path, name, config).network


config_option = click.option("--config", metavar="JSON", help="Override the catalog: JSON, or the path of a JSON file.")
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random numbers.")
