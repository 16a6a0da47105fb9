"""Write the digits of this folder from scikit-learn's copy of the data set: `python common/digits/make.py`.

Needs scikit-learn; the project itself does not. The files are identical on every run.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write unsigned bytes in the IDX format of MNIST, compressed, without a time stamp."""
    magic = bytes([0, 0, 0x08, array.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(magic + sizes + array.astype(np.uint8).tobytes(), mtime=0))


def main() -> None:
    """Scale the images' 17 gray levels, 0 to 16, to bytes, 0 to 255, and write images and labels."""
    digits = load_digits()
    folder = Path(__file__).parent
    write_idx(folder / "digits-images-idx3-ubyte.gz", np.rint(digits.images * 255 / 16))
    write_idx(folder / "digits-labels-idx1-ubyte.gz", digits.target)


if __name__ == "__main__":
    main()
