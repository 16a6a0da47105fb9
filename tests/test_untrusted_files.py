"""Untrusted files: each is read exactly as its format defines, or rejected with a one-line error."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import math
import os
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strangers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from support import ROOT

from common import catalog, files, json_records, reference, weights
from common.errors import ConfigError, InputError, RosettaError, WeightsError
from common.images import read_idx
from common.optimizers import OptimizerConfig
from common.training import checkpoints, metrics
from common.training.checkpoints import Position
from common.training.datasets import open_dataset, open_image
from common.training.experiment import Experiment, ScheduleConfig

steady = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

MIB = 1 << 20
CONFIG = {"arch": [[1, 2, 1, 1]], "stem_channels": 1, "num_classes": 2, "input_size": [9, 8]}
SMALL = catalog.get("anynet", **CONFIG)
METADATA = {"format": "rosetta-weights", "version": "1", "network": "anynet", "config": json.dumps(CONFIG)}


@contextmanager
def limited_memory(path: Path, ratio: int = 1) -> Iterator[None]:
    """Check that memory stays within `ratio` times the file size plus a margin, and that nothing is written."""
    folder = path.parent
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    tracemalloc.start()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken <= MIB + ratio * path.stat().st_size, f"{taken} bytes for a file of {path.stat().st_size}"
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def shown(error: RosettaError) -> str:
    """Return an error's message, which must be one line, not too long and without control characters."""
    message = str(error)
    assert message.isprintable()
    assert len(message) < 3000
    return message


def begins(error: RosettaError, start: str) -> None:
    """Check how an error's message begins."""
    assert shown(error).startswith(start)


def refused(read: Callable[[Path], object], path: Path, kind: type[RosettaError] = RosettaError) -> str:
    """Return the one-line error that reading the file raises."""
    with limited_memory(path), pytest.raises(kind) as raised:
        read(path)
    return shown(raised.value)


