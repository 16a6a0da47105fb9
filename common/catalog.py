"""The catalog of networks: configuration, default input size, source.

Every dataclass here checks its fields when it is created, so code that builds a network from a configuration need not
check again. Sections are those of *Dive into Deep Learning*.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigError, shown, unknown

__all__ = [
    "FAMILIES",
    "NETWORKS",
    "AnyNetConfig",
    "Config",
    "DenseNetConfig",
    "DropoutConfig",
    "Network",
    "ResNeXtConfig",
    "ResNetConfig",
    "VGGConfig",
    "bottleneck_width",
    "get",
]


_LIMIT = 2**31
"""Upper bound of every number in a configuration: frameworks allow no longer axes, and no product overflows."""
_MAX_LAYERS = 1000
"""Maximum number of layers or blocks in all stages: more than published networks have, described within a second."""


def _positive_int(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"`{field}` (={shown(value)}) must be a positive integer")
    if value >= _LIMIT:
        raise ConfigError(f"`{field}` (={shown(value)}) must be a positive integer below {_LIMIT}")
    return value


def _sequence(field: str, value: object, form: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(f"`{field}` (={shown(value)}) must be {form}")
    return tuple(value)


def _check_depth(counts: Iterable[int]) -> None:
    depth = sum(counts)
    if depth > _MAX_LAYERS:
        raise ConfigError(f"`arch` has {depth} layers or blocks in its stages; at most {_MAX_LAYERS} are allowed")


def _stages(value: object, *columns: str) -> tuple[tuple[Any, ...], ...]:
    """Check an `arch` row by row: `multiplier` is a positive number, all other columns are positive integers."""
    form = f"a list of [{', '.join(columns)}], one for each stage"
    stages = []
    for i, row in enumerate(_sequence("arch", value, form), start=1):
        if not isinstance(row, list | tuple) or len(row) != len(columns):
            raise ConfigError(f"`arch` must be {form}; stage {i} is {shown(row)}")
        for column, entry in zip(columns, row, strict=True):
            if column != "multiplier":
                _positive_int(f"arch: {column} of stage {i}", entry)
            elif isinstance(entry, bool) or not isinstance(entry, int | float) or not 0 < entry < _LIMIT:
                raise ConfigError(
                    f"`arch: {column} of stage {i}` (={shown(entry)}) must be a positive number below {_LIMIT}"
                )
        stages.append(tuple(row))
    _check_depth(row[0] for row in stages)
    return tuple(stages)


def bottleneck_width(channels: int, group_width: int, multiplier: float) -> int:
    """Return the channels of a ResNeXt block's grouped convolution: `round(channels * multiplier)`.

    Raises ConfigError if they do not divide into groups of `group_width` channels.
    """
    width = round(channels * multiplier)
    if width < 1 or width % group_width:
        raise ConfigError(
            f"the bottleneck's channels (round({channels} * {multiplier}) = {width}) must be a positive multiple of "
            f"the group width (={group_width})"
        )
    return width


def _check_bottlenecks(stages: tuple[tuple[Any, ...], ...]) -> None:
    for i, (_, channels, group_width, multiplier) in enumerate(stages, start=1):
        try:
            bottleneck_width(channels, group_width, multiplier)
        except ConfigError as error:
            raise ConfigError(f"`arch`, stage {i}: {error}") from None


@dataclass(frozen=True)
class Config:
    """Settings that every network has. `input_size` is (height, width) in pixels."""

    num_classes: int = 10
    in_channels: int = 1
    input_size: tuple[int, int] = (28, 28)

    def __post_init__(self) -> None:
        _positive_int("num_classes", self.num_classes)
        _positive_int("in_channels", self.in_channels)
        size = _sequence("input_size", self.input_size, "[height, width]")
        if len(size) != 2:
            raise ConfigError(f"`input_size` (={shown(list(size))}) must be [height, width]")
        for side, pixels in zip(("height", "width"), size, strict=True):
            _positive_int(f"input_size: {side}", pixels)
        object.__setattr__(self, "input_size", size)


def _check_dropout(rate: object) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ConfigError(f"`dropout` (={shown(rate)}) must be a number from 0 to below 1")


@dataclass(frozen=True)
class DropoutConfig(Config):
    """AlexNet and NiN. `dropout` is the fraction of activations dropped in training."""

    dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_dropout(self.dropout)


@dataclass(frozen=True)
class VGGConfig(Config):
    """`arch`: (number of convolutions, channels) for each stage; `dropout` as in DropoutConfig."""

    arch: tuple[tuple[int, int], ...] = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))
    dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "arch", _stages(self.arch, "convs", "channels"))
        _check_dropout(self.dropout)


@dataclass(frozen=True)
class ResNetConfig(Config):
    """`arch`: (blocks, channels) for each stage."""

    arch: tuple[tuple[int, int], ...] = ((2, 64), (2, 128), (2, 256), (2, 512))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "arch", _stages(self.arch, "blocks", "channels"))


@dataclass(frozen=True)
class ResNeXtConfig(Config):
    """`arch`: (blocks, channels, group width, bottleneck multiplier) for each stage; ResNeXt-50 (32x4d) by default."""

    arch: tuple[tuple[int, int, int, float], ...] = (
        (3, 256, 4, 0.5),
        (4, 512, 8, 0.5),
        (6, 1024, 16, 0.5),
        (3, 2048, 32, 0.5),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "arch", _stages(self.arch, "blocks", "channels", "group_width", "multiplier"))
        _check_bottlenecks(self.arch)


@dataclass(frozen=True)
class DenseNetConfig(Config):
    """`arch`: layers of each dense block; `growth_rate`: channels that a layer adds; `num_channels`: the stem's."""

    arch: tuple[int, ...] = (4, 4, 4, 4)
    growth_rate: int = 32
    num_channels: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = _sequence("arch", self.arch, "a list with the number of layers of each stage")
        for i, count in enumerate(layers, start=1):
            _positive_int(f"arch: layers of stage {i}", count)
        _check_depth(layers)
        object.__setattr__(self, "arch", layers)
        _positive_int("growth_rate", self.growth_rate)
        _positive_int("num_channels", self.num_channels)


