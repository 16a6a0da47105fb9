"""Compare the first version of the Flax port with PyTorch's network: `python examples/squeezenet/first_try.py`."""

from __future__ import annotations

from ports import FLAX_FIRST_TRY, IMAGES, LABELS, TORCH

from common.testing import compare, table

if __name__ == "__main__":
    print(table(compare(TORCH, FLAX_FIRST_TRY, IMAGES, LABELS, name="squeezenet")))
