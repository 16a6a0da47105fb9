"""Data sets by name or from a folder of images, read from disk batch by batch."""

from __future__ import annotations

import gzip
import io
import math
import os
import shutil
import struct
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import InputError, unknown
from common.files import atomic_writer, sha256_of
from common.images import digits, idx_header
from common.training.download import Progress, cache_folder, fetch, locked

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "DATASETS",
    "ArrayExamples",
    "Dataset",
    "Examples",
    "FileExamples",
    "open_dataset",
    "open_image",
    "permutation",
    "pixels",
]


@dataclass(frozen=True, eq=False)
class Examples(ABC):
    """Labeled images. `labels`: (N,) int64, each the index of a class."""

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, indices: np.ndarray) -> Sequence[np.ndarray] | np.ndarray:
        """Return the images at `indices` as bytes, each (H, W) for gray or (H, W, 3) for color."""


@dataclass(frozen=True, eq=False)
class ArrayExamples(Examples):
    """Gray images of one size in an array, (N, H, W) bytes, possibly memory-mapped."""

    pixels: np.ndarray

    def images(self, indices: np.ndarray) -> np.ndarray:
        return self.pixels[indices]


@dataclass(frozen=True, eq=False)
class FileExamples(Examples):
    """Image files of any size, read on access."""

    paths: tuple[str, ...]

    def images(self, indices: np.ndarray) -> list[np.ndarray]:
        return [open_image(Path(self.paths[i])) for i in indices]


@dataclass(frozen=True)
class Dataset:
    """Training and validation examples of the same classes.

    `mean` and `std`: of the training images' pixels in [0, 1], one number per channel: one for gray images, three for
    color.
    """

    name: str
    classes: tuple[str, ...]
    training: Examples
    validation: Examples
    mean: tuple[float, ...]
    std: tuple[float, ...]


_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@dataclass(frozen=True)
class _Source:
    """Four IDX files to download, in the order of `_IDX_FILES`, with their sizes and SHA-256, and their statistics."""

    urls: tuple[str, ...]
    sizes: tuple[int, ...]
    sha256: tuple[str, ...]
    classes: tuple[str, ...]
    mean: float
    std: float


