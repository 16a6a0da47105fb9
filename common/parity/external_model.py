"""Run a user's model in a worker, under names that it shares with the model it is compared with."""

from __future__ import annotations

import importlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from common.backends import registry
from common.backends.protocol import Backend, Calls, Gradients, Trainer
from common.catalog import Network
from common.errors import ConfigError, unknown
from common.layout import Tensor
from common.optimizers import OptimizerConfig
from common.reference import Call, Description, ExternalNetwork
from common.reference.layer_specs import Specification
from common.weights import DTypeName

__all__ = ["ExternalBackend", "resolve", "shared_names"]


def resolve(factory: str, folder: str) -> Callable[..., Any]:
    """Return the object named "module:attribute"; `folder` comes first on the import path.

    Raises ConfigError if there is no such attribute; exceptions of the imported module pass through.
    """
    name, colon, path = factory.partition(":")
    if not colon or not name or not path:
        raise ConfigError(f"`factory` (={factory!r}) must be 'module:attribute', such as 'my_port:make'")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found: Any = importlib.import_module(name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise unknown(f"attribute of {name}", part, [each for each in vars(found) if not each.startswith("_")])
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"`factory` (={factory!r}) must name a function or class, but is {type(found).__name__}")
    return found


def shared_names(own: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return the shared name of each own name: the longest prefix that is a path in `names` is replaced.

    Raises ConfigError if two names become the same.
    """
    found: dict[str, str] = {}
    for name in own:
        parts = name.split(".")
        prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        prefix = next((prefix for prefix in prefixes if prefix in names), None)
        found[name] = name if prefix is None else (names[prefix] + name[len(prefix) :]).lstrip(".")
    for shared, count in Counter(found.values()).items():
        if count > 1:
            both = " and ".join(name for name, target in found.items() if target == shared)
            raise ConfigError(f"`names` makes {shared} of both {both}; shared names must be unique")
    return found


def external_network(
    description: Mapping[str, Any], image: Sequence[int], name: str = "", about: str = ""
) -> ExternalNetwork:
    """Return the network of an external model's `description`; kinds of layers have the reference's names."""
    manifest = {
        name: Tensor(tuple(each["shape"]), each["kind"], each["image"] and tuple(each["image"]))
        for name, each in description["manifest"].items()
    }
    kinds = {path: each["kind"] for path, each in description["specifications"].items()}
    calls = tuple(
        Call(each["path"], kinds.get(each["path"], each["kind"]), tuple(each["shape"]), each["parameters"])
        for each in description["calls"]
    )
    taps = {call.path: call.shape for call in calls} | {"logits": tuple(description["output"])}
    return ExternalNetwork(name, tuple(image), Description(manifest, taps, calls, (), ()), about)


def _not_comparable(call: Call) -> bool:
    """True if a layer has no comparable output: flattening keeps the framework's own order, and dropout is off."""
    return call.kind == "Flatten" or "Dropout" in call.kind


def _order_key(tensor: str, layers: Mapping[str, int]) -> tuple[int, int]:
    """Return the sort key of a tensor: its layer's position, then the position of the leaf."""
    path, _, leaf = tensor.rpartition(".")
    leaves = ("weight", "bias", "running_mean", "running_var")
    return layers.get(path, len(layers)), leaves.index(leaf) if leaf in leaves else len(leaves)


class ExternalBackend:
    """A backend that runs one external model under shared names.

    `names`: own path -> shared path of layers, blocks or single tensors; all others keep their names. `flattened`:
    shared path of a dense layer whose input is a flattened image -> (channels, height, width). `image`: the shape of
    one example, (channels, height, width) or another.
    """

    def __init__(
        self,
        name: str,
        plain: Backend,
        make: Callable[..., Any],
        image: Sequence[int],
        names: Mapping[str, str],
        flattened: Mapping[str, Sequence[int]],
    ) -> None:
        self._module = importlib.import_module(f"{registry.get(name).adapters}.external")
        self._backend: Any = self._module.Backend() if name == "numpy" else plain
        self.container: str = self._backend.container
        self._make, self._image = make, tuple(image)
        self._taps: Sequence[str] | None = None
        self._describe(names, {path: tuple(shape) for path, shape in flattened.items()})

    def _describe(self, names: Mapping[str, str], flattened: Mapping[str, tuple[int, ...]]) -> None:
        """Find the tensors and layers of the model, and their shared names."""
        model = self._native("float64")
        has_layers = hasattr(self._module, "manifest")
        manifest: dict[str, Tensor] = self._module.manifest(model) if has_layers else {}
        self._set(model, manifest, ())
        calls: list[Call] = self._backend.summary(model) if has_layers else []
        often = Counter(call.path for call in calls)
        calls = [call for call in calls if often[call.path] == 1 and not _not_comparable(call)]
        paths = {name.rpartition(".")[0] for name in manifest} | set(often) | set(manifest)
        known = {".".join(path.split(".")[:count]) for path in paths for count in range(1, path.count(".") + 2)}
        for path in names:
            if has_layers and path not in known:
                raise unknown("layer of the model", path, sorted(known))
        self._tensor_names = shared_names(manifest, names)
        self._paths = shared_names((call.path for call in calls), names)
        self._own_tensors = {shared: own for own, shared in self._tensor_names.items()}
        self._own_paths = {shared: own for own, shared in self._paths.items()}
        for path, image in flattened.items():
            own = self._own_tensors.get(f"{path}.weight")
            if own is not None and len(image) == 3 and math.prod(image) == math.prod(manifest[own].shape[1:]):
                manifest[own] = replace(manifest[own], image=image)
        order = {call.path: i for i, call in enumerate(calls)}
        self._manifest = dict(sorted(manifest.items(), key=lambda item: _order_key(item[0], order)))
        self._calls = [
            replace(call, path=self._paths[call.path], parameters=self._parameters(call.path)) for call in calls
        ]
        found = self._module.specifications(model) if has_layers else {}
        self.specifications: dict[str, Specification] = {
            self._paths[own]: specification for own, specification in found.items() if own in self._paths
        }
        self._output = self._backend.run(model, np.zeros((1, *self._image))).shape if has_layers else ()
        self._initial = {self._tensor_names[own]: values for own, values in self._backend.weights(model).items()}
        self.network = external_network(self.description(), self._image)

    def _parameters(self, path: str) -> int:
        return sum(
            math.prod(tensor.shape) for name, tensor in self._manifest.items() if name.rpartition(".")[0] == path
        )

    def _native(self, dtype: DTypeName) -> Any:
        if not hasattr(self._module, "adopt"):
            return self._backend.build(self._make, dtype)
        return self._module.adopt(self._make, dtype, self._image)

    def _set(self, model: Any, manifest: Mapping[str, Tensor], taps: Iterable[str]) -> None:
        description = Description(manifest, dict.fromkeys([*taps, "logits"], ()), (), (), ())
        model.network = ExternalNetwork("", self._image, description)

    def description(self) -> dict[str, Any]:
        """Return tensors, calls, output shape and layer specifications as JSON-ready data, in shared names."""
        return {
            "manifest": {self._tensor_names[own]: asdict(tensor) for own, tensor in self._manifest.items()},
            "calls": [asdict(call) for call in self._calls],
            "output": list(self._output),
            "specifications": {path: asdict(found) for path, found in self.specifications.items()},
        }

    def select_taps(self, taps: Sequence[str]) -> None:
        """Trace these taps from now on, given by shared name."""
        self._taps = [tap for tap in taps if tap != "logits"]

    def build(self, network: Network, dtype: DTypeName) -> Any:
        model = self._native(dtype)
        self._set(model, self._manifest, [self._own_paths.get(tap, tap) for tap in self._taps or ()])
        return model

    def load(self, model: Any, tensors: Mapping[str, np.ndarray]) -> None:
        names = self._tensor_names or dict(zip(tensors, tensors, strict=True))
        self._backend.load(model, {own: tensors[shared] for own, shared in names.items()})

    def weights(self, model: Any) -> dict[str, np.ndarray]:
        return {self._tensor_names.get(own, own): array for own, array in self._backend.weights(model).items()}

    def initial(self, network: Network, dtype: DTypeName, seed: int) -> dict[str, np.ndarray]:
        return self._initial

    def summary(self, model: Any) -> list[Call]:
        # A function has no layers to list before it runs.
        return self._calls or self._backend.summary(model)

    def run(self, model: Any, x: np.ndarray, training: bool = False) -> np.ndarray:
        return self._backend.run(model, x, training)

    def trace(
        self, model: Any, x: np.ndarray, training: bool = False, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        if given is not None:
            given = {self._own_paths[tap]: values for tap, values in given.items() if tap in self._own_paths}
        taps = self._backend.trace(model, x, training, given)
        return {self._paths.get(own, own): values for own, values in taps.items()}

    def calls(self, model: Any, x: np.ndarray, training: bool = False) -> Calls:
        found = self._backend.calls(model, x, training)
        return {self._paths[own]: pair for own, pair in found.items() if own in self._paths}

    def gradients(self, model: Any, x: np.ndarray, labels: np.ndarray) -> Gradients:
        found = self._backend.gradients(model, x, labels)
        return replace(found, parameters={self._tensor_names[own]: g for own, g in found.parameters.items()})

    def trainer(self, model: Any, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        return self._backend.trainer(model, optimizer, seed)
