"""Winograd's convolution in torch: it agrees with the definition and takes fewer products."""

from __future__ import annotations

import numpy as np
import pytest

from common import catalog, images, reference, weights
from common.parity.tolerances import Limits

pytestmark = [pytest.mark.port("torch"), pytest.mark.usefixtures("backend")]


def convolve_by_definition(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Convolve with padding 1 in float64: (N, C, H, W), (D, C, 3, 3), (D,) -> (N, D, H, W)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,dcij->ndhw", windows, kernel) + bias[:, None, None]


SHAPES = [
    # batch, height, width, in_channels, out_channels, side of a tile: the largest that gives 32 tiles
    (8, 8, 8, 128, 128, 4),
    (2, 13, 19, 128, 131, 4),  # the last tiles are 1 and 3 pixels wide
    (33, 1, 2, 130, 128, 4),
    (1, 21, 24, 64, 67, 4),
    (4, 7, 7, 128, 128, 2),
    (1, 11, 15, 70, 64, 2),
    (1, 7, 7, 128, 128, 1),
    (1, 3, 5, 128, 128, 1),
]


@pytest.mark.parametrize(("batch", "height", "width", "in_channels", "out_channels", "side"), SHAPES)
def test_it_computes_the_definition_with_fewer_products(
    batch: int, height: int, width: int, in_channels: int, out_channels: int, side: int
) -> None:
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    from torch_impl.winograd import WinogradConv2d

    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, in_channels, height, width))
    kernel, bias = rng.standard_normal((out_channels, in_channels, 3, 3)), rng.standard_normal(out_channels)
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, dtype=torch.float64)
    conv.load_state_dict({"weight": torch.from_numpy(kernel), "bias": torch.from_numpy(bias)})
    assert WinogradConv2d.applies_to(conv)
    layer = WinogradConv2d(conv)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        output = layer(torch.from_numpy(x)).numpy()
    # For each pair of channels, a tile takes one product for each of its pixels. With one output to a tile that is the
    # definition.
    tiles = batch * -(-height // side) * -(-width // side)
    operations = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert operations == 2 * tiles * (side + 2) ** 2 * in_channels * out_channels
    expected = convolve_by_definition(x, kernel, bias)
    # The transforms lose one or two of the sixteen digits.
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel_size": 1, "padding": 0},
        {"kernel_size": 5},
        {"stride": 2},
        {"padding": 0},
        {"dilation": 2},
        {"groups": 2},
        {"in_channels": 63},
        {"out_channels": 63},
    ],
    ids=str,
)
def test_it_applies_to_no_other_convolution(changed: dict[str, int]) -> None:
    from torch import nn

    from torch_impl.winograd import WinogradConv2d

    suitable = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1}
    assert WinogradConv2d.applies_to(nn.Conv2d(**suitable))
    assert not WinogradConv2d.applies_to(nn.Conv2d(**{**suitable, **changed}))


@pytest.mark.parametrize(("dtype", "batches"), [("float64", (6, 1)), ("float32", (6, 2, 1))])
def test_a_network_with_it_agrees_with_the_reference(dtype: str, batches: tuple[int, ...]) -> None:
    from torch_impl import deploy

    network = catalog.get("resnet", arch=[[1, 128]], input_size=[33, 38], in_channels=2)
    tensors = weights.initialize(network, "probe", 3, dtype)
    session = deploy.session(network, tensors, "torch-winograd", "cpu")
    truth = reference.build(network)
    reference.load(truth, {name: array.astype("float64") for name, array in tensors.items()})
    # 9 tiles of 4x4 an image, or 25 of 2x2. The batches give 54 of 4x4, 50 of 2x2, and 25, which are too few.
    for batch in batches:
        x = images.noise_batch(network, batch, 5).astype(dtype)
        logits, expected = session.logits(session.run(session.prepare(x))), truth(x.astype("float64"))
        assert logits.dtype == np.dtype(dtype)
        error = np.max(np.abs(logits - expected)) / np.max(np.abs(expected))
        assert error <= Limits("forward", network, batch).tap("logits", dtype).tolerance
