"""Backends by name: their packages, their image layouts, and how to load one."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from common.backends import environments
from common.backends.environments import Interpreter
from common.choices import Device
from common.errors import unknown

if TYPE_CHECKING:
    from common.backends.protocol import Backend

__all__ = ["BACKENDS", "DEVICES", "BackendInfo", "find_interpreter", "get", "load"]


@dataclass(frozen=True)
class BackendInfo:
    """Where a backend's code is, what it needs (modules that it imports, whose versions matter), its image layout."""

    name: str
    package: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @property
    def adapters(self) -> str:
        """The package of its `backend`, `external` and `deploy` modules: the port's own, but for NumPy's."""
        return "common.backends.numpy" if self.name == "numpy" else self.package


BACKENDS: Mapping[str, BackendInfo] = {
    info.name: info
    for info in (
        BackendInfo("numpy", "common.reference", ("numpy",), ("numpy",)),
        BackendInfo("torch", "torch_impl", ("torch",), ("torch", "numpy")),
        BackendInfo("jax", "jax_impl", ("jax", "flax"), ("jax", "flax", "numpy"), "NHWC"),
        BackendInfo("tf", "tf_impl", ("tensorflow", "keras"), ("tensorflow-cpu", "keras", "numpy"), "NHWC"),
        BackendInfo("mxnet", "mxnet_impl", ("mxnet",), ("mxnet", "numpy")),
    )
}


DEVICES: tuple[Device, ...] = get_args(Device)


def get(name: str) -> BackendInfo:
    """Return what is known of backend `name`. Raises ConfigError for an unknown one."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    return BACKENDS[name]


def load(name: str, device: str = "cpu") -> Backend:
    """Import a backend's framework and return the Backend on a device, "cpu" or "gpu".

    Raises ImportError where it is not installed here, BackendError where it sees no such device.
    """
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    module = importlib.import_module(f"{get(name).adapters}.backend")
    backend: Backend = module.Backend(device)
    return backend


def find_interpreter(name: str) -> Interpreter | None:
    """Return the interpreter that holds backend `name`, or None where it is not installed; see `find_environment`."""
    return environments.find_environment(name, get(name).modules)
