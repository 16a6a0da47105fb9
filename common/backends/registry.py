"""Registry of the backends: packages, modules and image layouts by name."""

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
    """A backend's package, the modules it imports, the distributions whose versions are reported, its image layout."""

    name: str
    package: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @property
    def adapters(self) -> str:
        """The package with the modules `backend`, `external` and `deploy`: the port's own, except for NumPy."""
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
    """Return the entry of a backend. Raises ConfigError for an unknown name."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    return BACKENDS[name]


def load(name: str, device: str = "cpu") -> Backend:
    """Import a backend's framework and return its Backend on a device, "cpu" or "gpu".

    Raises ImportError if the framework is not installed here, BackendError if it has no such device.
    """
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    module = importlib.import_module(f"{get(name).adapters}.backend")
    backend: Backend = module.Backend(device)
    return backend


def find_interpreter(name: str) -> Interpreter | None:
    """Return the interpreter of a backend, or None if it is not installed; see `find_environment`."""
    return environments.find_environment(name, get(name).modules)
