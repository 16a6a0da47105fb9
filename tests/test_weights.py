"""Canonical weights: their numbers, their files, and files that are refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from common import catalog, reference, weights
from common.errors import ConfigError, InputError, WeightsError

LENET = catalog.get("lenet")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lenet.safetensors"
    weights.write_initial(path, LENET, "probe")
    return path


def parts(path: Path) -> tuple[dict, bytes]:
    """Return a safetensors file's header and data, by the format's definition."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def assemble(path: Path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_initial_weights_are_the_same_on_every_machine_and_numpy_version() -> None:
    # Written down from one run; the suite reads it on NumPy 1.23 and on NumPy 2.
    digest = hashlib.sha256()
    for name, array in weights.initialize(catalog.get("bn_lenet"), "probe", seed=7, dtype="float64").items():
        digest.update(name.encode() + array.tobytes())
    assert digest.hexdigest() == "cbcb98372dbd7663b8800804edd3d1111a6028e0df670448c2dcf1aa6fcd82a7"


def test_float32_weights_are_rounded_float64_weights() -> None:
    wide, narrow = (weights.initialize(LENET, "probe", dtype=dtype) for dtype in ("float64", "float32"))
    for name in wide:
        np.testing.assert_array_equal(wide[name].astype(np.float32), narrow[name])
        assert (wide[name] != narrow[name]).any()


def test_a_tensor_depends_only_on_its_name_and_the_seed() -> None:
    deep = weights.initialize(catalog.get("resnet", arch=[[2, 8], [1, 8]]), "probe")
    shallow = weights.initialize(catalog.get("resnet", arch=[[1, 8]]), "probe")
    np.testing.assert_array_equal(deep["stage1.block1.conv2.weight"], shallow["stage1.block1.conv2.weight"])
    assert (deep["stage1.block2.conv1.weight"] != deep["stage1.block2.conv2.weight"]).any()
    other = weights.initialize(catalog.get("resnet", arch=[[1, 8]]), "probe", seed=1)
    assert all((other[name] != shallow[name]).all() for name in shallow)


def test_xavier_has_the_bounds_of_its_definition_and_constant_vectors() -> None:
    tensors = weights.initialize(catalog.get("resnet18"), "xavier")
    for name, array in tensors.items():
        leaf = name.rpartition(".")[2]
        if array.ndim == 1:
            assert (array == (leaf in ("weight", "running_var"))).all(), name
        else:
            field = math.prod(array.shape[2:])
            bound = math.sqrt(6 / ((array.shape[0] + array.shape[1]) * field))
            assert np.abs(array).max() <= bound, name
            if array.size > 1000:
                # A uniform distribution's variance is a third of its bound's square.
                assert abs(array.var() / (bound**2 / 3) - 1) < 0.1, name


def test_probe_makes_every_tensor_random() -> None:
    for name, array in weights.initialize(catalog.get("resnet18"), "probe").items():
        assert len(np.unique(array)) > array.size // 2, name
        if name.endswith("running_var"):
            assert array.min() >= 0.5, name


