"""Batches of prepared images, loaded ahead of time in a background thread.

The contents of a batch depend only on the seed, the epoch and the position within the epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import ConfigError, InputError
from common.images import interpolation
from common.training.datasets import Examples, permutation, pixels

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Batch", "Batches", "order", "prepare"]

_ORDER, _AUGMENTATION = 1, 2
"""Separate random streams for the order of examples and for augmentation."""
_AHEAD = 3
"""Batches to prepare ahead."""
_LUMA = (0.299, 0.587, 0.114)  # Recommendation ITU-R BT.601


@dataclass(frozen=True, eq=False)
class Batch:
    """`images` (N, C, H, W), ready for the network; `labels` (N,) int64; `indices` (N,) of the examples."""

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the shuffled order of n examples in an epoch, (n,)."""
    return permutation(n, seed, epoch, _ORDER)


class Batches:
    """The batches of each epoch, (N, C, H, W) of `dtype`, with (C, H, W) = `input_shape`.

    Each image is flipped with probability 1/2 (`flip`), shifted by up to `crop` pixels in each direction with black
    borders, normalized by `mean` and `std` (one number for each channel of the data), and resized. `drop_last`: leave
    out an incomplete last batch. Raises ConfigError for numbers out of range.
    """

    def __init__(
        self,
        examples: Examples,
        input_shape: tuple[int, int, int],
        batch_size: int,
        *,
        dtype: np.dtype | type | str,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        flip: bool = False,
        crop: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"`batch_size` (={batch_size}) must be at least 1")
        if drop_last and batch_size > len(examples):
            raise ConfigError(
                f"{len(examples)} training images do not fill a batch of {batch_size}; use --batch-size "
                f"{len(examples)} or less"
            )
        if crop < 0:
            raise ConfigError(f"`crop` (={crop}) must be a number of pixels, 0 or more")
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.flip, self.crop, self.shuffle, self.drop_last = flip, crop, shuffle, drop_last
        self._ready = _Preparation(input_shape, mean, std, dtype)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return (len(self.examples) + (0 if self.drop_last else self.batch_size - 1)) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch from number `start` on, prepared ahead in a background thread.

        Closing the iterator ends the thread. An error in preparing a batch is raised in place of that batch.
        """
        if not 0 <= start <= len(self):
            raise ConfigError(f"`start` (={start}) must be from 0 to {len(self)}, the batches of an epoch")
        return self._prepared(epoch, start)

    def _prepared(self, epoch: int, start: int) -> Iterator[Batch]:
        n = len(self.examples)
        sequence = order(n, self.seed, epoch) if self.shuffle else np.arange(n)
        draws = self._draws(epoch)
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            try:
                for b in range(start, len(self) + _AHEAD):
                    if b < len(self):
                        indices = sequence[b * self.batch_size : (b + 1) * self.batch_size]
                        waiting.append(thread.submit(self._batch, indices, draws))
                    if b >= start + _AHEAD:
                        yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _draws(self, epoch: int) -> np.ndarray:
        """Return random 64-bit numbers for each example, (3, N): for the flip, the vertical and horizontal shift."""
        count = len(self.examples) if self.flip or self.crop else 0
        generator = np.random.PCG64(np.random.SeedSequence((self.seed, epoch, _AUGMENTATION)))
        return generator.random_raw((3, count))

    def _batch(self, indices: np.ndarray, draws: np.ndarray) -> Batch:
        images = self.examples.images(indices)
        augmented = self.flip or self.crop > 0
        shapes = {image.shape for image in images}
        if len(shapes) == 1:
            stack = np.stack(images) if isinstance(images, list) else np.asarray(images)
            ready = self._ready(self._augmented(stack, draws[:, indices]) if augmented else stack)
        else:
            ready = np.concatenate(
                [
                    self._ready(self._augmented(image[None], draws[:, i : i + 1]) if augmented else image[None])
                    for i, image in zip(indices, images, strict=True)
                ]
            )
        return Batch(ready, self.examples.labels[indices], indices)

    def _augmented(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Flip, then shift: bytes (N, H, W) or (N, H, W, 3), with a column of `draws` for each image."""
        flipped, down, right = draws
        if self.flip:
            images = images.copy()
            chosen = (flipped >> np.uint64(63)).astype(bool)
            images[chosen] = images[chosen, :, ::-1]
        if self.crop:
            height, width = images.shape[1:3]
            edge = (self.crop, self.crop)
            padded = np.pad(images, ((0, 0), edge, edge, (0, 0))[: images.ndim])
            images = np.empty_like(images)
            places = np.uint64(2 * self.crop + 1)
            for i, (y, x) in enumerate(zip((down % places).tolist(), (right % places).tolist(), strict=True)):
                images[i] = padded[i, y : y + height, x : x + width]
        return images


