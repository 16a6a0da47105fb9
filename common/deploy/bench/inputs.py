"""Input files of a benchmark's processes: weights, images, the reference's outputs, artifacts. Each is made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common import reference, weights
from common.catalog import Network
from common.deploy.bench.results import Mode
from common.deploy.export.export import ExportRequest, unverified
from common.deploy.export.manifest import Manifest
from common.errors import RosettaError
from common.images import real_batch
from common.reference.layers import Module
from common.reference.loss import cross_entropy
from common.weights import WeightsFile

__all__ = ["Inputs", "size_on_disk", "without_dropout"]

_REFERENCE_BATCH = 4
"""Images per call of the reference, which keeps its activations in float64."""


def without_dropout(network: Network) -> Network:
    """Return the network with dropout off; the same network if it has none."""
    return network.configured(dropout=0.0) if "dropout" in network.settings() else network


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


class Inputs:
    """Makes input files in a folder. `trained`: weights to use; without them, random ones."""

    def __init__(
        self, folder: Path, networks: Sequence[Network], batches: Sequence[int], trained: WeightsFile | None
    ) -> None:
        self._folder = folder
        self._trained = trained
        self._largest_batch = max(batches)
        # File names have a network's number: its configuration can be too long for one.
        self._numbers = {network: number for number, network in enumerate(dict.fromkeys(networks))}
        self._weights: dict[Network, WeightsFile] = {}
        self._artifacts: dict[tuple[Network, str, str, int], tuple[Path, Manifest] | RosettaError] = {}

    def _file(self, network: Network, *words: object) -> Path:
        number = self._numbers.setdefault(network, len(self._numbers))
        return self._folder / "-".join(map(str, (network.name, number, *words)))

    def weights(self, network: Network) -> WeightsFile:
        """Return a file of float32 weights."""
        if network not in self._weights:
            path = self._file(network, "weights.safetensors")
            if self._trained is None:
                weights.write_initial(path, network, "probe", durable=False)
            else:
                trained = {name: np.asarray(array, np.float32) for name, array in self._trained.tensors.items()}
                weights.write(path, network, trained)
            self._weights[network] = weights.read(path)
        return self._weights[network]

    def _batch(self, network: Network, batch: int) -> np.ndarray:
        """Return real images (batch, C, H, W) in float32; smaller batches are the start of larger ones."""
        return real_batch(network, self._largest_batch)[:batch].astype(np.float32)

    def images(self, network: Network, batch: int) -> Path:
        """Return a file of images (batch, C, H, W)."""
        return self._saved(self._file(network, batch, "images.npy"), lambda: self._batch(network, batch))

    def labels(self, network: Network, batch: int) -> Path:
        """Return a file of arbitrary labels (batch,)."""
        return self._saved(self._file(network, batch, "labels.npy"), lambda: self._labels(network, batch))

    def _labels(self, network: Network, batch: int) -> np.ndarray:
        return np.arange(batch, dtype=np.int64) % network.config.num_classes

    def expected(self, network: Network, mode: Mode, batch: int) -> Path:
        """Return a file of the reference's float64 output: logits, or for training the loss and the largest logit."""
        output = self._step if mode == "training" else self._logits
        return self._saved(self._file(network, mode, batch, "expected.npy"), lambda: output(network, batch))

    def _logits(self, network: Network, batch: int) -> np.ndarray:
        path = self._file(network, "logits.npy")
        return np.load(self._saved(path, lambda: self._all_logits(network)))[:batch]

    def _reference(self, network: Network) -> Module:
        model = reference.build(network)
        reference.load(model, self.weights(network).tensors)
        return model

    def _all_logits(self, network: Network) -> np.ndarray:
        model = self._reference(network)
        images = self._batch(network, self._largest_batch).astype(np.float64)
        starts = range(0, self._largest_batch, _REFERENCE_BATCH)
        return np.concatenate([model(images[start : start + _REFERENCE_BATCH]) for start in starts])

    def _step(self, network: Network, batch: int) -> np.ndarray:
        model = self._reference(network)
        model.train()
        logits = model(self._batch(network, batch).astype(np.float64))
        loss = cross_entropy(logits, self._labels(network, batch))
        return np.array([loss, np.max(np.abs(logits))])

    @staticmethod
    def _saved(path: Path, make: Callable[[], np.ndarray]) -> Path:
        if not path.exists():
            np.save(path, make())
        return path

    def artifact(self, network: Network, form: str, dtype: str, batch: int) -> tuple[Path, Manifest]:
        """Return an artifact and its manifest. Raises RosettaError, on every call, if it cannot be exported."""
        key = network, form, dtype, batch
        if key not in self._artifacts:
            folder = self._file(*key)
            folder.mkdir()
            try:
                request = ExportRequest(self.weights(network), form, dtype, batch=batch)
                self._artifacts[key] = unverified(request, folder)
            except RosettaError as error:
                self._artifacts[key] = error
        artifact = self._artifacts[key]
        if isinstance(artifact, RosettaError):
            raise artifact
        return artifact