@pytest.mark.parametrize("name", ["lenet", "bn_lenet", "resnet18", "regnetx32"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probe_keeps_the_scale_of_every_tap(name: str, dtype: weights.DTypeName) -> None:
    network = catalog.get(name)
    model = reference.build(network)
    reference.load(model, weights.initialize(network, "probe", dtype=dtype))
    x = np.random.default_rng(0).standard_normal((2, *network.input_shape))
    for tap, values in reference.trace(model, x).items():
        assert 1e-3 < np.abs(values).max() < 1e3, tap
        assert np.abs(values[0] - values[1]).max() > 1e-3 * np.abs(values).max(), tap


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_file_has_the_written_tensors_in_network_order(tmp_path: Path, dtype: weights.DTypeName) -> None:
    path = tmp_path / "w.safetensors"
    network = catalog.get("anynet", num_classes=7, arch=[[11, 32, 16, 1]])
    tensors = weights.initialize(network, "probe", 3, dtype)
    weights.write_initial(path, network, "probe", 3, dtype)
    file = weights.read(path)
    assert file.network == network
    assert list(file.tensors) == list(reference.describe(network).manifest)
    for found in (file.tensors, load_file(path)):  # ours, and the library's own reader
        assert {name: (array.dtype, array.tobytes()) for name, array in found.items()} == {
            name: (array.dtype, array.tobytes()) for name, array in tensors.items()
        }
    again = tmp_path / "again.safetensors"
    weights.write(again, network, dict(reversed(list(file.tensors.items()))))
    assert again.read_bytes() == path.read_bytes()
    metadata = parts(path)[0]["__metadata__"]
    assert (metadata["format"], metadata["version"], metadata["network"]) == ("rosetta-weights", "1", "anynet")
    assert json.loads(metadata["config"])["num_classes"] == 7


def test_reading_maps_the_file_and_writes_do_not_reach_it(file: Path) -> None:
    before = file.read_bytes()
    tensors = weights.read(file).tensors
    tensors["fc1.weight"][:] = 0
    assert file.read_bytes() == before


def test_written_file_has_normal_permissions_and_leaves_no_temporary_file(file: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def rejection(path: Path) -> str:
    """Return the one-line error that reading the file raises."""
    with pytest.raises(WeightsError) as raised:
        weights.read(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_files_in_other_formats_are_rejected(tmp_path: Path, file: Path) -> None:
    whole = file.read_bytes()
    cases = {
        "empty": b"",
        "text": b"these are not weights, but a line of text\n",
        "cut in the header": whole[:100],
        "cut in the data": whole[:-1],
        "too long": whole + b"\0",
        "huge header": (2**63).to_bytes(8, "little") + whole[8:],
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert "not a whole safetensors file" in rejection(path) or name == "empty"
    assert "no such file" in rejection(tmp_path / "absent")
    assert "cannot be read" in rejection(tmp_path)


def test_safetensors_files_with_other_metadata_are_rejected(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3)}, path)
    assert "a safetensors file, but not a rosetta weights file" in rejection(path)
    header, data = parts(file)
    for key, value, message in [
        ("version", "2", "format version '2'; this version of rosetta reads '1'"),
        ("network", "lenot", "there is no network 'lenot'"),
        ("config", "{", "describes no valid network"),
        ("config", '{"num_classes": "ten"}', "`num_classes` (='ten') must be a positive integer"),
        ("config", "[]", "describes no valid network"),
    ]:
        assemble(path, {**header, "__metadata__": {**header["__metadata__"], key: value}}, data)
        assert message in rejection(path)
    metadata = {key: value for key, value in header["__metadata__"].items() if key != "config"}
    assemble(path, {**header, "__metadata__": metadata}, data)
    assert "its metadata has no 'config'" in rejection(path)


def test_error_for_wrong_tensors_lists_their_names(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    metadata = parts(file)[0]["__metadata__"]

    def write(**changes: np.ndarray | None) -> str:
        tensors = {name: array.copy() for name, array in weights.read(file).tensors.items()}
        for name, array in changes.items():
            key = name.replace("_", ".")
            tensors.pop(key, None)
            if array is not None:
                tensors[key] = array
        save_file(tensors, path, metadata)
        return rejection(path)

    message = write(fc1_weight=None, conv1_bias=None, fc9_weight=np.zeros(1, np.float32))
    assert "- conv1.bias, - fc1.weight, + fc9.weight" in message
    assert "conv1.weight has shape (6, 1, 5, 4); lenet expects (6, 1, 5, 5)" in write(
        conv1_weight=np.zeros((6, 1, 5, 4), np.float32)
    )
    assert "conv1.bias is of type I64; expected F32 or F64" in write(conv1_bias=np.zeros(6, np.int64))
    assert "expected one dtype for all" in write(conv1_bias=np.zeros(6, np.float64))
    for value in (math.nan, math.inf, -math.inf):
        bias = np.zeros(6, np.float32)
        bias[5] = value
        assert "conv1.bias holds a NaN or an infinity" in write(conv1_bias=bias)


def test_a_nan_late_in_a_large_tensor_is_detected(tmp_path: Path) -> None:
    tensors = weights.initialize(catalog.get("vgg", arch=[[1, 8]], input_size=[32, 32]))
    tensors["head.fc1.weight"][-1, -1] = math.nan
    with pytest.raises(WeightsError, match=r"head\.fc1\.weight holds a NaN"):
        weights.write(tmp_path / "w", catalog.get("vgg", arch=[[1, 8]], input_size=[32, 32]), tensors)
    assert not list(tmp_path.iterdir())


def test_invalid_arguments_are_rejected_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        weights.write_initial(tmp_path / "absent" / "w", LENET)
    with pytest.raises(InputError, match="it is a folder"):
        weights.write_initial(tmp_path, LENET)
    for wrong in ({"scheme": "zeros"}, {"dtype": "float16"}, {"seed": -1}):
        with pytest.raises(ConfigError):
            weights.write_initial(tmp_path / "w", LENET, **wrong)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        weights.write_initial(file, LENET, seed=1)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
