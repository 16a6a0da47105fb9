"""The JAX port's grouped convolution for CPUs, compared with the definition in both directions."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

pytestmark = [pytest.mark.port("jax"), pytest.mark.usefixtures("backend")]

CASES = [
    # groups, input and output channels of a group, kernel, stride, padding, image
    (5, 16, 16, 3, 1, 1, (7, 10)),  # regnetx32: two groups at once, one left over
    (2, 16, 16, 3, 2, 1, (9, 6)),
    (8, 4, 4, 3, 1, 1, (5, 5)),  # resnext
    (3, 40, 40, 3, 2, 1, (6, 7)),  # too wide for several groups at once
    (3, 1, 2, 3, 1, 0, (5, 4)),  # depthwise, two output channels each
    (4, 6, 3, 1, 2, 0, (5, 8)),
    (3, 2, 5, 5, 3, 2, (11, 8)),
]


def by_definition(
    x: np.ndarray, kernel: np.ndarray, dy: np.ndarray, groups: int, stride: int, padding: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y and the gradients of sum(y * dy) by x and kernel, computed window by window in float64.

    (N, H, W, C), (h, w, C / groups, D), (N, H', W', D) -> (N, H', W', D), (N, H, W, C), (h, w, C / groups, D).
    """
    height, width, channels, outputs = kernel.shape
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    y, by_padded, by_kernel = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
    for row, column, o in np.ndindex(*dy.shape[1:]):
        first = o // (outputs // groups) * channels
        window = np.s_[
            :, row * stride : row * stride + height, column * stride : column * stride + width, first : first + channels
        ]
        y[:, row, column, o] = np.einsum("nijc,ijc->n", padded[window], kernel[..., o])
        by_padded[window] += np.einsum("n,ijc->nijc", dy[:, row, column, o], kernel[..., o])
        by_kernel[..., o] += np.einsum("n,nijc->ijc", dy[:, row, column, o], padded[window])
    inside = np.s_[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]
    return y, by_padded[inside], by_kernel


@pytest.mark.parametrize(("groups", "given", "made", "size", "stride", "padding", "image"), CASES)
def test_a_grouped_convolution_and_its_gradients_match_the_definition(
    groups: int, given: int, made: int, size: int, stride: int, padding: int, image: tuple[int, int]
) -> None:
    import jax
    from flax import nnx

    from jax_impl.compilation import RUN_ONCE
    from jax_impl.layers import Conv

    numbers = np.random.default_rng(0)
    layer = Conv(groups * given, groups * made, size, stride, padding, feature_group_count=groups, rngs=nnx.Rngs(0))
    x = numbers.standard_normal((2, *image, groups * given))
    kernel = numbers.standard_normal((size, size, given, groups * made))
    rows, columns = ((pixels + 2 * padding - size) // stride + 1 for pixels in image)
    dy = numbers.standard_normal((2, rows, columns, groups * made))
    graphdef, state = nnx.split(layer)
    state["bias"] = state["bias"].replace(np.zeros(groups * made))

    @functools.partial(jax.jit, compiler_options=RUN_ONCE)
    def run(x, kernel, dy):
        def convolve(x, kernel):
            return nnx.merge(graphdef, {"kernel": nnx.Param(kernel), "bias": state["bias"]})(x)

        y, back = jax.vjp(convolve, x, kernel)
        return y, *back(dy)

    for found, expected in zip(run(x, kernel, dy), by_definition(x, kernel, dy, groups, stride, padding), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max() * size**2 * given)


@pytest.mark.parametrize("name", ["regnetx32", "resnext"])
def test_programs_for_cpus_have_no_grouped_convolution(port, backend, name: str) -> None:
    import jax
    from flax import nnx

    model = port.build(name, input_size=[33, 38], arch=[[1, 32, 16, 1], [1, 80, 16, 1]], dtype="float32")
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, images):
        return nnx.merge(graphdef, params, rest, copy=True)(images).sum()

    images = np.zeros((2, 33, 38, 1), np.float32)
    program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, images).as_text()
    counts = re.findall(r"(?:batch|feature)_group_count = (\d+)", program)
    assert len(counts) > 2 * 3 * 9  # two counts for each convolution, forward and in both gradients
    assert set(counts) == {"1"}
