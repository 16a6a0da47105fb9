"""What the processes of a benchmark read: weights, images, the reference's answers, artifacts; each made once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import reference, weights
from common.catalog import Network
from common.deploy.bench.results import Mode
from common.deploy.export.export import artifact
from common.errors import RosettaError
from common.images import real_batch
from common.reference.loss import cross_entropy

__all__ = ["Materials", "size_on_disk", "without_dropout"]

_AT_A_TIME = 4
"""Images that the reference answers at once: its activations are in float64."""


def without_dropout(network: Network) -> Network:
    """Return the network with its dropout off, itself where it has none."""
    return network.configured(dropout=0.0) if "dropout" in network.settings() else network


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


class Materials:
    """Files in a folder, named by what they are of. `given`: a weights file in place of random weights."""

    def __init__(self, folder: Path, networks: Sequence[Network], batches: Sequence[int], given: Path | None) -> None:
        self._folder = folder
        self._given = given
        self._largest = max(batches)
        # By number: a configuration may be as long as it likes, and a file's name may not.
        self._numbers: dict[Network, int] = {}
        for network in networks:
            self._number(network)
        self._artifacts: dict[tuple[Network, str, str, int], tuple[Path, dict[str, Any]] | RosettaError] = {}

    def _number(self, network: Network) -> int:
        return self._numbers.setdefault(network, len(self._numbers))

    def _file(self, network: Network, *words: object) -> Path:
        return self._folder / "-".join(map(str, (network.name, self._number(network), *words)))

    @functools.cached_property
    def _read(self) -> weights.WeightsFile | None:
        return weights.read(self._given) if self._given else None

    @functools.lru_cache(maxsize=1)  # noqa: B019 (it lives as long as the run)
    def _tensors(self, network: Network) -> dict[str, np.ndarray]:
        if self._read is None:
            return weights.initialize(network, "probe", seed=0)
        return {name: np.asarray(array, np.float32) for name, array in self._read.tensors.items()}

    def weights(self, network: Network) -> Path:
        """Return a file of float32 weights."""
        path = self._file(network, "weights.safetensors")
        if not path.exists():
            weights.write(path, network, self._tensors(network))
        return path

    def _batch(self, network: Network, batch: int) -> np.ndarray:
        """Return real images (batch, C, H, W) of float32: a larger batch begins with a smaller one's."""
        return real_batch(network, self._largest)[:batch].astype(np.float32)

    def images(self, network: Network, batch: int) -> Path:
        """Return a file of images (batch, C, H, W)."""
        return self._saved(self._file(network, batch, "images.npy"), lambda: self._batch(network, batch))

    def labels(self, network: Network, batch: int) -> Path:
        """Return a file of labels (batch,); any will do."""
        return self._saved(self._file(network, batch, "labels.npy"), lambda: self._labels(network, batch))

    def _labels(self, network: Network, batch: int) -> np.ndarray:
        return np.arange(batch, dtype=np.int64) % network.config.num_classes

    def expected(self, network: Network, mode: Mode, batch: int) -> Path:
        """Return a file of what the reference answers in float64: logits, or of training loss and largest logit."""
        answer = self._step if mode == "training" else self._logits
        return self._saved(self._file(network, mode, batch, "expected.npy"), lambda: answer(network, batch))

    def _logits(self, network: Network, batch: int) -> np.ndarray:
        path = self._file(network, "logits.npy")
        return np.load(self._saved(path, lambda: self._all_logits(network)))[:batch]

    def _all_logits(self, network: Network) -> np.ndarray:
        model = reference.build(network)
        reference.load(model, self._tensors(network))
        images = self._batch(network, self._largest).astype(np.float64)
        starts = range(0, self._largest, _AT_A_TIME)
        return np.concatenate([model(images[start : start + _AT_A_TIME]) for start in starts])

    def _step(self, network: Network, batch: int) -> np.ndarray:
        model = reference.build(network)
        reference.load(model, self._tensors(network))
        model.train()
        logits = model(self._batch(network, batch).astype(np.float64))
        loss = cross_entropy(logits, self._labels(network, batch))
        return np.array([loss, np.max(np.abs(logits))])

    @staticmethod
    def _saved(path: Path, make: Any) -> Path:
        if not path.exists():
            np.save(path, make())
        return path

    def artifact(self, network: Network, form: str, dtype: str, batch: int) -> tuple[Path, dict[str, Any]]:
        """Return an artifact and its manifest. Raises RosettaError, again each time, where it cannot be made."""
        key = network, form, dtype, batch
        if key not in self._artifacts:
            self._artifacts[key] = self._export(*key)
        found = self._artifacts[key]
        if isinstance(found, RosettaError):
            raise found
        return found

    def _export(self, network: Network, form: str, dtype: str, batch: int) -> Any:
        folder = self._file(network, form, dtype, batch)
        folder.mkdir()
        try:
            path, manifest = artifact(network, self.weights(network), form, dtype, batch, folder)
        except RosettaError as error:
            return error
        return path, manifest
