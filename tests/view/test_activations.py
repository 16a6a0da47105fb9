"""Tests of activation pictures: panels, color scales, captions, and errors of the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import catalog, images, reference, weights
from common.backends import registry
from common.errors import BackendError
from common.parity import harness
from common.view import activations
from common.view.activations import Row


def row(first: np.ndarray, second: np.ndarray, **details: object) -> Row:
    arrays = {"torch": first, "jax": second}
    return Row("conv1", arrays, {name: array.shape for name, array in arrays.items()}, **details)


def panels(figure) -> list:
    return [axes for axes in figure.get_axes() if axes.get_images()]


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


MAPS = np.random.default_rng(0).random((1, 6, 5, 7))


def test_all_panels_of_a_row_share_one_color_scale() -> None:
    signed = MAPS - 0.7
    figure = activations.draw([row(MAPS, 2 * MAPS), row(signed, 3 * signed)])
    found = [[panel.get_images()[0] for panel in panels(figure)[i : i + 2]] for i in (0, 2)]
    assert [image.get_clim() for image in found[0]] == [(0, 2 * MAPS.max())] * 2
    most = 3 * np.abs(signed).max()
    assert [image.get_clim() for image in found[1]] == [(-most, most)] * 2
    assert [{image.get_cmap().name for image in pair} for pair in found] == [{"viridis"}, {"RdBu_r"}]


def test_the_difference_below_a_row_covers_all_channels() -> None:
    first = np.random.default_rng(0).random((1, 20, 4, 4))
    second = first.copy()
    second[0, 19, 2, 3] -= 0.25
    assert activations.largest_difference(row(first, second)) == pytest.approx(0.25)
    assert any(
        "largest difference between any two: 2.5e-01;" in text for text in words(activations.draw([row(first, second)]))
    )
    assert any("between any two: none;" in text for text in words(activations.draw([row(first, first)])))
    # A common input, or a single framework, has no difference.
    alone = Row("conv1", {"tf": first}, {"tf": first.shape})
    for single in (row(first, second, compared=False), alone):
        assert not any("difference" in text for text in words(activations.draw([single])))


def test_tiles_are_in_order_and_panels_have_the_shape_as_title() -> None:
    steps = np.arange(20.0)[None, :, None, None] * np.ones((1, 20, 3, 3))
    figure = activations.draw([row(steps, steps)], "lenet on digit:7")
    sheet = panels(figure)[0].get_images()[0].get_array()
    side = sheet.shape[0] // 4
    corners = [sheet[(i // 4) * side + side // 2, (i % 4) * side + side // 2] for i in range(16)]
    assert corners == list(range(16))
    assert [panel.get_title() for panel in panels(figure)] == ["torch  (1, 20, 3, 3)", "jax  (1, 20, 3, 3)"]
    assert words(figure)[:2] == ["lenet on digit:7", "conv1: 16 of 20 channels"]


@pytest.mark.parametrize(
    ("array", "filters", "caption"),
    [
        (np.ones((6, 1, 5, 5)), True, "conv1: 6 filters"),
        (np.ones((64, 3, 7, 7)), True, "conv1: 64 filters for each of 3 channels, 16 of 192 shown"),
        (np.ones((1, 1, 5, 5)), False, "conv1: 1 channel"),
        (np.arange(10.0)[None], False, "conv1: 10 values, row by row"),
        (np.zeros((1, 4)), False, "conv1: 4 values, row by row"),
    ],
)
def test_filters_and_vectors_have_captions_and_a_color_range(array: np.ndarray, filters: bool, caption: str) -> None:
    figure = activations.draw([row(array, array, filters=filters)])
    assert caption in words(figure)
    lowest, highest = panels(figure)[0].get_images()[0].get_clim()
    assert lowest < highest


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("lenet", ["conv1", "pool1", "conv2", "pool2"]),
        ("resnet18", ["stem.conv", "stage1", "stage2", "stage3", "stage4"]),
        ("vgg11", ["stage1.conv1", "stage1", "stage2", "stage3", "stage4", "stage5"]),
        ("nin", ["stage1.conv1", "stage1", "pool1", "stage2", "pool2", "stage3", "pool3", "stage4"]),
    ],
)
def test_the_first_convolution_and_parts_with_spatial_output_are_shown_by_default(name: str, layers: list[str]) -> None:
    assert activations.layers_shown(catalog.get(name)) == layers


@pytest.mark.port
def test_rows_hold_the_activations_of_each_framework_in_its_layout(backend_name: str, tmp_path: Path) -> None:
    network = catalog.get("bn_lenet", in_channels=3)
    path = tmp_path / "w"
    weights.write_initial(path, network, "probe", 0, "float64")
    x = images.real_batch(network, 1)[0]
    names = ["numpy", backend_name]
    rows = activations.gather(network, names, path, x, ["conv2", "fc1"], "float64")
    assert [each.name for each in rows] == ["input", "conv1.weight", "conv2", "fc1"]
    truth = reference.build(network)
    reference.load(truth, weights.read(path).tensors)
    expected = reference.trace(truth, x[None])
    np.testing.assert_array_equal(rows[1].arrays[backend_name], weights.read(path).tensors["conv1.weight"])
    for each in rows[2:]:
        np.testing.assert_allclose(each.arrays[backend_name], expected[each.name], rtol=1e-10)
        assert activations.largest_difference(each) < 1e-12
    last = backend_name in ("jax", "tf")
    shapes = [each.shapes[backend_name] for each in rows]
    assert shapes == [
        *([(1, 28, 28, 3), (5, 5, 3, 6), (1, 8, 8, 16)] if last else [(1, 3, 28, 28), (6, 3, 5, 5), (1, 16, 8, 8)]),
        (1, 120),
    ]
    assert [each.shapes["numpy"] for each in rows][:2] == [(1, 3, 28, 28), (6, 3, 5, 5)]


def test_a_failing_backend_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSETTA_PYTHON_TF", "/bin/false")
    path = tmp_path / "w"
    weights.write_initial(path, catalog.get("lenet"))
    x = np.zeros((1, 28, 28))
    with pytest.raises(BackendError, match="backend tf"):
        activations.gather(catalog.get("lenet"), ["numpy", "tf"], path, x, ["conv1"], "float64")


def test_requests_to_one_backend_are_answered_in_order(tmp_path: Path) -> None:
    network = catalog.get("lenet")
    weights.write_initial(tmp_path / "w", network)
    requests = [
        {"action": "weights", "names": [name], "outputs": {"result": str(tmp_path / name)}}
        for name in ("fc1.bias", "fc2.bias")
    ]
    answers = harness.run_each(["numpy"], network, "float64", lambda _: requests, weights=str(tmp_path / "w"))
    assert [answer["id"] for answer in answers["numpy"]] == [1, 2]
    assert (tmp_path / "fc2.bias").exists()


@pytest.fixture
def lenet(rosetta, tmp_path: Path) -> Path:
    """Return a folder with weights of lenet (w) and an image (seven.png)."""
    weights.write_initial(tmp_path / "w", catalog.get("lenet"))
    Image.fromarray(images.digits()[0][7]).resize((20, 30)).save(tmp_path / "seven.png")
    return tmp_path


def test_the_command_writes_a_png(rosetta, lenet: Path) -> None:
    options = ("--weights", "w", "--backends", "numpy", "--layers", "fc2,conv1")
    for image in ("seven.png", "digit:7"):
        result = rosetta("activations", "lenet", image, *options, "-o", "maps.png")
        assert (result.returncode, result.stderr) == (0, "")
        assert "input, conv1.weight, conv1, fc2 of lenet in numpy" in result.stdout
        with Image.open(lenet / "maps.png") as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenet", "absent.png", "--weights", "w"), "absent.png: cannot be read: No such file"),
        (("lenet", "w", "--weights", "w"), "w: not a PNG or JPEG image"),
        (("lenet", "digit:1797", "--weights", "w"), "choose from digit:0 to digit:1796"),
        (("lenet", "digit:x", "--weights", "w"), "there is no such digit"),
        (("lenot", "seven.png", "--weights", "w"), "did you mean lenet"),
        (("alexnet", "seven.png", "--weights", "w"), "w: weights of lenet"),
        (("lenet", "seven.png", "--weights", "w", "--config", '{"num_classes": 7}'), "w: weights of lenet"),
        (("lenet", "seven.png", "--weights", "seven.png"), "not a whole safetensors file"),
        (("lenet", "seven.png", "--weights", "absent"), "absent"),
        (("lenet", "seven.png", "--weights", "."), ". is not a training run"),
        (
            ("lenet", "seven.png", "--weights", "w", "--layers", "conv1,konv2"),
            "no layer of lenet 'konv2'; did you mean conv2",
        ),
        (("lenet", "seven.png", "--weights", "w", "--layers", ","), "name at least one layer of lenet"),
        (("lenet", "seven.png", "--weights", "w", "--backends", "torsh"), "did you mean torch"),
        (("lenet", "seven.png", "--weights", "w", "--dtype", "float16"), "no dtype 'float16'"),
        (("lenet", "seven.png", "--weights", "w", "-o", "absent/maps.png"), "there is no folder absent"),
    ],
)
def test_an_invalid_request_is_a_one_line_error_and_writes_nothing(
    rosetta, lenet: Path, arguments: tuple, message: str
) -> None:
    before = sorted(lenet.iterdir())
    output = () if "-o" in arguments else ("-o", "maps.png")
    result = rosetta("activations", *arguments, *output)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert sorted(lenet.iterdir()) == before


def test_a_missing_backend_has_exit_status_3_and_writes_nothing(rosetta, lenet: Path) -> None:
    bare = {f"ROSETTA_PYTHON_{name.upper()}": "/bin/false" for name in registry.BACKENDS}
    result = rosetta("activations", "lenet", "digit:7", "--weights", "w", "-o", "maps.png", **bare)
    assert result.returncode == 3
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not (lenet / "maps.png").exists()