def assemble(path: Path, header: object, body: bytes = b"", length: int | None = None) -> Path:
    """Write a safetensors file; `header` is bytes or a value to serialize as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


# Weights: malicious headers


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


TWICE = json.dumps(entry(0, 8))
WHOLE = "not a whole safetensors file"
TRICKS: dict[str, tuple[object, int, str]] = {
    # header, number of bytes after it, part of the expected message
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12, WHOLE),
    "the same bytes twice": ({"a": entry(0, 8), "b": entry(0, 8)}, 8, WHOLE),
    "one within another": ({"a": entry(0, 12), "b": entry(4, 8)}, 12, WHOLE),
    "gap": ({"a": entry(0, 4), "b": entry(8, 12)}, 12, WHOLE),
    "gap at the beginning": ({"a": entry(4, 8)}, 8, WHOLE),
    "bytes that are nobody's": ({"a": entry(0, 4)}, 8, WHOLE),
    "beyond the end": ({"a": entry(0, 8)}, 4, WHOLE),
    "far beyond the end": ({"a": entry(2**62, 2**62 + 4)}, 4, WHOLE),
    "beyond 64 bits": ({"a": entry(2**64, 2**64 + 4)}, 4, WHOLE),
    "backwards": ({"a": {**entry(0, 4), "data_offsets": [4, 0]}}, 4, WHOLE),
    "negative": ({"a": {**entry(0, 4), "data_offsets": [-4, 0]}}, 4, WHOLE),
    "one offset": ({"a": {**entry(0, 4), "data_offsets": [4]}}, 4, WHOLE),
    "fractions": ({"a": {**entry(0, 4), "data_offsets": [0.0, 4.0]}}, 4, WHOLE),
    "huge shape": ({"a": entry(0, 4, [2**40])}, 4, WHOLE),
    "product that overflows to the size": ({"a": entry(0, 4, [2**32, 2**32, 1])}, 4, WHOLE),
    "product that overflows to nothing": ({"a": entry(0, 0, [2**32, 2**32])}, 0, WHOLE),
    "negative shape": ({"a": entry(0, 4, [-1, -1])}, 4, WHOLE),
    "wrong length": ({"a": entry(0, 4, [2])}, 4, WHOLE),
    "nothing, with a huge axis": ({"a": entry(0, 0, [0, 2**63])}, 0, "no array can have"),
    "nothing, with huge axes": ({"a": entry(0, 0, [0, 2**62, 2**62])}, 0, "no array can have"),
    "more axes than an array has": ({"a": entry(0, 4, [1] * 65)}, 4, "no array can have"),
    "many axes": ({"a": entry(0, 4, [1] * 10**5)}, 4, "no array can have"),
    "tensor twice": (f'{{"a": {TWICE}, "a": {TWICE}}}'.encode(), 8, "'a' is given more than once"),
    "tensor twice, by an escape": (f'{{"a": {TWICE}, "\\u0061": {TWICE}}}'.encode(), 8, "'a' is given more than once"),
    "tensor twice, the first another": (f'{{"a": {json.dumps(entry(0, 4))}, "a": {TWICE}}}'.encode(), 8, "more than"),
    "offsets twice": (
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "data_offsets": [0, 4]}}',
        4,
        WHOLE,
    ),
    "metadata twice": (b'{"__metadata__": {}, "__metadata__": {}}', 0, WHOLE),
    "format twice": (
        b'{"__metadata__": {"format": "x", "format": "rosetta-weights"}}',
        0,
        "'format' is given more than",
    ),
    "metadata that is no text": ({"__metadata__": {"format": 1}}, 0, WHOLE),
    "metadata that is a tensor": ({"__metadata__": entry(0, 4)}, 4, WHOLE),
    "list for an object": (
        {"a": ["F32", [1], [0, 4]]},
        4,
        "a is described by ['F32', [1], [0, 4]]; expected an object",
    ),
    "object for a type": ({"a": entry(0, 4, [1], {"F32": None})}, 4, ""),  # depends on the version of safetensors
    "unknown type": ({"a": entry(0, 4, [1], "F31")}, 4, WHOLE),
    "type of half a byte": ({"a": entry(0, 1, [2], "F4")}, 1, "a is of type F4; expected F32 or F64"),
    "no type": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4, WHOLE),
    "list": ([], 0, WHOLE),
    "number": (b"7", 0, WHOLE),
    "nothing": (b"", 0, WHOLE),
    "spaces": (b" " * 100, 0, WHOLE),
    "half an object": (b'{"a": ', 0, WHOLE),
    "something behind it": (b"{}x", 0, WHOLE),
    "zeros behind it": (b"{}\0\0", 0, WHOLE),
    "deep lists": (b"[" * 10**6, 0, WHOLE),
    "deep objects": (b'{"a":' * 10**5, 0, WHOLE),
    "deep where nobody looks": (b'{"a": {"dtype": ' + b"[" * 10**5 + b"]" * 10**5 + b"}}", 0, WHOLE),
    "no UTF-8": (b'{"\xff\xfe": 1}', 0, WHOLE),
    "UTF-16": ("{}".encode("utf-16"), 0, WHOLE),
    "half a character": (b'{"__metadata__": {"format": "\\ud800"}}', 0, WHOLE),
    "number of 5000 digits": (
        b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}',
        4,
        WHOLE,
    ),
    "not a number": (b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', 4, WHOLE),
    "type of two lines": ({"a": entry(0, 4, [1], "F\n3\r2\x1b[31m\u2028")}, 4, WHOLE),
    "name of two lines": ({"a\nb\x1b[31m": entry(0, 4, [2])}, 4, WHOLE),
    "name of a megabyte": ({"a" * MIB: entry(0, 8, [1], "I64")}, 8, "expected F32 or F64"),
    "no tensors": ({}, 0, "not a rosetta weights file (its format is None"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_malicious_headers_are_rejected(tmp_path: Path, trick: str) -> None:
    header, length, message = TRICKS[trick]
    path = assemble(tmp_path / "w", header, bytes(length))
    with (
        limited_memory(path, 64),
        pytest.raises(WeightsError) as raised,
    ):  # 64: names in the header become Python objects
        weights.read(path)
    said = shown(raised.value)
    assert said.startswith(f"{path}: ")
    assert message in said


@pytest.mark.parametrize("length", [0, 1, 7, 9, 10**8, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1])
def test_wrong_header_lengths_are_rejected(tmp_path: Path, length: int) -> None:
    assert WHOLE in refused(weights.read, assemble(tmp_path / "w", {"a": entry(0, 4)}, bytes(4), length), WeightsError)


@pytest.mark.parametrize("size", range(9))
def test_files_of_a_few_bytes_are_rejected(tmp_path: Path, size: int) -> None:
    path = tmp_path / "w"
    path.write_bytes(bytes(size))
    refused(weights.read, path, WeightsError)


def named(network: str, config: object, **metadata: str) -> dict[str, Any]:
    """Return the header of a file with a network in its metadata and no tensors."""
    text = config if isinstance(config, str) else json.dumps(config)
    return {"__metadata__": {**METADATA, "network": network, "config": text, **metadata}}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (named("vgg", {"arch": [[10**9, 64]]}), "1000000000 layers"),
        (named("vgg", {"arch": [[1000, 64]]}), "1000 layers or blocks, but the file has only 0 tensors"),
        (named("densenet", {"arch": [1] * 10**4}), "10000 layers"),
        (named("lenet", {"num_classes": 10**400}), "must be a positive integer below"),
        (named("lenet", {"input_size": [10**9, 10**9]}), "- conv1.weight"),
        (
            named("lenet", {"input_size": [1, 1]}),
            "describes no valid network: `input_size` (=1x1) is too small",
        ),
        (named("resnext", {"arch": [[1, 10**9, 1, 1e308]]}), "must be a positive number below"),
        (named("lenet", {"name": "vgg"}), "no setting of lenet called 'name'"),
        (named("lenet", {"self": 1}), "no setting of lenet called 'self'"),
        (named("lenet", "[" * 10**5), "nested too deeply"),
        (named("lenet", '{"num_classes": ' + "[" * 900 + "]" * 900 + "}"), "must be a positive integer"),
        (named("lenet", '{"num_classes": 3, "num_classes": 4}'), "'num_classes' is given more than once"),
        (named("lenet", '{"num_classes": NaN}'), "`num_classes` (=nan)"),
        (named("lenet", "[]"), "must be an object"),
        (named("lenet", "7" * 5000), "digits"),
        (named("le\nnet\x1b[2J", {}), "there is no network 'le net\\x1b[2J'"),
        (named("x" * MIB, {}), "there is no network"),
        (named("../../lenet", {}), "there is no network"),
        (named("lenet", {"dropout\n": 0}), "there is no setting of lenet"),
        (named("lenet", {}, version="1\n2"), "format version '1\\n2'"),
    ],
)
def test_malicious_metadata_is_rejected(tmp_path: Path, header: dict, message: str) -> None:
    path = assemble(tmp_path / "w", header)
    with limited_memory(path, 16), pytest.raises(WeightsError) as raised:
        weights.read(path)
    assert message in shown(raised.value)


def test_the_error_for_malicious_tensor_names_is_one_line(tmp_path: Path) -> None:
    header = {**named("lenet", {}), "conv1.weight\n\x1b[31m": entry(0, 4), "\u202egnorw": entry(4, 8)}
    message = refused(weights.read, assemble(tmp_path / "w", header, bytes(8)), WeightsError)
    assert "+ conv1.weight \\x1b[31m" in message
    assert "+ \\u202egnorw" in message


def unusual() -> Iterator[tuple[str, bytes, bytes]]:
    """Yield unusual but valid files: description, header and body."""
    tensors = weights.initialize(SMALL, "probe")
    body, entries = b"", {}
    for name, array in reversed(tensors.items()):
        entries[name] = entry(len(body), len(body) + array.nbytes, list(array.shape))
        body += array.tobytes()
    plain = {"__metadata__": METADATA, **entries}
    yield "tensors in another order", json.dumps(plain).encode(), body
    yield "metadata at the end", json.dumps({**entries, "__metadata__": METADATA}).encode(), body
    yield "names in another order", json.dumps(dict(reversed(plain.items()))).encode(), body
    yield "spaces behind it", json.dumps(plain).encode() + b" " * 101, body
    yield "indented", json.dumps(plain, indent=7).encode(), body
    yield "more metadata", json.dumps({**plain, "__metadata__": {**METADATA, "é\n": "x" * 1000}}).encode(), body
    escaped = "".join(f"\\u{ord(c):04x}" for c in "stem.conv.weight")
    yield "escapes", json.dumps(plain).replace("stem.conv.weight", escaped).encode(), body


@pytest.mark.parametrize(("header", "body"), [pytest.param(*rest, id=name) for name, *rest in unusual()])
def test_unusual_valid_files_are_read(tmp_path: Path, header: bytes, body: bytes) -> None:
    path = assemble(tmp_path / "w", header, body)
    with limited_memory(path):
        file = weights.read(path)
    assert file.network == SMALL
    found = {name: array.tobytes() for name, array in file.tensors.items()}
    assert found == {name: array.tobytes() for name, array in weights.initialize(SMALL, "probe").items()}


def test_long_headers_and_large_tensors_need_little_memory(tmp_path: Path) -> None:
    """Use new processes, whose peak memory includes that of the library."""
    long = assemble(tmp_path / "long", {f"{i:07}": entry(0, 0) for i in range(160_000)})
    large = assemble(tmp_path / "large", {"a": entry(0, 1 << 32)})
    with large.open("ab") as file:
        file.truncate(file.tell() + (1 << 32))  # a sparse file, which needs no disk space
    code = (
        "import resource, sys\n"
        "from common import weights\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: weights.read(sys.argv[1])\n"
        "except weights.WeightsError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    for path, message in ((long, "its header is of 1"), (large, "not a rosetta weights file")):
        command = [sys.executable, "-c", code, path]
        said, taken = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        assert message in said
        assert int(taken) * 1024 < 16 * MIB


# Weights: random structure

NAMES = st.sampled_from(["a", "b", "stem.conv.weight", "__metadata__", "dtype", ""]) | st.text(max_size=6)
COUNTS = st.integers(0, 40) | st.sampled_from([-1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 2**64])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | COUNTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def whole_files(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """Draw the header and the body of a valid file with tensors in any order."""
    metadata = draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
    entries, body = {}, b""
    for name in draw(st.lists(NAMES.filter(lambda name: name != "__metadata__"), max_size=4, unique=True)):
        dtype = draw(st.sampled_from(["F32", "F64"]))
        shape = draw(st.lists(st.integers(0, 3), max_size=4))
        size = math.prod(shape) * strangers.SIZES[dtype]
        entries[name] = entry(len(body), len(body) + size, shape, dtype)
        body += draw(st.binary(min_size=size, max_size=size))
    items = [*entries.items(), *([("__metadata__", metadata)] if metadata else [])]
    return dict(draw(st.permutations(items))), body


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a valid file with a part of the header or the body replaced, repeated or removed."""
    header, body = draw(whole_files())
    names = [name for name in header if name != "__metadata__"]
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(names) if names else NAMES)
        item = header.get(name)
        # An earlier change may have replaced the offsets by anything.
        offsets = item.get("data_offsets") if isinstance(item, dict) else None
        change = draw(st.sampled_from(["offset", "shape", "dtype", "field", "entry", "drop", "more", "body"]))
        if change == "offset" and isinstance(offsets, list | tuple) and len(offsets) == 2:
            moved = list(offsets)
            moved[draw(st.integers(0, 1))] = draw(COUNTS)
            header[name] = {**item, "data_offsets": moved}
        elif change == "shape" and isinstance(item, dict):
            header[name] = {**item, "shape": draw(st.lists(COUNTS, max_size=5))}
        elif change == "dtype" and isinstance(item, dict):
            header[name] = {**item, "dtype": draw(st.sampled_from([*strangers.SIZES, "F4", "", "f32"]) | JSON)}
        elif change == "field" and isinstance(item, dict):
            header[name] = {**item, draw(st.sampled_from([*item, "more"])): draw(JSON)}
        elif change == "entry":
            header[draw(NAMES)] = draw(JSON)
        elif change == "drop":
            header.pop(name, None)
        elif change == "more":
            header[draw(NAMES)] = entry(len(body), len(body) + 4)
        else:
            body = draw(st.sampled_from([body[:-1], body + b"\0", body[4:], body * 2]))
    text = json.dumps(header)
    if draw(st.booleans()) and header:
        again = draw(st.sampled_from([*header]))
        text = f"{text[:-1]}, {json.dumps({again: header[again]})[1:]}"
    return text.encode(), body