@dataclass(frozen=True)
class AnyNetConfig(Config):
    """`arch`: (depth, channels, group width, bottleneck multiplier) for each stage; `stem_channels`: the stem's."""

    arch: tuple[tuple[int, int, int, float], ...] = ((4, 32, 16, 1), (6, 80, 16, 1))
    stem_channels: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "arch", _stages(self.arch, "depth", "channels", "group_width", "multiplier"))
        _check_bottlenecks(self.arch)
        _positive_int("stem_channels", self.stem_channels)


@dataclass(frozen=True)
class Network:
    """One network of the catalog: its family and configuration, its source, and the source's training settings.

    `family` selects the class of the network in every implementation. `learning_rate` and `batch_size` are for plain
    SGD.
    """

    name: str
    family: str
    config: Config
    paper: str
    section: str
    learning_rate: float
    batch_size: int = 128
    arxiv: str = ""

    def configured(self, /, **overrides: object) -> Network:
        """Return this network with some fields of its configuration replaced.

        Raises ConfigError for an unknown field or an invalid value.
        """
        fields = [field.name for field in dataclasses.fields(self.config)]
        for name in overrides:
            if name not in fields:
                raise unknown(f"setting of {self.name} called", name, fields)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **overrides))  # type: ignore[arg-type]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one example."""
        return (self.config.in_channels, *self.config.input_size)

    def settings(self) -> dict[str, Any]:
        """Return the configuration by field name: the keyword arguments of the network's class."""
        return dataclasses.asdict(self.config)

    def config_json(self) -> str:
        """Return the whole configuration as JSON, as weights files store it."""
        return json.dumps(self.settings())


_VGG11_SMALL = ((1, 16), (1, 32), (2, 64), (2, 128), (2, 128))

NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        Network("lenet", "lenet", Config(), "LeCun et al., 1998", "7.6", 0.1),
        Network(
            "alexnet",
            "alexnet",
            DropoutConfig(input_size=(224, 224)),
            "Krizhevsky, Sutskever and Hinton, 2012",
            "8.1",
            0.01,
        ),
        Network(
            "vgg11",
            "vgg",
            VGGConfig(input_size=(224, 224)),
            "Simonyan and Zisserman, 2014",
            "8.2",
            0.01,
            arxiv="1409.1556",
        ),
        Network(
            "vgg11_small",
            "vgg",
            VGGConfig(input_size=(224, 224), arch=_VGG11_SMALL),
            "Simonyan and Zisserman, 2014",
            "8.2",
            0.01,
            arxiv="1409.1556",
        ),
        Network(
            "nin",
            "nin",
            DropoutConfig(input_size=(224, 224)),
            "Lin, Chen and Yan, 2013",
            "8.3",
            0.05,
            arxiv="1312.4400",
        ),
        Network(
            "googlenet",
            "googlenet",
            Config(input_size=(96, 96)),
            "Szegedy et al., 2015",
            "8.4",
            0.01,
            arxiv="1409.4842",
        ),
        Network("bn_lenet", "bn_lenet", Config(), "Ioffe and Szegedy, 2015", "8.5", 0.1, arxiv="1502.03167"),
        Network(
            "bn_lenet_scratch",
            "bn_lenet_scratch",
            Config(),
            "Ioffe and Szegedy, 2015",
            "8.5",
            0.1,
            arxiv="1502.03167",
        ),
        Network(
            "resnet18",
            "resnet",
            ResNetConfig(input_size=(96, 96)),
            "He et al., 2016",
            "8.6",
            0.01,
            arxiv="1512.03385",
        ),
        Network(
            "densenet",
            "densenet",
            DenseNetConfig(input_size=(96, 96)),
            "Huang et al., 2017",
            "8.7",
            0.01,
            arxiv="1608.06993",
        ),
        Network(
            "regnetx32",
            "anynet",
            AnyNetConfig(input_size=(96, 96)),
            "Radosavovic et al., 2020",
            "8.8",
            0.05,
            arxiv="2003.13678",
        ),
    )
}
"""The networks of the default parity matrix, in the order of the source."""

FAMILIES: Mapping[str, Network] = {
    "vgg": dataclasses.replace(NETWORKS["vgg11"], name="vgg"),
    "resnet": dataclasses.replace(NETWORKS["resnet18"], name="resnet"),
    "resnext": Network(
        "resnext",
        "resnext",
        ResNeXtConfig(input_size=(96, 96)),
        "Xie et al., 2017",
        "8.6.5",
        0.01,
        arxiv="1611.05431",
    ),
    "densenet": NETWORKS["densenet"],
    "anynet": dataclasses.replace(NETWORKS["regnetx32"], name="anynet"),
}
"""The families by name, with a default `arch` that a configuration can replace."""


def get(name: str, /, **overrides: object) -> Network:
    """Return the network or family `name`, with fields of its configuration replaced by `overrides`.

    Raises ConfigError for an unknown name (the message suggests similar ones), an unknown field or an invalid value.
    """
    known = {**FAMILIES, **NETWORKS}
    if name not in known:
        raise unknown("network", name, known)
    return known[name].configured(**overrides)