def prepare(
    image: np.ndarray | Image.Image,
    input_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: np.dtype | type | str,
) -> np.ndarray:
    """Convert one image, bytes (H, W) or (H, W, 3) or a Pillow image, to network input, (C, H, W) of `dtype`.

    Raises InputError for an array of another form, ConfigError for color images and a network of another number of
    channels than 1 or 3.
    """
    array = image if isinstance(image, np.ndarray) else pixels(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
        raise InputError(f"an image must be bytes, (H, W) or (H, W, 3); this is {array.dtype}, {array.shape}")
    return _Preparation(input_shape, mean, std, dtype)(array[None])[0]


class _Preparation:
    """Scale bytes to [0, 1], convert to the data's channels, normalize, resize, convert to the network's channels.

    Normalization and resizing commute, since both are linear and the interpolation weights of each pixel sum to one;
    so the larger images come last. Everything is elementwise: matrix products round differently on other machines.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        mean: Sequence[float],
        std: Sequence[float],
        dtype: np.dtype | type | str,
    ) -> None:
        self.channels, *self.size = input_shape
        self.color, self.dtype = len(mean) == 3, np.dtype(dtype)
        if self.color and self.channels == 1:
            # Statistics of the gray image, if the color channels are fully correlated, as they nearly are in photos.
            mean, std = ([sum(w * x for w, x in zip(_LUMA, values, strict=True))] for values in (mean, std))
            self.color = False
        if self.color and self.channels != 3:
            raise ConfigError(f"images in color need a network of 1 or 3 input channels, not {self.channels}")
        self.mean, self.std = (np.array(values, self.dtype)[:, None] for values in (mean, std))
        # A lookup table from byte to normalized value, by channel: four times as fast as arithmetic on each pixel.
        self.normalized = (np.arange(256, dtype=self.dtype) / 255 - self.mean) / self.std

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Prepare bytes: (N, H, W) or (N, H, W, 3) -> (N, C, *size)."""
        resized = list(images.shape[1:3]) != self.size
        rows, columns = (_neighbors(old, new) for old, new in zip(images.shape[1:3], self.size, strict=True))
        for axis, neighbors in ((1, rows), (2, columns)):
            if len(neighbors.used) < images.shape[axis]:
                images = np.take(images, neighbors.used, axis)
        if images.ndim == 3 or self.color:
            x = np.empty((len(images), len(self.normalized), *images.shape[1:3]), self.dtype)
            for channel, values in enumerate(self.normalized):
                np.take(values, images if images.ndim == 3 else images[..., channel], out=x[:, channel], mode="clip")
        else:
            shares = images.astype(self.dtype) / 255
            red, green, blue = (shares[..., c] * np.array(weight, self.dtype) for c, weight in enumerate(_LUMA))
            x = ((red + green + blue)[:, None] - self.mean[0]) / self.std[0]
        n, channels = x.shape[:2]
        if resized:
            x = _interpolated(x.reshape(n * channels, *x.shape[2:]), rows, columns).reshape(n, channels, *self.size)
        return x if channels == self.channels else np.repeat(x, self.channels, 1)


class _Neighbors(NamedTuple):
    """Interpolation along one axis.

    `used`: the old pixels that count; `left`, `right`: the neighbors of each new pixel, as positions in `used`;
    `share`: the weight of the right neighbor.
    """

    used: np.ndarray
    left: np.ndarray
    right: np.ndarray
    share: np.ndarray


@lru_cache(256)
def _neighbors(old: int, new: int) -> _Neighbors:
    left, right, share = interpolation(old, new)
    used = np.union1d(left, right)  # shrinking skips some pixels
    return _Neighbors(used, np.searchsorted(used, left), np.searchsorted(used, right), share)


def _interpolated(planes: np.ndarray, rows: _Neighbors, columns: _Neighbors) -> np.ndarray:
    """Interpolate, first along columns, then along rows: (N, h, w) -> (N, H, W)."""
    # The gathered axis comes first, or rows are gathered, so that copies are of contiguous memory.
    across = np.ascontiguousarray(planes.transpose(2, 0, 1))
    left, right = np.take(across, columns.left, 0), np.take(across, columns.right, 0)
    right -= left
    right *= columns.share.astype(planes.dtype)[:, None, None]
    wide = np.ascontiguousarray((left + right).transpose(1, 2, 0))
    share = rows.share.astype(planes.dtype)[:, None]
    new = np.empty((len(planes), len(rows.left), len(columns.left)), planes.dtype)
    lower = np.empty(new.shape[1:], planes.dtype)
    for plane, result in zip(wide, new, strict=True):
        # One plane at a time stays in the processor's cache; mode "clip" lets `take` write without a copy.
        np.take(plane, rows.left, 0, result, "clip")
        np.take(plane, rows.right, 0, lower, "clip")
        lower -= result
        lower *= share
        np.add(result, lower, out=result)
    return new