def same(tensors: dict[str, np.ndarray], said: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bool:
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in tensors.items()} == {
        name: (files.DTYPES.get(code), shape, data) for name, (code, shape, data) in said.items()
    }


@steady
@given(file=whole_files(), spaces=st.sampled_from([b"", b" ", b" " * 99]))
def test_every_valid_file_is_read_exactly(tmp_path: Path, file: tuple[dict, bytes], spaces: bytes) -> None:
    path = assemble(tmp_path / "w", json.dumps(file[0]).encode() + spaces, file[1])
    said = strangers.safetensors(path.read_bytes())
    with limited_memory(path):
        metadata, tensors = files.map_safetensors(path)
    assert metadata == said[0]
    assert same(tensors, said[1])


@settings(steady, max_examples=600)
@given(file=damaged_files())
def test_every_damaged_file_is_rejected_or_read_exactly(tmp_path: Path, file: tuple[bytes, bytes]) -> None:
    path = assemble(tmp_path / "w", *file)
    try:
        with limited_memory(path):
            metadata, tensors = files.map_safetensors(path)
    except (ValueError, SafetensorError):
        refused(weights.read, path, WeightsError)
        return
    said = strangers.safetensors(path.read_bytes())  # an accepted file must be readable by the independent reader
    assert metadata == said[0]
    assert same(tensors, said[1])


