"""Fuzz the readers of files: weights, checkpoints, configurations, images, IDX files and metrics.

    python benchmarks/fuzz.py --files 100000 --reader weights

Each file is a valid file with random changes: bits, spans, numbers, strings, lengths. Checksums are often recomputed,
so that the code behind them is tested too. A reader must return exactly the content that the format defines, or raise a
RosettaError with a one-line message. It must stay within its memory limit, and must not write, run or open anything
else. Each violation is printed with the command that reproduces it, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import dataclasses
import faulthandler
import gzip
import hashlib
import io
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

import numpy as np
import strangers
from PIL import Image
from safetensors.numpy import save

from common import catalog, weights
from common.cli.options import parse_config
from common.errors import RosettaError
from common.images import read_idx
from common.optimizers import OptimizerConfig
from common.training import checkpoints, metrics
from common.training.datasets import open_dataset, open_image
from common.training.experiment import Experiment, ScheduleConfig

Files = dict[str, bytes]
"""A sample: the files of one reader by their path in the folder."""

MIB = 1 << 20
SLOW = 5.0
"""Time limit for reading a small file, in seconds."""
SMALL = {
    "anynet": {"arch": [[1, 2, 1, 1]], "stem_channels": 1, "num_classes": 2, "input_size": [9, 8]},
    "densenet": {"arch": [1, 1], "growth_rate": 1, "num_channels": 1, "num_classes": 2, "input_size": [32, 32]},
}
"""Networks of a few hundred weights."""


class BrokenRuleError(Exception):
    """A reader violated a rule."""


def expect(condition: object, message: str) -> None:
    """Raise BrokenRuleError unless the condition holds."""
    if not condition:
        raise BrokenRuleError(message)


# Mutations


NUMBERS = (
    *(b"0", b"-0", b"-1", b"1", b"2", b"3", b"7", b"8", b"255", b"256", b"1000", b"1001", b"65535", b"65536"),
    *(b"2147483647", b"2147483648", b"4294967295", b"9007199254740993", b"9223372036854775807"),
    *(b"9223372036854775808", b"18446744073709551615", b"18446744073709551616", b"1" + b"0" * 400, b"9" * 5000),
    *(b"0.5", b"1.0", b"1e3", b"1e308", b"1e400", b"-1e400", b"5e-324", b"NaN", b"Infinity", b"-Infinity"),
    *(b"true", b"null", b'"1"', b"[]", b"{}", b"[1]"),
)
STRINGS = (
    *(b"", b"a", b"\\n", b"\\u0000", b"\\u001b[31m", b"\\ud800", b"\\u2028", b"\xff\xfe", b"\xc3\xa9", b"../../../x"),
    *(b"/etc/passwd", b"__metadata__", b"F32", b"F64", b"I64", b"F16", b"BF16", b"F4", b"shape", b"dtype", b"step"),
    *(b"epoch", b"lenet", b"resnet", b"vgg", b"name", b"self", b"config", b"arch", b"__class__", b"%s{0}", b"x" * 3000),
)
TEXT = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\.)*"')
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def span(data: bytes, chance: random.Random, longest: int = 64) -> tuple[int, int]:
    """Return the begin and end of a random span."""
    begin = chance.randrange(len(data) + 1)
    return begin, min(len(data), begin + chance.randint(1, longest))


def flip(data: bytes, chance: random.Random, _other: bytes) -> bytes:
    """Flip a few bits."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, chance: random.Random, _other: bytes) -> bytes:
    """Replace a few bytes by one repeated byte."""
    begin, end = span(data, chance, 8)
    return (
        data[:begin] + chance.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"\n", b'"', b"{")) * (end - begin) + data[end:]
    )


def cut(data: bytes, chance: random.Random, _other: bytes) -> bytes:
    """Keep only the beginning or the end."""
    where = chance.randrange(len(data) + 1)
    return data[:where] if chance.random() < 0.8 else data[where:]


def drop(data: bytes, chance: random.Random, _other: bytes) -> bytes:
    """Remove a span."""
    begin, end = span(data, chance)
    return data[:begin] + data[end:]


def repeat(data: bytes, chance: random.Random, _other: bytes) -> bytes:
    """Repeat a span."""
    begin, end = span(data, chance)
    return data[:end] + data[begin:end] * chance.choice((1, 1, 2, 50)) + data[end:]


