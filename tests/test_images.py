"""Real images: the digits, reading IDX, enlarging."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from common import catalog, images
from common.errors import InputError


def test_digits_have_the_properties_that_scikit_learn_documents() -> None:
    pictures, labels = images.digits()
    assert pictures.shape == (1797, 8, 8)
    # Class sizes and gray levels as scikit-learn documents the data set: about 180 a class, levels 0 to 16.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    levels = np.unique(pictures)
    np.testing.assert_array_equal(levels, np.rint(np.arange(17) * 255 / 16))
    # The first image, a zero, as scikit-learn's documentation prints it.
    first = [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0], [0, 3, 15, 2, 0, 11, 8, 0]]
    np.testing.assert_array_equal(np.rint(pictures[0, :3].astype(float) * 16 / 255), first)
    assert labels[0] == 0


def idx(shape: tuple[int, ...], data: bytes, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape) + data


def test_idx_files_are_read_compressed_or_not(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data in (idx((2, 3), bytes(range(6))), gzip.compress(idx((2, 3), bytes(range(6))))):
        path.write_bytes(data)
        np.testing.assert_array_equal(images.read_idx(path), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        b"not an IDX file",
        idx((2, 3), bytes(5)),
        idx((2, 3), bytes(7)),
        idx((2**32 - 1, 2**32 - 1, 2**32 - 1), b""),
        idx((2,), bytes(8), kind=0x0C),
        idx((2, 3), b"")[:7],
        gzip.compress(idx((2, 3), bytes(6)))[:-9],
    ],
)
def test_incomplete_or_other_files_are_rejected(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(InputError, match=str(path)):
        images.read_idx(path)


def test_enlarge_interpolates_between_pixel_centers() -> None:
    # Two pixels to four: centers at -0.25, 0.25, 0.75, 1.25 of the old ones, edges held.
    np.testing.assert_allclose(images.enlarge(np.array([[0.0, 4.0]]), (1, 4)), [[0, 1, 3, 4]])
    image = np.random.default_rng(0).random((8, 8))
    np.testing.assert_allclose(images.enlarge(image, (8, 8)), image, rtol=1e-15)
    # A plane stays a plane inside, at any size.
    ramp = np.add.outer(np.arange(8.0), 2 * np.arange(8.0))
    rows, columns = (np.arange(57) + 0.5) * 8 / 57 - 0.5, (np.arange(83) + 0.5) * 8 / 83 - 0.5
    inside = np.ix_((rows > 0) & (rows < 7), (columns > 0) & (columns < 7))
    np.testing.assert_allclose(images.enlarge(ramp, (57, 83))[inside], np.add.outer(rows, 2 * columns)[inside])


def test_batches_have_the_networks_shape_and_distinct_channels() -> None:
    network = catalog.get("resnet18", in_channels=3, input_size=[57, 83])
    for batch in (images.real_batch(network, 2), images.noise_batch(network, 2)):
        assert batch.shape == (2, 3, 57, 83)
        planes = batch.reshape(6, -1)
        assert all((planes[i] != planes[j]).any() for i in range(6) for j in range(i))
    assert images.real_batch(network, 2).min() >= 0
    assert images.real_batch(network, 2).max() <= 1
