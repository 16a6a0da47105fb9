"""Images as arrays: reading IDX files, enlarging, and the batches that parity runs on."""

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
    """Return where the data of an IDX file of unsigned bytes starts, and their shape.

    `head` is how the file begins: at least 1024 bytes, or all of it. Raises InputError where it is no such header.
    """
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UNSIGNED_BYTE:
        raise InputError(f"{path}: not an IDX file of unsigned bytes")
    start = 4 + 4 * head[3]
    if len(head) < start:
        raise InputError(f"{path}: holds {len(head)} bytes; its header alone, of rank {head[3]}, takes {start}")
    return start, tuple(int.from_bytes(head[i : i + 4], "big") for i in range(4, start, 4))


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes (the format of MNIST), gzip-compressed or not.

    Raises InputError where the file is not one, or is not whole.
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
            f"{path}: holds {len(data)} bytes; its header, shape {shape}, makes {start + math.prod(shape)}"
        )
    try:
        return np.frombuffer(data, np.uint8)[start:].reshape(shape)
    except ValueError:  # too many axes, or an empty array with one that is too long
        raise InputError(f"{path}: its header says shape {shape}, which no array can have") from None


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits that come with rosetta: images (1797, 8, 8) of bytes, labels (1797,)."""
    images = read_idx(_DIGITS / "digits-images-idx3-ubyte.gz")
    return images, read_idx(_DIGITS / "digits-labels-idx1-ubyte.gz")


def interpolation(pixels: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of `size` new pixels its left and its right neighbor among `pixels`, and the right one's share.

    Linear between pixel centers, edges held: new = (1 - share) * old[left] + share * old[right].
    """
    centers = (np.arange(size) + 0.5) * pixels / size - 0.5
    centers = np.clip(centers, 0, pixels - 1)
    left = np.floor(centers).astype(int)
    right = np.minimum(left + 1, pixels - 1)
    return left, right, centers - left


def _matrix(pixels: int, size: int) -> np.ndarray:
    """Return the (size, pixels) matrix that interpolates."""
    left, right, share = interpolation(pixels, size)
    matrix = np.zeros((size, pixels))
    np.add.at(matrix, (np.arange(size), left), 1 - share)
    np.add.at(matrix, (np.arange(size), right), share)
    return matrix


def enlarge(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize images bilinearly, pixel centers aligned: (..., H, W) -> (..., *size), in float64."""
    height, width = images.shape[-2:]
    return _matrix(height, size[0]) @ images @ _matrix(width, size[1]).T


def real_batch(network: Network, batch: int, seed: int = 0) -> np.ndarray:
    """Return digits as an input of `network`, (batch, C, H, W) in [0, 1].

    Each channel of an example is another digit: a repeated one would hide channels that changed places.
    """
    images, _ = digits()
    channels, *size = network.input_shape
    chosen = np.random.default_rng(seed).choice(len(images), batch * channels, replace=batch * channels > len(images))
    return enlarge(images[chosen] / 255, (size[0], size[1])).reshape(batch, channels, *size)


def noise_batch(network: Network, batch: int, seed: int = 0) -> np.ndarray:
    """Return standard normal noise as an input of `network`, (batch, C, H, W): no edge of it is smooth."""
    return np.random.default_rng(seed).standard_normal((batch, *network.input_shape))