# Sizes and SHA-256 are those that TensorFlow Datasets checks (tensorflow_datasets/url_checksums/fashion_mnist.txt and
# mnist.txt); means and deviations are those of the 60,000 training images.
_SOURCES: Mapping[str, _Source] = {
    "fashion_mnist": _Source(
        urls=(
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
        ),
        sizes=(26421880, 29515, 4422102, 5148),
        sha256=(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mean=0.2860,
        std=0.3530,
    ),
    "mnist": _Source(
        urls=("https://storage.googleapis.com/cvdf-datasets/mnist", "https://ossci-datasets.s3.amazonaws.com/mnist"),
        sizes=(9912422, 28881, 1648877, 4542),
        sha256=(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        classes=tuple("0123456789"),
        mean=0.1307,
        std=0.3081,
    ),
}

DATASETS = ("digits", *_SOURCES)
"""Data sets that have a name; any other is a folder."""

_IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
_MAX_PIXELS_PER_BYTE = 8 * 1032
"""One-bit pixels in a deflated file: deflate compresses at most 1032 to 1."""
_SAMPLE = 1000  # images of a folder whose mean and standard deviation are computed


def permutation(n: int, *entropy: int) -> np.ndarray:
    """Return a permutation of 0 .. n - 1 that is the same in every version of NumPy.

    NumPy guarantees a bit generator's raw numbers across versions, but not the result of Generator.permutation.
    """
    raw = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(n)
    return np.argsort(raw, kind="stable")


def open_dataset(
    data: str, *, data_dir: Path | None = None, seed: int = 0, progress: Progress | None = None
) -> Dataset:
    """Open a data set by its name, or from a folder.

    digits: included in rosetta. fashion_mnist, mnist: four IDX files from `data_dir`, or downloaded, with calls of
    `progress`. A folder: one subfolder of images per class, or train/ and val/ (or validation/ or test/) with such
    subfolders. Without a given split, a random fifth, chosen by `seed`, is for validation. Raises InputError for a
    missing or damaged file.
    """
    if data == "digits":
        images, labels = digits()
        labels = labels.astype(np.int64)
        training, validation = (ArrayExamples(labels[part], images[part]) for part in _split(len(images), seed))
        mean, std = _statistics(training.pixels)
        return Dataset(data, tuple("0123456789"), training, validation, mean, std)
    if data in _SOURCES:
        return _open_idx_dataset(data, _SOURCES[data], data_dir, progress)
    if not Path(data).is_dir():
        raise InputError(f"{unknown('data set or folder', data, DATASETS)}")
    return _open_folder(Path(data), seed)


def _split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted indices of the training examples and of the fifth held out for validation."""
    shuffled = permutation(n, seed, 0)
    held_out = max(1, round(n / 5))
    return np.sort(shuffled[held_out:]), np.sort(shuffled[:held_out])


def _statistics(images: Iterable[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel in [0, 1], with the same weight for every image.

    Sums are of integers, so the result does not depend on the order of addition.
    """
    level = np.arange(256)
    counts = [
        [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(np.atleast_3d(image), 2, 0)]
        for image in images
    ]
    channels = max(len(image) for image in counts)
    mean, std = [], []
    for c in range(channels):
        of_channel = [image[c % len(image)] for image in counts]
        first = math.fsum(int(count @ level) / int(count.sum()) for count in of_channel) / len(counts)
        second = math.fsum(int(count @ level**2) / int(count.sum()) for count in of_channel) / len(counts)
        mean.append(first / 255)
        std.append(math.sqrt(max(second - first**2, 0)) / 255 or 1.0)  # for blank images, divide by 1
    return tuple(mean), tuple(std)


def _open_idx_dataset(name: str, source: _Source, data_dir: Path | None, progress: Progress | None) -> Dataset:
    if data_dir is None:
        folder = cache_folder() / name
        paths = [
            fetch(file, [f"{url}/{file}" for url in source.urls], sha256, size, folder, progress)
            for file, sha256, size in zip(_IDX_FILES, source.sha256, source.sizes, strict=True)
        ]
    else:
        paths = _find_idx(data_dir, source)
    training = _open_idx(paths[0], paths[1], len(source.classes))
    validation = _open_idx(paths[2], paths[3], len(source.classes))
    return Dataset(name, source.classes, training, validation, (source.mean,), (source.std,))


def _find_idx(folder: Path, source: _Source) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    paths = []
    for name in _IDX_FILES:
        candidates = (folder / name.removesuffix(".gz"), folder / name)
        paths.append(next((path for path in candidates if path.is_file()), candidates[1]))
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        where = f"{source.urls[0]}/{missing[0]}"
        raise InputError(f"{folder} lacks {', '.join(missing)}, with .gz or without; for the first, see {where}")
    return paths


def _open_idx(images_path: Path, labels_path: Path, classes: int) -> ArrayExamples:
    images, labels = _map_idx(images_path, 3), _map_idx(labels_path, 1)
    if len(images) != len(labels):
        raise InputError(f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels")
    if labels.max() >= classes:
        wrong = int(np.argmax(labels >= classes))
        raise InputError(f"{labels_path}: label {wrong} is {labels[wrong]}; labels go from 0 to {classes - 1}")
    return ArrayExamples(labels.astype(np.int64), images)


def _map_idx(path: Path, rank: int) -> np.ndarray:
    """Return the array of an IDX file, memory-mapped; a compressed file is first unpacked into the cache.

    Raises InputError where the file has another rank, is incomplete or is empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(2)
        return _map(path, _unpacked(path, rank) if head[:2] == b"\x1f\x8b" else path, rank)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _check_shape(path: Path, shape: tuple[int, ...], rank: int) -> None:
    if len(shape) != rank:
        form = {1: "labels, of rank 1", 3: "images, of rank 3"}[rank]
        raise InputError(f"{path}: must be an IDX file of {form}; its header says shape {shape}")
    if 0 in shape:
        raise InputError(f"{path}: is empty; its header says shape {shape}")


def _map(given: Path, path: Path, rank: int) -> np.ndarray:
    with path.open("rb") as file:
        start, shape = idx_header(given, file.read(1024))
    _check_shape(given, shape, rank)
    size, whole = path.stat().st_size, start + math.prod(shape)
    if size != whole:
        raise InputError(f"{given}: holds {size} bytes; its header, shape {shape}, makes {whole}")
    return np.memmap(path, np.uint8, "r", offset=start, shape=shape)


def _unpacked(path: Path, rank: int) -> Path:
    """Return the path of an uncompressed copy of an IDX file in the cache, named by the hash of its content.

    Writes at most as many bytes as the header promises. Raises InputError where the file is incomplete or the disk is
    full.
    """
    copy = cache_folder() / "unpacked" / f"{path.stem}.{sha256_of(path)[:16]}"
    with gzip.open(path) as stream:
        head = _read(path, stream, 1024)
        start, shape = idx_header(path, head)
        _check_shape(path, shape, rank)
        whole = start + math.prod(shape)
        if _is_of_size(copy, whole):
            return copy
        with locked(copy):
            if _is_of_size(copy, whole):  # unpacked by another process meanwhile
                return copy
            free = shutil.disk_usage(copy.parent).free
            if whole > free:
                raise InputError(
                    f"{path}: takes {whole} bytes unpacked, and {copy.parent} has {free}; "
                    f"name another folder in ROSETTA_DATA"
                )
            with atomic_writer(copy, durable=False) as file:
                done, chunk = 0, head
                while chunk:
                    done += len(chunk)
                    if done > whole:
                        break
                    file.write(chunk)
                    chunk = _read(path, stream, 1 << 20)
                if done != whole:
                    amount = "more" if done > whole else str(done)
                    raise InputError(f"{path}: holds {amount} bytes; its header, shape {shape}, makes {whole}")
    return copy


def _is_of_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _read(path: Path, stream: gzip.GzipFile, size: int) -> bytes:
    try:
        return stream.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _visible(folder: Path, folders: bool) -> list[str]:
    """Return the sorted names of the folders, or of the images, in `folder`, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.is_dir() if folders else entry.name.lower().endswith(_IMAGE_SUFFIXES))
            )
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None


def _open_folder(folder: Path, seed: int) -> Dataset:
    inside = _visible(folder, folders=True)
    held = next((name for name in ("val", "validation", "test") if name in inside), None)
    if "train" in inside and held:
        classes, training = _scan(folder / "train")
        others, validation = _scan(folder / held)
        if classes != others:
            differing = sorted(set(classes) ^ set(others))
            raise InputError(
                f"{folder}: train and {held} must have the same classes; only one has {', '.join(differing)}"
            )
    else:
        classes, whole = _scan(folder)
        if len(whole) < 2:
            raise InputError(f"{folder}: has one image; training and validation need at least one each")
        training, validation = (
            FileExamples(whole.labels[part], tuple(whole.paths[i] for i in part)) for part in _split(len(whole), seed)
        )
    sample = np.unique(np.linspace(0, len(training) - 1, _SAMPLE).astype(int))
    statistics = _statistics(training.images(sample[i : i + 1])[0] for i in range(len(sample)))
    return Dataset(folder.resolve().name, classes, training, validation, *statistics)


def _scan(folder: Path) -> tuple[tuple[str, ...], FileExamples]:
    classes = _visible(folder, folders=True)
    images = [_visible(folder / name, folders=False) for name in classes]
    if not classes:
        raise InputError(f"{folder}: has no folders; it needs one with .png or .jpg images for each class")
    if empty := [name for name, files in zip(classes, images, strict=True) if not files]:
        raise InputError(f"{folder}: no .png, .jpg or .jpeg images in {', '.join(empty)}")
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in images])
    paths = tuple(
        os.path.join(folder, name, file) for name, files in zip(classes, images, strict=True) for file in files
    )
    return tuple(classes), FileExamples(labels.astype(np.int64), paths)


def pixels(image: Image.Image) -> np.ndarray:
    """Return an image's bytes, (H, W) for gray or (H, W, 3) for color, without transparency."""
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip at 255
        return np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of partly transparent palettes
    return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def open_image(path: Path) -> np.ndarray:
    """Read a PNG or JPEG file and rotate it as its EXIF data say: bytes, (H, W) for gray or (H, W, 3) for color.

    Raises InputError for a file that is missing, damaged, of another format or has too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    warnings.simplefilter("error", Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # partly damaged EXIF data
    try:
        # Read the bytes here: from an open file, Pillow would read as much as a PNG chunk claims to hold.
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS_PER_BYTE * len(data):
                raise ValueError(f"its {len(data)} bytes cannot hold the {width}x{height} pixels that its header says")
            return pixels(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{path}: larger than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller first") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a PNG or JPEG image") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
