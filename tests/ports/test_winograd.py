"""Winograd's convolution in torch: the definition's numbers from fewer products, and only where that is meant."""

from __future__ import annotations

import numpy as np
import pytest

from common import catalog, images, reference, weights
from common.parity.tolerances import Limits


@pytest.fixture(scope="module", autouse=True)
def _only_torch(backend_name: str, backend) -> None:
    if backend_name != "torch":
        pytest.skip("only torch has Winograd's convolution")


def by_definition(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(N, C, H, W), (D, C, 3, 3), (D,) -> (N, D, H, W): every product, in float64."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,dcij->ndhw", windows, kernel) + bias[:, None, None]


SHAPES = [
    # batch, height, width, channels in and out, side of a tile: the longest of which there are 32
    (8, 8, 8, 128, 128, 4),
    (2, 13, 19, 128, 131, 4),  # the last tiles are 1 and 3 pixels wide
    (33, 1, 2, 130, 128, 4),
    (1, 21, 24, 64, 67, 4),
    (4, 7, 7, 128, 128, 2),
    (1, 11, 15, 70, 64, 2),
    (1, 7, 7, 128, 128, 1),
    (1, 3, 5, 128, 128, 1),
]


@pytest.mark.port
@pytest.mark.parametrize(("batch", "height", "width", "given", "made", "side"), SHAPES)
def test_it_is_the_definition(batch: int, height: int, width: int, given: int, made: int, side: int) -> None:
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    from torch_impl.winograd import WinogradConv2d

    numbers = np.random.default_rng(0)
    x = numbers.standard_normal((batch, given, height, width))
    kernel, bias = numbers.standard_normal((made, given, 3, 3)), numbers.standard_normal(made)
    conv = nn.Conv2d(given, made, 3, padding=1, dtype=torch.float64)
    conv.load_state_dict({"weight": torch.from_numpy(kernel), "bias": torch.from_numpy(bias)})
    assert WinogradConv2d.suits(conv)
    layer = WinogradConv2d(conv)
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        found = layer(torch.from_numpy(x)).numpy()
    # For each pair of channels a tile takes as many products as it has pixels, and so does the definition.
    tiles = batch * -(-height // side) * -(-width // side)
    operations = counted.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert operations == 2 * tiles * (side + 2) ** 2 * given * made
    expected = by_definition(x, kernel, bias)
    # Lavin and Gray's transforms cost it a digit or two of the sixteen.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.port
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
def test_no_other_convolution_suits(changed: dict[str, int]) -> None:
    from torch import nn

    from torch_impl.winograd import WinogradConv2d

    plain = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1}
    assert WinogradConv2d.suits(nn.Conv2d(**plain))
    assert not WinogradConv2d.suits(nn.Conv2d(**{**plain, **changed}))


@pytest.mark.port
@pytest.mark.parametrize(("dtype", "batches"), [("float64", (6, 1)), ("float32", (6, 2, 1))])
def test_a_network_with_it_answers_as_the_reference(dtype: str, batches: tuple[int, ...]) -> None:
    from torch_impl import deploy

    network = catalog.get("resnet", arch=[[1, 128]], input_size=[33, 38], in_channels=2)
    tensors = weights.initialize(network, "probe", 3, dtype)
    session = deploy.session(network, tensors, "torch-winograd", "cpu")
    truth = reference.build(network)
    reference.load(truth, {name: array.astype("float64") for name, array in tensors.items()})
    # Nine tiles an image, or 25 smaller ones: 54, 50, and 25, which is too few.
    for batch in batches:
        x = images.noise_batch(network, batch, 5).astype(dtype)
        found, expected = session.logits(session.run(session.prepare(x))), truth(x.astype("float64"))
        assert found.dtype == np.dtype(dtype)
        error = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
        assert error <= Limits("forward", network, batch).tap("logits", dtype).tolerance