@steady
@given(data=st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: len(data).to_bytes(8, "little") + data))
def test_random_bytes_are_rejected(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w"
    path.write_bytes(data)
    refused(weights.read, path, WeightsError)


# Configurations

FIELDS = ["num_classes", "in_channels", "input_size", "dropout", "arch", "growth_rate", "num_channels", "stem_channels"]
ARCH = st.lists(st.integers(1, 4) | COUNTS | st.lists(st.integers(1, 8) | COUNTS | st.floats(), max_size=4), max_size=4)
SETTINGS = st.dictionaries(
    st.sampled_from([*FIELDS, "name", "self"]) | st.text(max_size=5), JSON | ARCH | st.integers(1, 300), max_size=3
)


@settings(steady, max_examples=400)
@given(name=st.sampled_from([*catalog.NETWORKS, *catalog.FAMILIES]) | st.text(max_size=5), given_settings=SETTINGS)
def test_random_settings_are_accepted_or_rejected(name: str, given_settings: dict[str, Any]) -> None:
    try:
        network = catalog.get(name, **given_settings)
    except ConfigError as error:
        shown(error)
        return
    made = json.loads(network.config_json())
    assert {key: made[key] for key in given_settings} == given_settings
    try:
        reference.describe(network)
    except ConfigError as error:
        shown(error)


@pytest.mark.parametrize(
    ("name", "given_settings", "message"),
    [
        ("lenet", {"num_classes": 2**31}, "below 2147483648"),
        ("lenet", {"input_size": [28, 10**4000]}, "below 2147483648"),
        ("anynet", {"arch": [[1, 10**400, 1, 0.5]]}, "below 2147483648"),
        ("anynet", {"arch": [[1, 8, 1, 1e308]]}, "below 2147483648"),
        ("anynet", {"arch": [[1, 8, 1, 10**400]]}, "below 2147483648"),
        ("anynet", {"arch": [[1, 8, 1, 5e-324]]}, "must be a positive multiple of the group width"),
        ("vgg", {"arch": [[10**9, 8]]}, "1000000000 layers or blocks in its stages; at most 1000 are allowed"),
        ("vgg", {"arch": [[1, 8]] * 1001}, "1001 layers"),
        ("densenet", {"arch": [600, 600]}, "1200 layers"),
        ("lenet", {"name": 1}, "there is no setting of lenet called 'name'"),
        ("lenet", {"self": 1}, "there is no setting of lenet called 'self'"),
        ("lenet", {"num_classes": "x\n" * 10**6}, "must be a positive integer"),
    ],
)
def test_extreme_settings_are_rejected(name: str, given_settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        catalog.get(name, **given_settings)
    shown(raised.value)


def test_the_largest_allowed_network_is_described_in_little_memory() -> None:
    tracemalloc.start()
    try:
        deep = catalog.get("anynet", arch=[[1000, 2**31 - 1, 1, 1]], in_channels=2**31 - 1, input_size=[2**31 - 1] * 2)
        description = reference.describe(deep)
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()
    assert description.manifest["stage1.block2.conv1.weight"].shape == (2**31 - 1, 2**31 - 1, 1, 1)
    wide = reference.describe(catalog.get("resnet", arch=[[1, 2**31 - 1]]))
    assert wide.parameters > 9 * (2**31 - 1) ** 2  # more than 64 bits can hold
    assert wide.multiply_accumulates > 9 * (2**31 - 1) ** 2


# Runs: configuration, metrics, checkpoints

EXPERIMENT = Experiment(
    "anynet",
    SMALL.settings(),
    "torch",
    "digits",
    epochs=2,
    batch_size=32,
    learning_rate=0.1,
    classes=("a", "b"),
    mean=(0.5,),
    std=(0.25,),
    optimizer=OptimizerConfig("adamw", clip_norm=1.0),
    schedule=ScheduleConfig("cosine", warmup=0.5),
)


def normal(value: object) -> Any:
    """Return a value after a round trip through JSON."""
    return json.loads(json.dumps(value))


RECORD = {"format": "rosetta-run", "version": 1, **normal(dataclasses.asdict(EXPERIMENT))}


@st.composite
def changed(draw: st.DrawFn, record: dict[str, Any]) -> dict[str, Any]:
    """Draw a record with a field changed, added or removed, at the top level or in a nested object."""
    record, within = dict(record), draw(st.sampled_from([name for name in record if isinstance(record[name], dict)]))
    place = record
    if draw(st.booleans()):
        place = record[within] = dict(record[within])
    name = draw(st.sampled_from([*place]) | st.text(max_size=5))
    if draw(st.integers(0, 3)):
        place[name] = draw(
            JSON | st.sampled_from(["sgd", "step", "float64", "gpu", 1e306, 10**400, True, [0.5], ["a"]])
        )
    else:
        place.pop(name, None)
    return record


@settings(steady, max_examples=500)
@given(record=changed(RECORD) | JSON)
def test_random_run_configurations_are_read_or_rejected(tmp_path: Path, record: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record))
    try:
        with limited_memory(path):
            experiment = Experiment.load(tmp_path)
    except InputError as error:
        begins(error, str(tmp_path))
        return
    made = normal(dataclasses.asdict(experiment))
    for name, value in record.items():
        if name in made and isinstance(value, dict):
            assert {key: made[name][key] for key in value} == value
        elif name in made:
            assert made[name] == value
            assert type(made[name]) in (type(value), float)  # a whole number is a float where one is expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.5}, "`epochs` (=1.5): expected int"),
        ({"epochs": True}, "`epochs` (=True): expected int"),
        ({"batch_size": "32"}, "`batch_size` (='32'): expected int"),
        ({"flip": 1}, "`flip` (=1): expected bool"),
        ({"data": None}, "`data` (=None): expected str"),
        ({"data_dir": 5}, "`data_dir` (=5): expected str | null"),
        ({"dtype": "float16"}, "`dtype` (='float16'): expected one of float32, float64"),
        ({"mean": 0.5}, "`mean` (=0.5): expected array"),
        ({"classes": [1]}, "`classes[0]` (=1): expected str"),
        ({"learning_rate": math.nan}, "`learning_rate` (=nan) must be a number above 0"),
        ({"optimizer": {"name": "sdg"}}, "`optimizer.name` (='sdg'): expected one of sgd"),
        ({"optimizer": {"speed": 1}}, "there is no field 'speed'; expected name, momentum"),
        ({"optimizer": []}, "`optimizer` (=[]): expected object"),
        ({"schedule": {"every": 1e308}}, "infinity"),
        ({"schedule": {"every": math.nan}}, "`every` (=nan) must be a number of epochs above 0"),
        ({"config": {"arch": [[1, 8]]}}, "stage 1 is [1, 8]"),
        ({"network": "lenet"}, "there is no setting of lenet called"),
    ],
)
def test_invalid_run_configurations_are_rejected(tmp_path: Path, changes: dict, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**RECORD, **changes}))
    assert message in refused(lambda path: Experiment.load(path.parent), tmp_path / "config.json", InputError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 10**5, "nested too deeply"),
        (b'{"format": "rosetta-run", "format": "rosetta-run"}', "'format' is given more than once"),
        (json.dumps(RECORD).encode("utf-16"), "is not JSON"),
        (b'{"format": "rosetta-run", "version": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b'{"format": "rosetta-run", "version": "1\\n2"}', "version '1\\n2'"),
    ],
)
def test_text_that_is_not_a_run_configuration_is_rejected(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    assert message in refused(lambda path: Experiment.load(path.parent), path, InputError)
    assert message in refused(lambda path: metrics.read(path.parent), path, InputError)


STEP = {"kind": "step", "step": 1, "epoch": 1, "loss": 2.5, "learning_rate": 0.1, "correct": 3, "examples": 32}
STEP["seconds"] = 0.5
EPOCH = {
    "kind": "epoch",
    "epoch": 1,
    "step": 1,
    "training_loss": 1.5,
    "training_accuracy": 0.5,
    "validation_loss": None,
}
EPOCH |= {"validation_accuracy": 0.25, "images_per_second": 320.0, "seconds": 0.5}
LINES = st.sampled_from([STEP, EPOCH]).flatmap(
    lambda line: st.tuples(st.sampled_from([*line, "more", "examples"]), JSON).map(
        lambda item: {**line, item[0]: item[1]}
    )
)


@settings(steady, max_examples=300)
@given(lines=st.lists(LINES | JSON, min_size=1, max_size=2))
def test_random_metrics_are_read_or_rejected(tmp_path: Path, lines: list[Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RECORD))
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        with limited_memory(path):
            history = metrics.read(tmp_path)
    except InputError as error:
        begins(error, f"{path}, line ")
        return
    assert history.steps.step.tolist() == [line["step"] for line in lines if line["kind"] == "step"]
    assert history.epochs.step.tolist() == [line["step"] for line in lines if line["kind"] == "epoch"]


def test_an_epoch_record_may_have_fields_of_a_step_record(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RECORD))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**EPOCH, "examples": "many"}) + "\n")
    assert metrics.read(tmp_path).epochs.epoch.tolist() == [1]


