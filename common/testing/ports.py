"""Descriptions of users' models, and the processes that run them."""

from __future__ import annotations

import contextlib
import os
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from common.backends import registry
from common.backends.launch import MissingBackendError
from common.backends.processes import Worker
from common.errors import BackendError, ConfigError
from common.system import processors

__all__ = ["ModelProcess", "Port", "Workers"]


@dataclass(frozen=True)
class Port:
    """A user's model: framework, constructor, and renamed layers.

    `backend`: torch, jax, tf or mxnet; or numpy for a function `compute(x, weights)` of arrays, which returns the
    output, or a mapping of taps by name whose last entry is the output. A parameter `training` of the function is set.
    `factory`: "module:attribute", imported in a process of the framework's environment; or a function or class of this
    process, which then needs the framework installed. Called without arguments, it returns the model: an `nn.Module`,
    `nnx.Module`, `keras.Model` or Gluon `HybridBlock`. For numpy it is the function itself.
    `names`: the model's own path (of a layer, a block or one tensor) -> the shared path; all others are the same in
    both models. Paths are those of attributes, as in torch's `state_dict`; the last part is weight, bias, running_mean
    or running_var in every framework.
    `folder`: first folder on the import path, by default the current one.
    """

    backend: str
    factory: str | Callable[..., Any]
    names: Mapping[str, str] = field(default_factory=dict)
    folder: Path | str = "."

    def __post_init__(self) -> None:
        registry.get(self.backend)
        if not isinstance(self.factory, str) and not callable(self.factory):
            raise ConfigError(
                f"`factory` (={self.factory!r}) must be 'module:attribute', or a function or class that makes the model"
            )
        if not all(isinstance(name, str) for pair in self.names.items() for name in pair):
            raise ConfigError("`names` must map the model's own paths to shared ones, such as {'features.0': 'conv1'}")

    @property
    def model(self) -> str:
        """The name of the factory."""
        if isinstance(self.factory, str):
            return self.factory.rpartition(":")[2]
        return getattr(self.factory, "__name__", type(self.factory).__name__)

    @property
    def in_this_process(self) -> bool:
        """True if the model runs in this process, as functions and classes do."""
        return self.backend == "numpy" or not isinstance(self.factory, str)


class _Server(Protocol):
    """A worker process, or the same service in this process."""

    versions: dict[str, str]

    @property
    def running(self) -> bool: ...

    def start(self) -> None: ...

    def ask(self, action: str, **details: Any) -> dict[str, Any]: ...

    def stop(self) -> None: ...


class _InProcessWorker:
    """A backend in this process with the interface of a worker."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.versions: dict[str, str] = {}
        self._server: Any = None
        self._requests = 0

    @property
    def running(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        from common.parity.worker import Server

        try:
            self._server = Server(self.name)
        except ModuleNotFoundError as error:
            if error.name not in registry.get(self.name).modules:
                raise
            raise MissingBackendError(
                f"backend {self.name} is not installed here: {error}; give its factory as 'module:attribute', to "
                "run it in an environment that has it"
            ) from None
        self.versions = self._server.versions()

    def ask(self, action: str, **details: Any) -> dict[str, Any]:
        self._requests += 1
        try:
            answer: dict[str, Any] = self._server.answer({"id": self._requests, "action": action, **details})
        except Exception as error:  # an exception of a framework fails only its request
            traceback.print_exc()
            raise BackendError(f"backend {self.name}: {type(error).__name__}: {error}") from error
        return answer

    def stop(self) -> None:
        self._server = None


class Workers:
    """Worker processes shared by several comparisons, so that each framework is imported once.

    A context manager that ends them on exit.
    """

    def __init__(self, limit: float = 600) -> None:
        self.limit = limit
        self._stack = contextlib.ExitStack()
        self._servers: dict[tuple[str, bool, str], _Server] = {}

    def __enter__(self) -> Workers:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rosetta-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def server(self, port: Port, role: str) -> _Server:
        """Return the worker of a port in its role; the two models of a comparison never share one."""
        key = (port.backend, port.in_this_process, role)
        if key not in self._servers:
            server: _Server
            if port.in_this_process:
                server = _InProcessWorker(port.backend)
            else:
                server = Worker(port.backend, self._folder / f"{port.backend}-{role}", processors(), self.limit)
            self._stack.callback(server.stop)
            self._servers[key] = server
        return self._servers[key]


class ModelProcess:
    """A port in its worker; `ask` restarts the worker and reloads the model if the process has died."""

    def __init__(self, port: Port, server: _Server, folder: Path, image: Sequence[int], flattened: Mapping[str, Any]):
        self.port = port
        self.server = server
        self.initial = folder / "initial.safetensors"
        self._request = {
            "factory": port.factory,
            "folder": os.path.abspath(port.folder),
            "names": dict(port.names),
            "image": list(image),
            "flattened": {path: list(shape) for path, shape in flattened.items()},
            "outputs": {"weights": str(self.initial)},
        }
        self._taps: Sequence[str] = ()
        self.description: dict[str, Any] = {}

    def start(self) -> None:
        """Build the model and read its description.

        Raises MissingBackendError if the framework is not installed, BackendError if the model cannot be built.
        """
        if not self.server.running:
            self.server.start()
        self.description = self.server.ask("use_external", **self._request)
        self.server.ask("select_taps", taps=list(self._taps))

    def select_taps(self, taps: Sequence[str]) -> None:
        """Trace these taps from now on."""
        self._taps = taps
        self.server.ask("select_taps", taps=list(taps))

    def ask(self, action: str, **details: Any) -> dict[str, Any]:
        """Send one request and return its answer. Raises BackendError if it fails."""
        if not self.server.running:
            self.start()
        return self.server.ask(action, **details)

    @property
    def title(self) -> str:
        """Backend and model, for messages."""
        return f"{self.port.backend} {self.port.model}"
