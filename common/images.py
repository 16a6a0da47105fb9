"""Images as arrays: IDX files, bilinear resizing, and the input batches of parity checks."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from common.catalog import Network
from common.errors import InputError

__all__ = ["digits", "enlarge", "idx_header", "interpolation", "noise_batch", "read_idx", "real_batch"]

_DIGITS = Path(__file__).parent / "digits"
_UNSIGNED_BYTE = 0x08


def idx_header(path: Path, head: bytes) -> tuple[int, tuple[int, ...]]:
    """Return the offset and the shape of the data in an IDX file of unsigned bytes.

    `head` is the first 1024 bytes or more of the file, or all of it. Raises InputError for any other header.
    """
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UNSIGNED_BYTE:
        raise InputError(f"{path}: not an IDX file of unsigned bytes")
    start = 4 + 4 * head[3]
    if len(head) < start:
        raise InputError(f"{path}: has {len(head)} bytes; its header alone, of rank {head[3]}, needs {start}")
    return start, tuple(int.from_bytes(head[i : i + 4], "big") for i in range(4, start, 4))


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes (the format of MNIST), gzip-compressed or not.

    Raises InputError if the file has another format or is incomplete.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    start, shape = idx_header(path, data[:1024])
    if len(data) - start != math.prod(shape):
        raise InputError(
            f"{path}: has {len(data)} bytes; expected {start + math.prod(shape)} from its header, shape {shape}"
        )
    try:
        return np.frombuffer(data, np.uint8)[start:].reshape(shape)
    except ValueError:  # too many axes, or an empty array with an axis that is too long
        raise InputError(f"{path}: its header has shape {shape}, which no array can have") from None


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the bundled digits: images (1797, 8, 8) of bytes, labels (1797,)."""
    images = read_idx(_DIGITS / "digits-images-idx3-ubyte.gz")
    return images, read_idx(_DIGITS / "digits-labels-idx1-ubyte.gz")


def interpolation(pixels: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the left neighbors, right neighbors and right weights for linear resizing from `pixels` to `size` pixels.

    Linear between pixel centers, constant beyond the outer ones: new = (1 - share) * old[left] + share * old[right].
    """
    centers = (np.arange(size) + 0.5) * pixels / size - 0.5
    centers = np.clip(centers, 0, pixels - 1)
    left = np.floor(centers).astype(int)
    right = np.minimum(left + 1, pixels - 1)
    return left, right, centers - left


def _matrix(pixels: int, size: int) -> np.ndarray:
    """Return the interpolation as a (size, pixels) matrix."""
    left, right, share = interpolation(pixels, size)
    matrix = np.zeros((size, pixels))
    np.add.at(matrix, (np.arange(size), left), 1 - share)
    np.add.at(matrix, (np.arange(size), right), share)
    return matrix


def enlarge(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize images bilinearly with aligned pixel centers: (..., H, W) -> (..., *size), in float64."""
    height, width = images.shape[-2:]
    return _matrix(height, size[0]) @ images @ _matrix(width, size[1]).T


def real_batch(network: Network, batch: int, seed: int = 0) -> np.ndarray:
    """Return digits as an input of `network`, (batch, C, H, W) in [0, 1].

    Each channel of an example is another digit, since equal channels would hide exchanged ones.
    """
    images, _ = digits()
    channels, *size = network.input_shape
    chosen = np.random.default_rng(seed).choice(len(images), batch * channels, replace=batch * channels > len(images))
    return enlarge(images[chosen] / 255, (size[0], size[1])).reshape(batch, channels, *size)


def noise_batch(network: Network, batch: int, seed: int = 0) -> np.ndarray:
    """Return standard normal noise as an input of `network`, (batch, C, H, W)."""
    return np.random.default_rng(seed).standard_normal((batch, *network.input_shape))
