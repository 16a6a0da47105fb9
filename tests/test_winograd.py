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
    # batch, height, width, channels in and out, whether there are tiles enough
    (8, 8, 8, 128, 128, True),
    (2, 13, 19, 128, 131, True),  # the last tiles are 1 and 3 pixels wide
    (33, 1, 2, 130, 128, True),
    (1, 21, 24, 64, 67, True),
    (4, 7, 7, 128, 128, False),
    (1, 3, 5, 128, 128, False),
]


@pytest.mark.port
@pytest.mark.parametrize(("batch", "height", "width", "given", "made", "enough"), SHAPES)
def test_it_is_the_definition(
    batch: int, height: int, width: int, given: int, made: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch import nn

    from torch_impl.layers import WinogradConv2d

    numbers = np.random.default_rng(0)
    x = numbers.standard_normal((batch, given, height, width))
    kernel, bias = numbers.standard_normal((made, given, 3, 3)), numbers.standard_normal(made)
    conv = nn.Conv2d(given, made, 3, padding=1, dtype=torch.float64)
    conv.load_state_dict({"weight": torch.from_numpy(kernel), "bias": torch.from_numpy(bias)})
    assert WinogradConv2d.suits(conv)
    layer = WinogradConv2d(conv)
    multiplied = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (multiplied.append(self), plain(self, x))[1])
    with torch.inference_mode():
        found = layer(torch.from_numpy(x)).numpy()
    assert bool(multiplied) != enough
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

    from torch_impl.layers import WinogradConv2d

    plain = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1}
    assert WinogradConv2d.suits(nn.Conv2d(**plain))
    assert not WinogradConv2d.suits(nn.Conv2d(**{**plain, **changed}))


@pytest.mark.port
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_network_with_it_answers_as_the_reference(dtype: str) -> None:
    from torch_impl import deploy

    network = catalog.get("resnet", arch=[[2, 128]], input_size=[33, 38], in_channels=2)
    tensors = weights.initialise(network, "probe", 3, dtype)
    session = deploy.session(network, tensors, "torch-winograd", "cpu")
    truth = reference.build(network)
    reference.load(truth, {name: array.astype("float64") for name, array in tensors.items()})
    # Six tiles an image: 36 of them, and 12, which are multiplied out.
    for batch in (6, 2):
        x = images.noise_batch(network, batch, 5).astype(dtype)
        found, expected = session.logits(session.run(session.prepare(x))), truth(x.astype("float64"))
        assert found.dtype == np.dtype(dtype)
        error = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
        assert error <= Limits("forward", network, batch).tap("logits", dtype).tolerance
