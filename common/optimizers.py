"""Definitions of the optimizers and learning-rate schedules that every framework implements.

For a parameter w with gradient g of the loss (the mean over the batch), at step t = 1, 2, ... with learning rate r:

    clipping   g <- g min(1, c / |all g|)           by the norm of all gradients together, before anything else
    decay      g <- g + d w                         coupled; for every parameter, also biases, scales and shifts
    sgd        w <- w - r g
    momentum   v <- u v + g,  w <- w - r v          the velocity does not contain the learning rate
    nesterov   v <- u v + g,  w <- w - r (g + u v)
    adam       m <- b1 m + (1 - b1) g,  s <- b2 s + (1 - b2) g^2
               w <- w - r (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + e)     e is outside the root
    adamw      like adam, but the decay is decoupled: w <- w - r d w in addition, and g is unchanged

v, m and s start at zero. Sources: Polyak, 1964; Sutskever et al., 2013; Kingma and Ba, 2015 (arXiv:1412.6980,
algorithm 1); Loshchilov and Hutter, 2019 (arXiv:1711.05101); Pascanu et al., 2013 (arXiv:1211.5063) for clipping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from common.choices import OptimizerName, ScheduleName
from common.errors import ConfigError, unknown

__all__ = ["OptimizerConfig", "OptimizerName", "Schedule", "ScheduleName", "update"]


_SLOTS: Mapping[OptimizerName, tuple[str, ...]] = {
    "sgd": (),
    "momentum": ("velocity",),
    "nesterov": ("velocity",),
    "adam": ("mean", "square"),
    "adamw": ("mean", "square"),
}


_ABOVE_ZERO, _BELOW_ONE = math.nextafter(0, 1), math.nextafter(1, 0)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        lower = "above 0" if low == _ABOVE_ZERO else f"at least {low:g}"
        upper = "below 1" if high == _BELOW_ONE else f"at most {high:g}"
        raise ConfigError(f"`{name}` (={value!r}) must be a number {lower} and {upper}")


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its constants, without the learning rate, which each step takes as an argument.

    Above, `momentum` is u, `weight_decay` d, `clip_norm` c (None: no clipping), `beta1` b1, `beta2` b2, `epsilon` e.
    Raises ConfigError for an unknown name or a constant out of range.
    """

    name: OptimizerName = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimizerName):
            raise unknown("optimizer", self.name, get_args(OptimizerName))
        _check("momentum", self.momentum, _ABOVE_ZERO, _BELOW_ONE)  # with 0, use sgd
        _check("beta1", self.beta1, 0, _BELOW_ONE)
        _check("beta2", self.beta2, 0, _BELOW_ONE)
        _check("weight_decay", self.weight_decay, 0, 1e6)
        _check("epsilon", self.epsilon, _ABOVE_ZERO, 1)
        if self.clip_norm is not None:
            _check("clip_norm", self.clip_norm, _ABOVE_ZERO, 1e300)

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the arrays that the optimizer stores for each parameter: velocity (v), or mean and square (m, s)."""
        return _SLOTS[self.name]


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    constant: `base`; step: multiplied by `factor` every `every` steps; cosine: half a cosine from `base` to zero at
    step `total`. Each first increases linearly from `base / warmup` to `base` over `warmup` steps.
    Raises ConfigError for an unknown name or a number out of range.
    """

    name: ScheduleName = "constant"
    base: float = 0.1
    total: int = 1
    warmup: int = 0
    every: int = 1
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise unknown("schedule", self.name, get_args(ScheduleName))
        _check("learning_rate", self.base, _ABOVE_ZERO, 1e6)
        _check("factor", self.factor, _ABOVE_ZERO, 1)
        _check("every", self.every, 1, math.inf)
        _check("warmup", self.warmup, 0, self.total)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        if step < self.warmup:
            return self.base * (step + 1) / self.warmup
        if self.name == "step":
            return self.base * self.factor ** ((step - self.warmup) // self.every)
        if self.name == "cosine":
            done = min((step - self.warmup) / max(self.total - self.warmup, 1), 1)
            return self.base * (1 + math.cos(math.pi * done)) / 2
        return self.base


def update(
    config: OptimizerConfig,
    parameters: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
    slots: Mapping[str, np.ndarray],
    step: int,
    learning_rate: float,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the parameters and slots after step `step` (counted from 1), by the definitions above.

    Slots are named `<slot>.<parameter>`; missing ones are zero.
    """
    norm = math.sqrt(sum(float(np.sum(np.square(gradient))) for gradient in gradients.values()))
    scale = 1.0 if config.clip_norm is None or norm <= config.clip_norm else config.clip_norm / norm
    new: dict[str, np.ndarray] = {}
    kept: dict[str, np.ndarray] = {
        f"{slot}.{name}": np.zeros_like(w) for slot in config.slots for name, w in parameters.items()
    }
    for name, w in parameters.items():
        g = gradients[name] * scale
        if config.name != "adamw":
            g = g + config.weight_decay * w
        old = [slots.get(f"{slot}.{name}", kept[f"{slot}.{name}"]) for slot in config.slots]
        if config.name == "sgd":
            new_slots, change = [], g
        elif config.name in ("momentum", "nesterov"):
            v = config.momentum * old[0] + g
            new_slots, change = [v], v if config.name == "momentum" else g + config.momentum * v
        else:
            m = config.beta1 * old[0] + (1 - config.beta1) * g
            s = config.beta2 * old[1] + (1 - config.beta2) * g**2
            change = (m / (1 - config.beta1**step)) / (np.sqrt(s / (1 - config.beta2**step)) + config.epsilon)
            new_slots = [m, s]
        if config.name == "adamw":
            change = change + config.weight_decay * w
        new[name] = w - learning_rate * change
        kept.update({f"{slot}.{name}": value for slot, value in zip(config.slots, new_slots, strict=True)})
    return new, kept