SLOTS = ("velocity.stem.conv.weight", "velocity.head.fc.bias")


def checkpoint(run: Path) -> Path:
    tensors = weights.initialize(SMALL, "probe")
    slots = {f"velocity.{name}": array for name, array in tensors.items() if "running_" not in name}
    run.mkdir()
    return checkpoints.write(run, SMALL, Position(3, 1, 3, 2.5, 10, 96, 0.5), tensors, slots, keep=1)


def seal(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint's state with valid checksums, as an attacker can."""
    if isinstance(state.get("files"), dict):
        names = [name for name in state["files"] if name and "\0" not in name and (path / name).is_file()]
        state["files"] |= {name: files.sha256_of(path / name) for name in names}
    state["sha256"] = checkpoints._own_sha256(state)
    (path / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": {"step": "3"}}, "`position.step` (='3'): expected int"),
        ({"position": {"step": 3.0}}, "`position.step` (=3.0): expected int"),
        ({"position": {"step": -3}}, "`position.step` (=-3): expected int >= 0"),
        ({"position": {"loss": math.inf}}, "`loss` (=inf): expected a finite number"),
        ({"position": {"place": 3}}, "there is no field 'place'; expected step, epoch"),
        ({"position": [3]}, "`position` (=[3]): expected object"),
        ({"files": {}}, "expected weights.safetensors"),
        ({"files": {"optimizer.safetensors": ""}}, "expected weights.safetensors"),
        ({"files": {"weights.safetensors": "", "../../config.json": ""}}, "expected weights.safetensors"),
        ({"files": {"weights.safetensors": "", "/etc/passwd": ""}}, "expected weights.safetensors"),
        ({"files": ["weights.safetensors"]}, "is no checkpoint"),
        ({"version": "1\n"}, "version '1\\n'"),
        ({"format": None}, 'has no "format": "rosetta-checkpoint"'),
    ],
)
def test_a_checkpoint_with_valid_checksums_and_invalid_state_is_rejected(
    tmp_path: Path, changes: dict, message: str
) -> None:
    path = checkpoint(tmp_path / "run")
    seal(path, {**json.loads((path / "state.json").read_text()), **changes})
    assert message in refused(lambda _: checkpoints.read(path), path / "weights.safetensors")
    assert message in checkpoints.last(tmp_path / "run")[1][0]