def splice(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Continue with the end of another file."""
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def insert(data: bytes, chance: random.Random, _other: bytes) -> bytes:
    """Insert random bytes or a long repeated sequence."""
    where = chance.randrange(len(data) + 1)
    few = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
    more = chance.choice((few, b"[" * 2000, b'{"a":' * 500, b"[" * 100 + b"]" * 100, b"\0" * 64, b" " * 64, b",", b"}"))
    return data[:where] + more + data[where:]


def replace_match(
    pattern: re.Pattern[bytes], data: bytes, chance: random.Random, by: Callable[[bytes], bytes]
) -> bytes:
    """Replace one random match of the pattern."""
    matches = list(pattern.finditer(data))
    if not matches:
        return data
    match = chance.choice(matches)
    return data[: match.start()] + by(match[0]) + data[match.end() :]


def number(data: bytes, chance: random.Random, _other: bytes) -> bytes:
    """Replace a number by a nearby or an extreme one."""

    def by(old: bytes) -> bytes:
        near = chance.random() < 0.5 and old.isdigit() and len(old) < 100
        return str(max(0, int(old) + chance.choice((-8, -4, -1, 1, 4, 8)))).encode() if near else chance.choice(NUMBERS)

    return replace_match(NUMBER, data, chance, by)


def string(data: bytes, chance: random.Random, _other: bytes) -> bytes:
    """Replace a string by another one of the file or an unusual one."""
    own = [match[0] for match in TEXT.finditer(data)] or [b'""']
    new = chance.choice(own) if chance.random() < 0.5 else b'"' + chance.choice(STRINGS) + b'"'
    return replace_match(TEXT, data, chance, lambda _: new)


def swap(data: bytes, chance: random.Random, _other: bytes) -> bytes:
    """Swap two strings or two numbers, or two spans if there are none."""
    matches = list(chance.choice((TEXT, NUMBER)).finditer(data))
    if len(matches) > 1:
        first, second = sorted(chance.sample(matches, 2), key=lambda match: match.start())
        a, b, c, d = first.start(), first.end(), second.start(), second.end()
    else:
        a, b, c, d = sorted(chance.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


ANYWHERE = (flip, overwrite, cut, drop, repeat, splice, insert)
IN_TEXT = (*(number,) * 5, *(string,) * 4, *(swap,) * 3, drop, repeat, insert, flip)


def alter(data: bytes, chance: random.Random, other: bytes, ways: tuple[Callable[..., bytes], ...] = ANYWHERE) -> bytes:
    """Apply one to four random mutations."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        data = chance.choice(ways)(data, chance, other)
    return data


def text_or_bytes(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Mutate a text file, mostly its numbers and strings."""
    return alter(data, chance, other, IN_TEXT if chance.random() < 0.8 else ANYWHERE)


def safetensors(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Mutate a safetensors file: the header with its length corrected, the length, the body, or any byte."""
    end = 8 + int.from_bytes(data[:8], "little")
    where = chance.random()
    if where < 0.65:
        metadata, mark, tensors = data[8:end].partition(b'},"')
        if where < 0.2:
            header = alter(metadata, chance, other, IN_TEXT) + mark + tensors
        else:
            header = metadata + mark + alter(tensors, chance, other, IN_TEXT)
        return len(header).to_bytes(8, "little") + header + data[end:]
    if where < 0.75:
        length = chance.choice((0, 1, end - 9, end - 7, len(data) - 8, len(data) - 7, 2**31, 2**40, 2**63, 2**64 - 1))
        return length.to_bytes(8, "little") + data[8:]
    if where < 0.85:
        return data[:end] + alter(data[end:], chance, other)
    return alter(data, chance, other)


def png(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Mutate an image; in a PNG file, recompute the checksums of the chunks."""
    data = alter(data, chance, other)
    if data[:4] != b"\x89PNG" or chance.random() < 0.3:
        return data
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        chunk = data[position + 4 : end]
        parts.append(data[position : position + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big"))
        position = end + 4
    return b"".join(parts)


def idx_file(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Mutate an IDX file, before or after compression."""
    if data[:2] == b"\x1f\x8b" and chance.random() < 0.5:
        return gzip.compress(alter(gzip.decompress(data), chance, gzip.decompress(data)), 1, mtime=0)
    return alter(data, chance, other)


# Reading


def compare_safetensors(data: bytes, metadata: Mapping[str, str] | None, tensors: Mapping[str, np.ndarray]) -> None:
    """Compare the tensors and metadata with those of an independent reader."""
    try:
        expected_metadata, expected = strangers.safetensors(data)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokenRuleError(f"an invalid file was accepted: {error!r}") from None
    expect(metadata is None or dict(metadata) == expected_metadata, "its metadata differ from the file's")
    read = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in tensors.items()}
    codes = {"F32": "<f4", "F64": "<f8"}
    expected_arrays = {name: (codes.get(code), shape, numbers) for name, (code, shape, numbers) in expected.items()}
    expect(read == expected_arrays, "its tensors differ from the file's")


def read_weights(folder: Path, files: Files) -> None:
    """Read a file of weights."""
    file = weights.read(folder / "w.safetensors")
    data = files["w.safetensors"]
    compare_safetensors(data, None, file.tensors)
    metadata = strangers.safetensors(data)[0]
    expect(file.network.name == metadata["network"], "another network")
    settings = json.loads(file.network.config_json())
    expect(
        all(settings[name] == value for name, value in json.loads(metadata["config"]).items()), "another configuration"
    )
    expect(all(np.isfinite(array).all() for array in file.tensors.values()), "not finite")


def read_checkpoint(folder: Path, files: Files) -> None:
    """Read a checkpoint."""
    prefix = "checkpoints/step-00000003/"
    checkpoint = checkpoints.read(folder / prefix)
    compare_safetensors(files[f"{prefix}weights.safetensors"], None, checkpoint.weights)
    state = json.loads(files[f"{prefix}state.json"])
    if "optimizer.safetensors" in state["files"]:
        compare_safetensors(files[f"{prefix}optimizer.safetensors"], None, checkpoint.slots)
    else:
        expect(not checkpoint.slots, "slots that are not in the file")
    expect(within(state["position"], dataclasses.asdict(checkpoint.position)), "another position")


def within(expected: Any, actual: Any) -> bool:
    """True if all fields of `expected` have the same values in `actual`."""
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(
            name in actual and within(value, actual[name]) for name, value in expected.items()
        )
    return bool(expected == actual)


def read_config(folder: Path, files: Files) -> None:
    """Read a configuration of a network or of a run."""
    ((name, data),) = files.items()
    if name == "config.json":
        loaded = json.loads(json.dumps(dataclasses.asdict(Experiment.load(folder))))
        record = json.loads(data)
        expect(within({key: value for key, value in record.items() if key in loaded}, loaded), "another configuration")
        return
    config = parse_config(str(folder / name))
    network = catalog.get(name.partition(".")[0], **config)
    expect(within(json.loads(data), json.loads(network.config_json())), "another configuration")


def read_image(folder: Path, files: Files) -> None:
    """Read an image."""
    ((name, data),) = files.items()
    array = open_image(folder / name)
    expect(array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2:] == (3,)), f"{array.dtype} {array.shape}")
    if data[:4] == b"\x89PNG" and data[12:16] == b"IHDR":
        sides = {int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")}
        expect(set(array.shape[:2]) == sides, "another size")


def read_idx_files(folder: Path, files: Files) -> None:
    """Read the files of a data set, one by one and as a data set."""
    refusal = None
    for name, data in files.items():
        try:
            array = read_idx(folder / name)
            shape, numbers = strangers.idx(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
            expect((array.shape, array.tobytes()) == (shape, numbers), f"{name} was not read exactly")
        except RosettaError as error:
            check_refusal(error)
            refusal = error
    dataset = open_dataset("mnist", data_dir=folder)
    expect(refusal is None, f"only one of two readers accepts it: {refusal}")
    expect(dataset.training.labels.max() < 10, "a label beyond the classes")


def read_metrics(folder: Path, files: Files) -> None:
    """Read a run's metrics."""
    history = metrics.read(folder)
    lines = files["metrics.jsonl"].split(b"\n")[:-1]
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["kind"] == "step"]
    expect([record["step"] for record in steps] == history.steps.step.tolist(), "other steps")
    losses = [np.nan if record["loss"] is None else float(record["loss"]) for record in steps]
    losses = [loss if np.isfinite(loss) else np.nan for loss in losses]
    expect(np.array_equal(losses, history.steps.loss, equal_nan=True), "other losses")


# Samples


def weights_samples(folder: Path) -> list[Files]:
    """Return small weights files in both dtypes, and one in the tensor order of the safetensors library."""
    samples = []
    for name, config in SMALL.items():
        for dtype in ("float32", "float64"):
            path = folder / "w.safetensors"
            weights.write_initial(path, catalog.get(name, **config), "probe", 0, dtype)
            samples.append({path.name: path.read_bytes()})
    file = weights.read(path)
    metadata = strangers.safetensors(path.read_bytes())[0]
    return [*samples, {path.name: save(dict(file.tensors), metadata)}]


def checkpoint_samples(folder: Path) -> list[Files]:
    """Return a checkpoint without slots and one with slots."""
    network = catalog.get("anynet", **SMALL["anynet"])
    tensors = weights.initialize(network, "probe")
    slots = {f"velocity.{name}": array for name, array in tensors.items() if "running_" not in name}
    samples = []
    for saved_slots in ({}, slots):
        path = checkpoints.write(
            folder, network, checkpoints.Position(3, 1, 3, 2.5, 10, 96, 0.5), tensors, saved_slots, 1
        )
        samples.append({str(file.relative_to(folder)): file.read_bytes() for file in path.iterdir()})
    return samples


def config_samples(folder: Path) -> list[Files]:
    """Return configurations of each kind of network, and of runs."""
    networks = [*catalog.NETWORKS.values(), *catalog.FAMILIES.values()]
    samples: list[Files] = [{f"{network.name}.json": network.config_json().encode()} for network in networks]
    for name, config in SMALL.items():
        network = catalog.get(name, **config)
        optimizer = OptimizerConfig("adamw", weight_decay=0.01, clip_norm=1.0)
        described = {"classes": ("a", "b"), "mean": (0.5,), "std": (0.25,), "data_dir": "data"}
        plan = ScheduleConfig("cosine", warmup=0.5)
        Experiment(
            name, network.settings(), "torch", "mnist", 2, 32, 0.1, **described, optimizer=optimizer, schedule=plan
        ).save(folder)
        samples += [{"config.json": (folder / "config.json").read_bytes()}] * 8
    return samples


def image_samples(_folder: Path) -> list[Files]:
    """Return PNG and JPEG files of every mode, some with text, a palette or an orientation."""
    numbers = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    color = Image.fromarray(numbers[..., :3].copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    exif[0x010E] = "a picture"
    samples = []
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = Image.fromarray(numbers[..., 0].astype(np.uint16) * 257) if mode == "I;16" else color.convert(mode)
        file = io.BytesIO()
        image.save(file, "PNG", exif=exif, **({"transparency": b"\0\x80"} if mode == "P" else {}))
        samples.append({"image.png": file.getvalue()})
    for mode, options in (("L", {}), ("RGB", {"progressive": True}), ("CMYK", {}), ("RGB", {"exif": exif})):
        file = io.BytesIO()
        color.convert(mode).save(file, "JPEG", **options)
        samples.append({"image.jpg": file.getvalue()})
    return samples


def idx_samples(_folder: Path) -> list[Files]:
    """Return the four files of a data set, plain and compressed."""
    numbers = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
    images = b"\0\0\x08\x03" + b"".join(side.to_bytes(4, "big") for side in numbers.shape) + numbers.tobytes()
    labels = b"\0\0\x08\x01" + (6).to_bytes(4, "big") + bytes(range(6))
    plain = {
        f"{part}-{kind}": data
        for part in ("train", "t10k")
        for kind, data in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels))
    }
    return [plain, {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in plain.items()}]


