"""Configuration of a training run, kept as config.json in its folder."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import catalog, json_records
from common.catalog import Network
from common.choices import Device, DTypeName, ScheduleName
from common.errors import ConfigError, InputError, RosettaError
from common.files import atomic_writer
from common.optimizers import OptimizerConfig, Schedule
from common.training.metrics import read_config

__all__ = ["CONFIG", "Experiment", "ScheduleConfig"]

CONFIG = "config.json"
_REQUIRED = ("classes", "mean", "std", "optimizer", "schedule")
"""Fields that config.json always has, although `Experiment` has defaults for them."""


@dataclass(frozen=True)
class ScheduleConfig:
    """A learning rate schedule in epochs; `schedule` converts it to steps."""

    name: ScheduleName = "constant"
    warmup: float = 0
    every: float = 1
    factor: float = 0.1

    def schedule(self, learning_rate: float, epochs: int, steps: int) -> Schedule:
        """Return the schedule for `epochs` epochs of `steps` steps each."""
        warmup, every = round(self.warmup * steps), max(round(self.every * steps), 1)
        return Schedule(self.name, learning_rate, epochs * steps, warmup, every, self.factor)


@dataclass(frozen=True)
class Experiment:
    """Configuration of a training run.

    `network` and `config`: an entry of the catalog and all its settings. `data`: a data set's name or a folder.
    `init`: xavier (the same weights in every framework), native (the framework's own) or a weights file. `classes`,
    `mean`, `std`: of the data. `keep`: number of checkpoints to keep; one is written after each epoch, and every
    `checkpoint_every` steps.
    """

    network: str
    config: dict[str, Any]
    backend: str
    data: str
    epochs: int
    batch_size: int
    learning_rate: float
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    data_dir: str | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seed: int = 0
    dtype: DTypeName = "float32"
    device: Device = "cpu"
    init: str = "xavier"
    flip: bool = False
    crop: int = 0
    keep: int = 3
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "keep", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` (={value}) must be at least 1")
        if self.seed < 0:
            raise ConfigError(f"`seed` (={self.seed}) must be 0 or more")
        if not 0 <= self.schedule.warmup <= self.epochs:
            raise ConfigError(
                f"`warmup` (={self.schedule.warmup:g}) must be from 0 to the {self.epochs} epochs of the run"
            )
        if not 0 < self.schedule.every < math.inf:
            raise ConfigError(f"`every` (={self.schedule.every:g}) must be a number of epochs above 0")
        self.schedule.schedule(self.learning_rate, self.epochs, 1000)  # checks the other fields

    @property
    def entry(self) -> Network:
        """The network with its settings."""
        return catalog.get(self.network, **self.config)

    def save(self, run: Path) -> None:
        """Write config.json to the run's folder."""
        record = {"format": "rosetta-run", "version": 1, **dataclasses.asdict(self)}
        with atomic_writer(run / CONFIG) as file:
            file.write((json.dumps(record, indent=1) + "\n").encode())

    @classmethod
    def load(cls, run: Path) -> Experiment:
        """Read the configuration of a run.

        Raises InputError where the folder is not a run, or a field is missing or invalid.
        """
        record = read_config(run)
        known = {item.name for item in dataclasses.fields(cls)}
        try:
            if missing := [name for name in _REQUIRED if name not in record]:
                raise ValueError(f"it has no `{missing[0]}`")
            experiment = json_records.build(cls, {name: value for name, value in record.items() if name in known})
            return dataclasses.replace(experiment, config=experiment.entry.settings())
        except RosettaError as error:
            raise InputError(f"{run / CONFIG}: {error}") from None
        except (ValueError, OverflowError) as error:
            raise InputError(f"{run / CONFIG}: not the configuration of a training run: {error}") from None