@pytest.mark.parametrize("wrong", ["missing", "more", "shape", "statistic", "no safetensors"])
def test_slots_that_do_not_match_the_weights_are_rejected(tmp_path: Path, wrong: str) -> None:
    path = checkpoint(tmp_path / "run")
    slots = {name: array.copy() for name, array in files.map_safetensors(path / "optimizer.safetensors")[1].items()}
    first = next(iter(slots))
    if wrong == "missing":
        del slots[first]
    elif wrong == "shape":
        slots[first] = np.zeros(3, np.float32)
    else:
        slots["velocity.stem.bn.running_mean" if wrong == "statistic" else "x\n"] = np.zeros(1, np.float32)
    files.write_safetensors(path / "optimizer.safetensors", slots)
    if wrong == "no safetensors":
        (path / "optimizer.safetensors").write_bytes(b"slots")
    seal(path, json.loads((path / "state.json").read_text()))
    message = refused(lambda _: checkpoints.read(path), path / "optimizer.safetensors", InputError)
    assert ("whole" if wrong == "no safetensors" else "slot ") in message or "Error" in message


@settings(steady, max_examples=200)
@given(data=st.data())
def test_random_checkpoint_states_are_read_or_rejected(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "run" / "checkpoints" / "step-00000003"
    if not path.exists():
        checkpoint(tmp_path / "run")
        (tmp_path / "state.json").write_bytes((path / "state.json").read_bytes())
    state = json.loads((tmp_path / "state.json").read_text())
    drawn = data.draw(changed(state))
    seal(path, drawn)
    try:
        with limited_memory(path / "weights.safetensors", 4):
            read = checkpoints.read(path)
    except RosettaError as error:
        shown(error)
        return
    assert {name: normal(dataclasses.asdict(read.position))[name] for name in drawn["position"]} == drawn["position"]


# Images and IDX files


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )


def ihdr(width: int, height: int, depth: int = 8, color: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, color, 0, 0, 0])


END = (b"IEND", b"")
ROWS = zlib.compress(b"\0abc" * 2)
PICTURES = {
    "pixels that the file cannot hold": (
        png(ihdr(9000, 9000), (b"IDAT", ROWS), END),
        "bytes cannot hold the 9000x9000",
    ),
    "more pixels than any": (png(ihdr(2**31 - 1, 2**31 - 1), (b"IDAT", ROWS), END), "larger than"),
    "no pixels": (png(ihdr(0, 3), (b"IDAT", ROWS), END), ""),
    "rows that are cut off": (png(ihdr(3, 2), (b"IDAT", ROWS[:8]), END), "cannot be read"),
    "a chunk longer than the file": (png(ihdr(3, 2), (b"IDAT", ROWS))[:-4] + b"\x7f\xff\xff\xffIDAT", None),
    "a text that grows a thousandfold": (
        png(ihdr(3, 2), (b"zTXt", b"a\0\0" + zlib.compress(bytes(50 * MIB))), (b"IDAT", ROWS), END),
        "cannot be read",
    ),
    "an orientation that is no number": (
        png(ihdr(3, 2), (b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\2\0"), (b"IDAT", ROWS), END),
        None,
    ),
    "a depth that is none": (png(ihdr(3, 2, 7), (b"IDAT", ROWS), END), ""),
    "another format": (b"GIF89a" + bytes(100), "not a PNG or JPEG image"),
    "a script": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a PNG or JPEG image"),
    "nothing": (b"", "not a PNG or JPEG image"),
}


@pytest.mark.parametrize("picture", PICTURES)
def test_malicious_images_are_rejected_or_read(tmp_path: Path, picture: str) -> None:
    data, message = PICTURES[picture]
    path = tmp_path / "image.png"
    path.write_bytes(data)
    open_image_of(tmp_path / "warm.png")
    with limited_memory(path, 64):
        if message is None:
            assert open_image(path).shape == (2, 3)
            return
        with pytest.raises(InputError) as raised:
            open_image(path)
    assert message in shown(raised.value)


def open_image_of(path: Path) -> None:
    """Read a small image first, so that Pillow's imports do not count."""
    path.write_bytes(png(ihdr(3, 2), (b"IDAT", ROWS), END))
    assert open_image(path).tolist() == [[*b"abc"]] * 2


@settings(steady, max_examples=300)
@given(width=st.integers(1, 5), height=st.integers(1, 5), data=st.data())
def test_damaged_images_are_read_or_rejected(tmp_path: Path, width: int, height: int, data: st.DataObject) -> None:
    path = tmp_path / "image"
    file = io.BytesIO()
    Image.new(data.draw(st.sampled_from(["L", "RGB"])), (width, height)).save(
        file, data.draw(st.sampled_from(["PNG", "JPEG"]))
    )
    whole = bytearray(file.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=3)):
        whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    try:
        array = open_image(path)
    except InputError as error:
        shown(error)
        return
    assert array.dtype == np.uint8
    assert array.ndim == 2 or array.shape[2:] == (3,)


AXES = st.lists(st.integers(0, 3) | st.sampled_from([2**31, 2**32 - 1]), max_size=5)


@settings(steady, max_examples=300)
@given(
    axes=AXES | AXES.map(lambda axes: axes + [1] * 70),
    body=st.binary(max_size=30),
    rank=st.integers(0, 255) | st.none(),
)
def test_random_idx_files_are_read_exactly_or_rejected(tmp_path: Path, axes: list[int], body: bytes, rank: Any) -> None:
    head = bytes([0, 0, 8, len(axes) if rank is None else rank]) + b"".join(axis.to_bytes(4, "big") for axis in axes)
    body = body[: math.prod(axes)] if math.prod(axes) <= 30 else body
    for data in (head + body, gzip.compress(head + body)):
        path = tmp_path / "idx"
        path.write_bytes(data)
        try:
            with limited_memory(path, 1100):
                array = read_idx(path)
        except InputError as error:
            shown(error)
            with pytest.raises(InputError):
                open_dataset("mnist", data_dir=tmp_path)
            continue
        assert (array.shape, array.tobytes()) == strangers.idx(head + body)


def test_an_idx_file_with_too_many_axes_is_rejected(tmp_path: Path) -> None:
    for axes in ([1] * 70, [0] + [2**32 - 1] * 3):
        (tmp_path / "idx").write_bytes(
            bytes([0, 0, 8, len(axes)]) + b"".join(n.to_bytes(4, "big") for n in axes) + b"x"
        )
        refused(read_idx, tmp_path / "idx", InputError)
        (tmp_path / "idx").write_bytes((tmp_path / "idx").read_bytes()[: 4 + 4 * len(axes) + (0 not in axes)])
        assert "no array can have" in refused(read_idx, tmp_path / "idx", InputError)


# Shared behavior


def test_json_with_duplicate_keys_is_rejected() -> None:
    for text in ('{"a": 1, "a": 1}', '{"b": {"a": 1, "\\u0061": 2}}', '[{"x": {"y": 1, "y": 1}}]'):
        with pytest.raises(ValueError, match="is given more than once"):
            json_records.parse(text)
    assert json_records.parse(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize("kind", [WeightsError, ConfigError, InputError])
def test_every_error_is_one_printable_line(kind: type[RosettaError]) -> None:
    message = str(kind("a\nb\x1b[31m\u2028c\ud800\0é"))
    assert message == "a b\\x1b[31m c\\ud800\\x00é"
    message = str(kind("x" * 10**6 + "end"))
    assert len(message) < 3000
    assert message.endswith("end")


def test_the_fuzzer_finds_no_error_in_a_few_files() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "fuzz.py", "--files", "150"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" 0 broke a rule") == 6