def metrics_samples(_folder: Path) -> list[Files]:
    """Return a run's metrics."""
    config = b'{"format": "rosetta-run", "version": 1, "network": "lenet"}'
    lines = []
    for step in range(1, 7):
        numbers = {"loss": 2.5 / step if step != 3 else None, "learning_rate": 0.1, "correct": step, "examples": 32}
        lines.append({"kind": "step", "step": step, "epoch": (step + 2) // 3, **numbers, "seconds": step / 8})
        if step % 3 == 0:
            scores = {
                "training_loss": 1.5,
                "training_accuracy": 0.5,
                "validation_loss": None,
                "validation_accuracy": 0.25,
            }
            ends = {"epoch": step // 3, "step": step, **scores, "images_per_second": 320.0, "seconds": step / 8}
            lines.append({"kind": "epoch", **ends})
    return [{"config.json": config, "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode()}]


def seal(files: Files, chance: random.Random) -> Files:
    """Recompute the checksums of a mutated checkpoint, with probability 0.8."""
    if chance.random() < 0.2:
        return files
    files = dict(files)
    name = next(name for name in files if name.endswith("state.json"))
    try:
        state = json.loads(files[name])
        for listed in state["files"]:
            data = files.get(str(Path(name).parent / listed))
            if data is not None:
                state["files"][listed] = hashlib.sha256(data).hexdigest()
        rest = {key: value for key, value in state.items() if key != "sha256"}
        state["sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
        files[name] = json.dumps(state, indent=1).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # no longer JSON, or not a state
    return files


@dataclass(frozen=True)
class Reader:
    """Functions that create, mutate, seal and read the files of one reader.

    `ways`: the mutation for a file by the end of its name. `ratio`: allowed bytes of memory per byte of the file, more
    than one for compressed formats; `MIB` is allowed in addition.
    """

    samples: Callable[[Path], list[Files]]
    read: Callable[[Path, Files], None]
    ways: Mapping[str, Callable[[bytes, random.Random, bytes], bytes]]
    finish: Callable[[Files, random.Random], Files] = lambda files, _: files
    ratio: int = 1


READERS = {
    "weights": Reader(weights_samples, read_weights, {"": safetensors}),
    "checkpoint": Reader(checkpoint_samples, read_checkpoint, {".json": text_or_bytes, "": safetensors}, seal),
    "config": Reader(config_samples, read_config, {"": text_or_bytes}),
    "image": Reader(image_samples, read_image, {"": png}, ratio=8 * 1032 * 8),
    "idx": Reader(idx_samples, read_idx_files, {"": idx_file}, ratio=2 * 1032),
    "metrics": Reader(metrics_samples, read_metrics, {"": text_or_bytes}),
}


# Monitoring


class Watch:
    """Records the files that are opened or written and the code that is run or imported while `on`."""

    FORBIDDEN = ("exec", "compile", "import", "subprocess", "os.", "shutil", "socket", "tempfile", "ctypes", "pickle")
    HARMLESS = ("os.scandir", "os.listdir")

    def __init__(self, folder: Path, cache: Path) -> None:
        self.on, self.seen = False, list[str]()
        self._folder, self._cache = str(folder), str(cache)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = arguments
            named = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
            reads = not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            inside = os.path.normpath(named).startswith(self._folder) and reads
            if not (inside or named.startswith(self._cache) or isinstance(path, int)):
                self.seen.append(f"open {named or path!r}")
        elif (
            event.startswith(self.FORBIDDEN)
            and event not in self.HARMLESS
            # Compressed data sets are unpacked into the cache.
            and not any(str(argument).startswith(self._cache) for argument in arguments)
        ):
            self.seen.append(f"{event} {arguments!r:.200}")


def check_refusal(error: RosettaError) -> None:
    """Check that an error is one printable line."""
    message = str(error)
    expect(message.isprintable() and message, f"a message that is not one printable line: {message!r:.300}")
    expect(len(message) < 3000, f"a message of {len(message)} characters")


def kind_of(error: RosettaError, folder: Path) -> str:
    """Return an error's class and message, without the parts that depend on the file."""
    text = str(error).replace(str(folder), "")
    for pattern, by in ((r"'.*'|\".*\"|`.*`", "''"), (r"\(.*\)|\[.*\]|\{.*\}", "()"), (r"\S*[/.=\d]\S*", "..")):
        text = re.sub(pattern, by, text)
    return f"{type(error).__name__}: {' '.join(text.split())[:60]}"


def listing(folder: Path) -> set[str]:
    """Return the paths of all files and folders below a folder."""
    return {os.path.join(place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names)}


def peak() -> int:
    """Return the peak memory of the process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def written(folder: Path, files: Files) -> Iterator[None]:
    """Write files for the duration of the context; check that reading changes nothing and remove them."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    before = listing(folder)
    yield
    expect(listing(folder) == before, f"the reader wrote {listing(folder) ^ before}")
    for name, data in files.items():
        expect((folder / name).read_bytes() == data, f"{name} was changed")
        (folder / name).unlink()


def attempt(reader: Reader, folder: Path, files: Files, watch: Watch) -> RosettaError | None:
    """Read files and check the rules; return the error that rejects them, if any. Raises BrokenRuleError."""
    allowed = MIB + reader.ratio * sum(map(len, files.values()))
    refusal = None
    with written(folder, files):
        watch.seen.clear()
        highest, begin = peak(), time.perf_counter()
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        signal.alarm(60)
        watch.on = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                reader.read(folder, files)
        except RosettaError as error:
            refusal = error
        except BrokenRuleError:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise BrokenRuleError(f"{type(error).__name__}: {error!s:.300}") from error
        finally:
            watch.on = False
            signal.alarm(0)
        took, grown = tracemalloc.get_traced_memory()[1] - held, peak() - highest
    if refusal is not None:
        check_refusal(refusal)
    expect(took <= allowed, f"{took} bytes of memory for files of {sum(map(len, files.values()))} bytes")
    expect(grown <= allowed + 32 * MIB, f"the process grew by {grown} bytes")
    expect(time.perf_counter() - begin < SLOW, f"reading took {time.perf_counter() - begin:.1f} s")
    expect(not watch.seen, f"forbidden operations: {', '.join(watch.seen[:4])}")
    return refusal


def print_refusals(refused: Mapping[str, int], minimum: int) -> None:
    """Print the number of errors of each class, and the messages that occurred at least `minimum` times."""
    kinds = collections.Counter[str]()
    for text, count in refused.items():
        kinds[text.partition(": ")[0]] += count
    for kind, total in kinds.most_common():
        print(f"  {total:7} {kind}")
        for text, count in sorted(refused.items(), key=lambda item: -item[1]):
            if text.startswith(f"{kind}: ") and count >= minimum:
                print(f"  {count:15} {text.removeprefix(f'{kind}: ')}")


def altered(reader: Reader, samples: list[Files], chance: random.Random) -> Files:
    """Return a sample with one mutated file."""
    files = dict(chance.choice(samples))
    name = chance.choice(sorted(files))
    other = chance.choice(list(chance.choice(samples).values()))
    way = next(way for ending, way in reader.ways.items() if name.endswith(ending))
    files[name] = way(files[name], chance, other)
    return reader.finish(files, chance)


def fuzz(name: str, numbers: range, seed: int, watch: Watch, folder: Path) -> int:
    """Fuzz one reader with the mutated files of these numbers, print a summary, and return the number of violations."""
    reader, begin = READERS[name], time.monotonic()
    samples = reader.samples(folder)
    for sample in samples:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        with contextlib.suppress(BrokenRuleError):  # the first read imports modules
            attempt(reader, folder, sample, watch)
        refusal = attempt(reader, folder, sample, watch)
        if refusal is not None:
            raise refusal
    read, broken, refused, largest = 0, 0, collections.Counter[str](), 0
    for number in numbers:
        files = altered(reader, samples, random.Random(f"{seed} {name} {number}"))  # noqa: S311
        largest = max(largest, sum(map(len, files.values())))
        try:
            refusal = attempt(reader, folder, files, watch)
        except BrokenRuleError as error:
            broken += 1
            print(f"{name}, file {number}: {error}")
            print(f"  python benchmarks/fuzz.py --reader {name} --seed {seed} --first {number} --files 1")
            if len(numbers) == 1:
                for path, data in files.items():
                    print(f"  {path}: {base64.b85encode(data).decode()}")
            continue
        if refusal is None:
            read += 1
        else:
            refused[kind_of(refusal, folder)] += 1
    print(
        f"{name}: {len(numbers)} files of up to {largest} bytes in {time.monotonic() - begin:.0f} s: {read} read "
        f"exactly, {sum(refused.values())} rejected with one line, {broken} broke a rule",
        flush=True,
    )
    print_refusals(refused, len(numbers) // 200)
    return broken


def main() -> None:
    """Fuzz the chosen readers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=READERS, action="append", help="can be repeated  [default: all]")
    parser.add_argument("--files", type=int, default=10000, help="number of files for each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first file, which selects its mutations")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(signal.SIGALRM, chain=True)  # a file that takes a minute ends the run with a traceback
    tracemalloc.start()
    broken = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary).resolve() / "run", Path(temporary).resolve() / "cache"
        folder.mkdir()
        os.environ["ROSETTA_DATA"] = str(cache)
        watch = Watch(folder, cache)
        os.chdir(folder)
        for name in arguments.reader or READERS:
            numbers = range(arguments.first, arguments.first + arguments.files)
            broken += fuzz(name, numbers, arguments.seed, watch, folder)
        os.chdir(PROJECT)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
