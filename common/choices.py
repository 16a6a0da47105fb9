"""The names that options and functions take, as literal types. Nothing here imports anything heavy."""

from __future__ import annotations

from typing import Literal

__all__ = [
    "Check",
    "DTypeName",
    "Device",
    "Mode",
    "MutantKind",
    "Objective",
    "OptimizerName",
    "Runtime",
    "ScheduleName",
    "Scheme",
    "SummaryFormat",
]

Check = Literal["forward", "gradients", "training"]
Device = Literal["cpu", "gpu"]
DTypeName = Literal["float32", "float64"]
Mode = Literal["inference", "training"]
MutantKind = Literal["pitfall", "constant", "keyword", "activation", "swap", "zero"]
Objective = Literal["latency", "throughput", "memory", "size", "cold-start", "energy"]
OptimizerName = Literal["sgd", "momentum", "nesterov", "adam", "adamw"]
Runtime = Literal["python", "c", "mobile", "browser", "any"]
ScheduleName = Literal["constant", "step", "cosine"]
Scheme = Literal["probe", "xavier"]
"""Initializers of weights: probe for parity checks, xavier for training."""
SummaryFormat = Literal["table", "markdown", "csv", "json"]
