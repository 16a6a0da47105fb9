"""Downloads, data sets and batches. The tests write their own files, byte by byte or with Pillow."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import re
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT

from common.errors import ConfigError, InputError
from common.images import enlarge
from common.training import datasets, download
from common.training.batches import Batch, Batches, order, prepare
from common.training.datasets import ArrayExamples, Examples, open_dataset, open_image

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; and no test waits before it tries again."""
    monkeypatch.setenv("ROSETTA_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_BACKOFF", 0)
    return tmp_path / "cache"


# Downloads


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`, misbehaving as told, and counts what is asked for and sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.length = True  # say how long the answer is
        self.cuts: list[int] = []  # bytes after which to cut each of the next connections
        self.statuses: list[int] = []  # errors with which to answer next
        self.requests: list[str | None] = []  # the Range of each request
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.requests.append(asked)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if begin and begin >= len(server.content):
            self.send_error(416)
            return
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts:
            body = body[: server.cuts.pop(0)]
        server.sent += len(body)  # before whoever asked has all of it, and looks
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def start() -> Server:
        servers.append(Server())
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,)).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(folder: Path, *urls: str, progress: download.Progress | None = None) -> Path:
    return download.fetch("file", urls, SHA256, len(CONTENT), folder, progress)


def left(folder: Path) -> dict[str, int]:
    """Return the files of a folder except locks: sizes by name."""
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix != ".lock"}


def test_a_download_is_complete_and_happens_once(tmp_path: Path, serve: Callable[[], Server]) -> None:
    server = serve()
    seen: list[tuple[str, int, int]] = []
    path = fetch(tmp_path / "a" / "b", server.url, progress=lambda *report: seen.append(report))
    assert path == tmp_path / "a" / "b" / "file"
    assert path.read_bytes() == CONTENT
    assert left(path.parent) == {"file": len(CONTENT)}
    assert {(name, size) for name, _, size in seen} == {("file", len(CONTENT))}
    done = [done for _, done, _ in seen]
    assert done == sorted(done)
    assert done[-1] == len(CONTENT)
    assert fetch(path.parent, server.url) == path
    assert len(server.requests) == 1


@pytest.mark.parametrize("length", [True, False])
def test_a_cut_download_resumes_where_it_was_cut(tmp_path: Path, serve: Callable[[], Server], length: bool) -> None:
    server = serve()
    server.cuts, server.length = [1_000_000, 500_000], length
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.sent == len(CONTENT)


def test_a_download_resumes_in_the_next_run(tmp_path: Path, serve: Callable[[], Server]) -> None:
    server = serve()
    server.cuts, server.statuses = [1_000_000], []

    def then_fail(name: str, done: int, size: int) -> None:
        server.statuses = [404]  # for the request after this one

    with pytest.raises(InputError, match="404"):
        fetch(tmp_path, server.url, progress=then_fail)
    assert left(tmp_path) == {"file.part": 1_000_000}
    other = serve()
    assert fetch(tmp_path, other.url).read_bytes() == CONTENT
    assert other.sent == len(CONTENT) - 1_000_000
    assert left(tmp_path) == {"file": len(CONTENT)}


def test_a_server_without_range_requests_sends_the_whole_file(tmp_path: Path, serve: Callable[[], Server]) -> None:
    server = serve()
    server.ranges = False
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]
    assert server.sent == len(CONTENT)


@pytest.mark.parametrize("part", [CONTENT[:-1] + b"?", b"wrong" * 1000, CONTENT + b"more", CONTENT + b"?" * 9999])
def test_a_partial_download_of_another_file_is_discarded(
    tmp_path: Path, serve: Callable[[], Server], part: bytes
) -> None:
    server = serve()
    (tmp_path / "file.part").write_bytes(part)
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.requests[-1] is None
    assert left(tmp_path) == {"file": len(CONTENT)}


def test_a_complete_partial_file_needs_no_request(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert fetch(tmp_path, "http://127.0.0.1:1/file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), True),
        (CONTENT[:-1], True),
        (CONTENT[:-1], False),
        (CONTENT + b"!", True),
        (CONTENT + bytes(9_000_000), False),
        (b"<html>Moved</html>", True),
        (b"", True),
        (b"", False),
    ],
)
@pytest.mark.parametrize("part", [0, 1000])
def test_another_file_is_refused_and_not_kept(
    tmp_path: Path, serve: Callable[[], Server], content: bytes, length: bool, part: int
) -> None:
    server = serve()
    server.content, server.length = content, length
    if part:
        (tmp_path / "file.part").write_bytes(CONTENT[:part])
    with pytest.raises(InputError) as error:
        fetch(tmp_path, server.url)
    assert "file" not in left(tmp_path)
    assert left(tmp_path).get("file.part", part) <= part
    assert "\n" not in str(error.value)
    for said in ("file", SHA256, str(len(CONTENT)), server.url, "--data-dir"):
        assert said in str(error.value)
    right = serve()  # and what is left does no harm
    assert fetch(tmp_path, right.url).read_bytes() == CONTENT


def test_wrong_bytes_are_named_by_their_checksum(tmp_path: Path, serve: Callable[[], Server]) -> None:
    server = serve()
    server.content = bytes(len(CONTENT))
    with pytest.raises(InputError, match=hashlib.sha256(bytes(len(CONTENT))).hexdigest()):
        fetch(tmp_path, server.url)
    assert left(tmp_path) == {}


def test_at_most_one_chunk_beyond_the_size_is_received(tmp_path: Path, serve: Callable[[], Server]) -> None:
    server = serve()
    server.content, server.length = CONTENT + bytes(9_000_000), False
    with pytest.raises(InputError) as error:
        fetch(tmp_path, server.url)
    received = re.search(r"another file, (\d+) bytes", str(error.value))
    assert received
    assert len(CONTENT) < int(received[1]) < len(CONTENT) + 1_000_000


def test_the_next_mirror_is_tried(tmp_path: Path, serve: Callable[[], Server]) -> None:
    wrong, gone, right = serve(), serve(), serve()
    wrong.content = CONTENT[::-1]
    gone.statuses = [404]
    down = "http://127.0.0.1:1/file"
    assert fetch(tmp_path, down, wrong.url, gone.url, right.url).read_bytes() == CONTENT
    assert [len(server.requests) for server in (wrong, gone, right)] == [1, 1, 1]


def test_a_busy_server_is_retried(tmp_path: Path, serve: Callable[[], Server]) -> None:
    server = serve()
    server.statuses = [503, 500]
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_damaged_file_is_replaced(tmp_path: Path, serve: Callable[[], Server]) -> None:
    (tmp_path / "file").write_bytes(CONTENT[:-1] + b"?")
    assert fetch(tmp_path, serve().url).read_bytes() == CONTENT


def test_two_concurrent_downloads_make_one_request(tmp_path: Path, serve: Callable[[], Server]) -> None:
    server = serve()
    threads = [threading.Thread(target=fetch, args=(tmp_path, server.url)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="ROSETTA_DATA"):
        fetch(tmp_path / "x" / "y", "http://127.0.0.1:1/file")


# IDX data sets


def write_idx(path: Path, array: np.ndarray, *, cut: int = 0, more: bytes = b"", kind: int = 8) -> None:
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()
    data = data[: len(data) - cut] + more
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
RNG = np.random.default_rng(1)
ARRAYS = (
    RNG.integers(0, 256, (60, 28, 28), np.uint8),
    np.arange(60, dtype=np.uint8) % 10,
    RNG.integers(0, 256, (20, 28, 28), np.uint8),
    np.arange(20, dtype=np.uint8)[::-1] % 10,
)


@pytest.fixture(params=["", ".gz"])
def mnist(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, array in zip(NAMES, ARRAYS, strict=True):
        write_idx(folder / f"{name}{request.param}", array)
    return folder


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_mapped(mnist: Path, cache: Path, name: str) -> None:
    data = open_dataset(name, data_dir=mnist)
    for part, images, labels in ((data.training, *ARRAYS[:2]), (data.validation, *ARRAYS[2:])):
        assert isinstance(part, ArrayExamples)
        assert isinstance(part.pixels, np.memmap)
        assert not part.pixels.flags.writeable
        np.testing.assert_array_equal(part.pixels, images)
        assert part.labels.dtype == np.int64
        np.testing.assert_array_equal(part.labels, labels)
        np.testing.assert_array_equal(part.images(np.array([7, 3])), images[[7, 3]])
        assert not isinstance(part.images(np.array([7, 3])), np.memmap)
    assert len(data.classes) == 10
    compressed = (mnist / f"{NAMES[0]}.gz").exists()
    copies = {path.name: path.stat().st_mtime_ns for path in cache.rglob("*ubyte.*") if path.suffix != ".lock"}
    assert len(copies) == (4 if compressed else 0)
    open_dataset(name, data_dir=mnist)
    assert copies == {path.name: path.stat().st_mtime_ns for path in cache.rglob("*ubyte.*") if path.name in copies}


def test_statistics_and_classes_of_the_named_data_sets(mnist: Path) -> None:
    fashion, digits = (open_dataset(name, data_dir=mnist) for name in ("fashion_mnist", "mnist"))
    assert fashion.classes[0] == "T-shirt/top"
    assert fashion.classes[9] == "Ankle boot"
    assert (fashion.mean, fashion.std) == ((0.2860,), (0.3530,))
    assert digits.classes == tuple("0123456789")
    assert (digits.mean, digits.std) == ((0.1307,), (0.3081,))


def test_changed_files_are_unpacked_again(tmp_path: Path) -> None:
    for name, array in zip(NAMES, ARRAYS, strict=True):
        write_idx(tmp_path / f"{name}.gz", array)
    open_dataset("mnist", data_dir=tmp_path)
    write_idx(tmp_path / f"{NAMES[0]}.gz", 255 - ARRAYS[0])
    np.testing.assert_array_equal(
        open_dataset("mnist", data_dir=tmp_path).training.images(np.arange(60)), 255 - ARRAYS[0]
    )


def test_a_damaged_copy_in_the_cache_is_replaced(tmp_path: Path, cache: Path) -> None:
    for name, array in zip(NAMES, ARRAYS, strict=True):
        write_idx(tmp_path / f"{name}.gz", array)
    open_dataset("mnist", data_dir=tmp_path)
    for path in cache.rglob("*ubyte.*"):
        path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(open_dataset("mnist", data_dir=tmp_path).training.images(np.arange(60)), ARRAYS[0])


def test_data_sets_are_downloaded_where_no_folder_is_given(
    cache: Path, serve: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        gzip.compress(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())
        for array in ARRAYS
    ]
    source = datasets._Source(
        urls=("https://nowhere.invalid",),
        sizes=tuple(map(len, files)),
        sha256=tuple(hashlib.sha256(data).hexdigest() for data in files),
        classes=tuple("0123456789"),
        mean=0.5,
        std=0.5,
    )
    monkeypatch.setitem(datasets._SOURCES, "mnist", source)  # type: ignore[arg-type]
    (cache / "mnist").mkdir(parents=True)
    for name, data in zip(NAMES, files, strict=True):
        (cache / "mnist" / f"{name}.gz").write_bytes(data)
    np.testing.assert_array_equal(open_dataset("mnist").training.images(np.arange(60)), ARRAYS[0])
    # Without the last file, it is asked for; here, in vain.
    (cache / "mnist" / f"{NAMES[3]}.gz").unlink()
    monkeypatch.setitem(
        datasets._SOURCES, "mnist", source.__class__(**{**vars(source), "urls": ("http://127.0.0.1:1",)})
    )  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"http://127.0.0.1:1/{NAMES[3]}.gz"):
        open_dataset("mnist")


def test_sources_are_https_with_whole_checksums() -> None:
    for source in datasets._SOURCES.values():
        assert len(source.urls) > 1
        assert all(url.startswith("https://") and not url.endswith("/") for url in source.urls)
        assert len(source.sizes) == len(source.sha256) == 4
        assert all(len(bytes.fromhex(digest)) == 32 for digest in source.sha256)


def test_missing_files_are_listed(mnist: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        open_dataset("mnist", data_dir=mnist / "x")
    for path in mnist.iterdir():
        if NAMES[1] in path.name or NAMES[2] in path.name:
            path.unlink()
    with pytest.raises(InputError, match=f"{NAMES[1]}.gz, {NAMES[2]}.gz,") as error:
        open_dataset("mnist", data_dir=mnist)
    assert NAMES[0] not in str(error.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("which", "array", "options", "said"),
    [
        (0, ARRAYS[0], {"cut": 1}, "makes 47056"),
        (0, ARRAYS[0], {"cut": 60 * 28 * 28 + 3}, "needs 16"),
        (0, ARRAYS[0], {"more": b"x"}, "makes 47056"),
        (0, ARRAYS[0], {"kind": 0x0D}, "not an IDX file of unsigned bytes"),
        (0, ARRAYS[0][0], {}, "must be an IDX file of images, of rank 3"),
        (1, ARRAYS[0], {}, "must be an IDX file of labels, of rank 1"),
        (0, ARRAYS[0][:0], {}, "is empty"),
        (0, ARRAYS[0][:, :0], {}, "is empty"),
        (3, ARRAYS[3][:-1], {}, "has 20 images, but .* has 19 labels"),
        (1, np.where(np.arange(60) == 7, 10, ARRAYS[1]).astype(np.uint8), {}, "label 7 is 10; labels go from 0 to 9"),
    ],
)
def test_idx_files_that_are_wrong_are_refused(
    tmp_path: Path, cache: Path, suffix: str, which: int, array: np.ndarray, options: dict[str, int], said: str
) -> None:
    for i, name in enumerate(NAMES):
        write_idx(
            tmp_path / (name + suffix), *(array,) if i == which else (ARRAYS[i],), **options if i == which else {}
        )  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said) as error:
        open_dataset("mnist", data_dir=tmp_path)
    assert str(tmp_path / (NAMES[which] + suffix)) in str(error.value)
    assert not [path for path in cache.rglob("*") if NAMES[0] in path.name and which == 0 and path.suffix != ".lock"]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:500] + b"?" * 100 + data[600:]])
def test_compressed_files_that_are_damaged_are_refused(tmp_path: Path, cache: Path, damage: Callable) -> None:
    for name, array in zip(NAMES, ARRAYS, strict=True):
        write_idx(tmp_path / f"{name}.gz", array)
    path = tmp_path / f"{NAMES[0]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path}: cannot be read"):
        open_dataset("mnist", data_dir=tmp_path)
    assert left(cache / "unpacked") == {}


def test_unpacking_stops_where_the_header_says(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(datasets, "_read", lambda path, stream, size: read.append(size) or stream.read(size))
    for name, array in zip(NAMES, ARRAYS, strict=True):
        write_idx(tmp_path / f"{name}.gz", array)
    write_idx(tmp_path / f"{NAMES[0]}.gz", ARRAYS[0], more=bytes(200 << 20))  # 200 MiB in 200 KiB
    with pytest.raises(InputError, match="holds more bytes"):
        open_dataset("mnist", data_dir=tmp_path)
    assert sum(read) < 4 << 20
    head = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    (tmp_path / f"{NAMES[0]}.gz").write_bytes(gzip.compress(head))
    with pytest.raises(InputError, match="bytes unpacked"):
        open_dataset("mnist", data_dir=tmp_path)


# Digits and folders


def test_digits_are_split_by_the_seed_alone() -> None:
    data, again, other = open_dataset("digits"), open_dataset("digits", seed=0), open_dataset("digits", seed=1)
    assert (len(data.training), len(data.validation)) == (1438, 359)
    everything = np.concatenate([part.images(np.arange(len(part))) for part in (data.training, data.validation)])
    whole, labels = datasets.digits()
    assert sorted(map(bytes, everything)) == sorted(map(bytes, whole))
    pairs = {bytes(image): label for image, label in zip(whole, labels, strict=True)}
    assert all(pairs[bytes(data.training.images(np.array([i]))[0])] == data.training.labels[i] for i in range(100))
    np.testing.assert_array_equal(data.training.labels, again.training.labels)
    assert (data.training.labels != other.training.labels).any()
    pixels = data.training.images(np.arange(1438)) / 255
    np.testing.assert_allclose((data.mean[0], data.std[0]), (pixels.mean(), pixels.std()), rtol=1e-12)


def write_image(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def gray(i: int, size: tuple[int, int] = (6, 5)) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, size, np.uint8)


def color(i: int, size: tuple[int, int] = (6, 5)) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images of owls and five of cats, beside files that are none."""
    root = tmp_path / "animals"
    for i in range(10):
        write_image(root / "owls" / f"{i:02}.PNG", gray(i))
    for i in range(10, 15):
        write_image(root / "cats" / f"{i:02}.png", gray(i))
    (root / "owls" / "notes.txt").write_text("not an image")
    (root / "owls" / "._00.png").write_text("not an image")
    (root / ".hidden").mkdir()
    (root / "README").write_text("not a class")
    return root


def all_images(examples: Examples) -> list[tuple[int, bytes]]:
    images = examples.images(np.arange(len(examples)))
    return sorted((int(label), bytes(image)) for label, image in zip(examples.labels, images, strict=True))


def test_a_folder_is_split_by_the_seed(folder: Path) -> None:
    data = open_dataset(str(folder))
    assert (data.name, data.classes) == ("animals", ("cats", "owls"))
    assert (len(data.training), len(data.validation)) == (12, 3)
    whole = sorted([(0, gray(i).tobytes()) for i in range(10, 15)] + [(1, gray(i).tobytes()) for i in range(10)])
    assert sorted(all_images(data.training) + all_images(data.validation)) == whole
    assert all_images(open_dataset(str(folder)).validation) == all_images(data.validation)
    assert any(all_images(open_dataset(str(folder), seed=s).validation) != all_images(data.validation) for s in (1, 2))
    pixels = np.stack(data.training.images(np.arange(12))) / 255
    np.testing.assert_allclose((data.mean[0], data.std[0]), (pixels.mean(), pixels.std()), rtol=1e-12)


@pytest.mark.parametrize("held", ["val", "validation", "test"])
def test_a_folder_may_have_training_and_validation_subfolders(folder: Path, tmp_path: Path, held: str) -> None:
    root = tmp_path / "split"
    root.mkdir()
    folder.rename(root / "train")
    write_image(root / held / "cats" / "a.jpg", color(20, (16, 16)))
    with pytest.raises(InputError, match=f"train and {held} must have the same classes; only one has owls"):
        open_dataset(str(root))
    write_image(root / held / "owls" / "a.jpeg", gray(21))
    data = open_dataset(str(root))
    assert data.classes == ("cats", "owls")
    assert (len(data.training), len(data.validation)) == (15, 2)


def test_the_statistics_of_colors(tmp_path: Path) -> None:
    for i in range(10):
        write_image(tmp_path / "a" / f"{i}.png", color(i) // (1 + np.arange(3, dtype=np.uint8)))
    data = open_dataset(str(tmp_path))
    pixels = np.stack(data.training.images(np.arange(8))) / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert data.mean[0] > data.mean[1] > data.mean[2]


def test_blank_images_have_a_deviation_to_divide_by(tmp_path: Path) -> None:
    for i in range(5):
        write_image(tmp_path / "a" / f"{i}.png", np.full((4, 4), 51, np.uint8))
    data = open_dataset(str(tmp_path))
    assert (data.mean, data.std) == ((0.2,), (1.0,))


def test_images_are_read_on_access(folder: Path) -> None:
    data = open_dataset(str(folder))
    assert isinstance(data.validation, datasets.FileExamples)
    Path(data.validation.paths[0]).unlink()
    data.validation.images(np.array([1, 2]))
    with pytest.raises(InputError, match=data.validation.paths[0]):
        data.validation.images(np.array([0]))


def test_folders_that_are_wrong_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data set or folder 'fashion_mnits'; did you mean fashion_mnist"):
        open_dataset("fashion_mnits")
    with pytest.raises(InputError, match="no data set or folder"):
        open_dataset(str(tmp_path / "x"))
    with pytest.raises(InputError, match="has no folders"):
        open_dataset(str(tmp_path))
    write_image(tmp_path / "a" / "0.png", gray(0))
    with pytest.raises(InputError, match="has one image"):
        open_dataset(str(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match=r"no \.png, \.jpg or \.jpeg images in b, c"):
        open_dataset(str(tmp_path))


def test_an_image_of_any_kind_is_gray_or_in_color(tmp_path: Path) -> None:
    picture = Image.fromarray(color(0, (16, 24)))
    for mode, shape in {"L": (16, 24), "1": (16, 24), "LA": (16, 24), "RGB": (16, 24, 3), "RGBA": (16, 24, 3)}.items():
        picture.convert(mode).save(tmp_path / "x.png")
        assert open_image(tmp_path / "x.png").shape == shape
        assert open_image(tmp_path / "x.png").dtype == np.uint8
    picture.convert("RGB").save(tmp_path / "x.png")
    np.testing.assert_array_equal(open_image(tmp_path / "x.png"), color(0, (16, 24)))
    few = picture.quantize(16)
    few.save(tmp_path / "x.png", transparency=bytes(range(16)))
    np.testing.assert_array_equal(open_image(tmp_path / "x.png"), np.asarray(few.convert("RGB")))
    deep = np.arange(0, 65536, 8192, dtype=np.uint16).reshape(2, 4)
    Image.fromarray(deep).save(tmp_path / "x.png")
    np.testing.assert_array_equal(open_image(tmp_path / "x.png"), deep >> 8)
    picture.convert("CMYK").save(tmp_path / "x.jpg")
    assert open_image(tmp_path / "x.jpg").shape == (16, 24, 3)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn to the right makes it upright
    write_image(tmp_path / "x.png", gray(0), exif=turned)
    np.testing.assert_array_equal(open_image(tmp_path / "x.png"), np.rot90(gray(0), -1))


def test_images_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    for suffix in ("png", "jpg"):
        path = tmp_path / f"x.{suffix}"
        with pytest.raises(InputError, match=f"{path}: cannot be read: No such file"):
            open_image(path)
        path.write_bytes(b"no image")
        with pytest.raises(InputError, match=f"{path}: not a PNG or JPEG image"):
            open_image(path)
        write_image(path, color(0, (64, 64)))
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=f"{path}: cannot be read"):
            open_image(path)
        write_image(path, color(0, (64, 64)))
        for limit in (4000, 2000):  # Pillow warns from its limit on and refuses from twice that
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with pytest.raises(InputError, match=f"{path}: larger than {limit} pixels"):
                    open_image(path)
        monkeypatch.undo()
    path.write_bytes(b"GIF89a" + bytes(100))
    with pytest.raises(InputError, match="not a PNG or JPEG image"):
        open_image(path)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        open_image(tmp_path)


# Batches

PLAIN = {"dtype": np.float32, "mean": (0.0,), "std": (1.0,), "seed": 0}


def numbered(n: int, size: tuple[int, int] = (4, 4)) -> ArrayExamples:
    """Images that say which they are: each of one gray level, its index."""
    return ArrayExamples(np.arange(n), np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None], (n, *size)))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.images.tobytes() == b.images.tobytes()
        and a.labels.tobytes() == b.labels.tobytes()
        and a.indices.tobytes() == b.indices.tobytes()
        for a, b in zip(one, other, strict=True)
    )


def test_the_order_is_of_examples_and_depends_on_seed_and_epoch_only() -> None:
    # As first computed, with NumPy 1.23.5 and 2.4.6.
    assert order(10, 0, 0).tolist() == [7, 6, 4, 5, 3, 9, 1, 0, 2, 8]
    assert order(10, 7, 3).tolist() == [1, 9, 6, 5, 0, 7, 2, 8, 3, 4]
    script = "from common.training.batches import order; order(5, 1, 1); print(order(1000, 5, 2).tolist())"
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == str(order(1000, 5, 2).tolist())
    orders = {tuple(order(100, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert all(sorted(one) == list(range(100)) for one in orders)
    # Every place is as likely for an example: of 2,000 epochs about 200 have it in each, give or take 13.
    places = np.bincount([list(order(10, 0, epoch)).index(4) for epoch in range(2000)], minlength=10)
    assert abs(places - 200).max() < 60


def test_an_epoch_has_every_example_once_and_the_next_mixes_batches() -> None:
    epochs = [list(Batches(numbered(100), (1, 4, 4), 10, **PLAIN).epoch(e)) for e in range(2)]
    for epoch in epochs:
        assert len(epoch) == 10
        assert sorted(np.concatenate([batch.indices for batch in epoch])) == list(range(100))
        for batch in epoch:
            assert batch.images.shape == (10, 1, 4, 4)
            assert batch.images.dtype == np.float32
            assert batch.images.flags.c_contiguous
            assert batch.labels.dtype == np.int64
            np.testing.assert_array_equal(batch.labels, batch.indices)
            np.testing.assert_array_equal(np.rint(batch.images[:, 0, 0, 0] * 255), batch.indices)
    groups = [{frozenset(batch.indices.tolist()) for batch in epoch} for epoch in epochs]
    assert not groups[0] & groups[1]


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [4, 4]), (False, [4, 4, 2])])
def test_the_last_batch_is_left_out_or_smaller(drop_last: bool, sizes: list[int]) -> None:
    batches = Batches(numbered(10), (1, 4, 4), 4, **PLAIN, shuffle=False, drop_last=drop_last)
    epoch = list(batches.epoch(0))
    assert [len(batch.labels) for batch in epoch] == sizes
    assert len(batches) == len(sizes)
    assert np.concatenate([batch.indices for batch in epoch]).tolist() == list(range(sum(sizes)))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 12)])
def test_an_epoch_resumed_in_the_middle_gives_the_remaining_batches(shape: tuple[int, int, int]) -> None:
    data = open_dataset("digits")

    def made() -> Batches:
        return Batches(data.training, shape, 100, **{**PLAIN, "seed": 3}, flip=True, crop=2)

    used = made()
    epochs = [list(used.epoch(e)) for e in range(3)]
    assert len(epochs[2]) == 14
    for start in (0, 1, 9, 13, 14):
        assert same(list(made().epoch(2, start)), epochs[2][start:])
    assert not same(epochs[1], epochs[2])
    for start in (-1, 15):
        with pytest.raises(ConfigError, match=f"`start` \\(={start}\\) must be from 0 to 14"):
            used.epoch(2, start)


def test_augmentation_flips_and_shifts() -> None:
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    examples = ArrayExamples(np.zeros(400, np.int64), np.broadcast_to(image, (400, 3, 4)))

    def seen(batch_size: int = 400, epoch: int = 0, **options: object) -> dict[int, bytes]:
        epoch_ = Batches(examples, (1, 3, 4), batch_size, **PLAIN, **options).epoch(epoch)  # type: ignore[arg-type]
        images = [
            (int(i), np.rint(x[0] * 255).astype(np.uint8))
            for batch in epoch_
            for i, x in zip(batch.indices, batch.images, strict=True)
        ]
        return {i: x.tobytes() for i, x in images}

    flipped = seen(flip=True)
    assert set(flipped.values()) == {image.tobytes(), image[:, ::-1].tobytes()}
    assert 140 < sum(x == image.tobytes() for x in flipped.values()) < 260
    padded = np.pad(image, 1)
    moves = {padded[y : y + 3, x : x + 4].tobytes() for y in range(3) for x in range(3)}
    assert set(seen(crop=1).values()) == moves
    assert len(set(seen(flip=True, crop=1).values())) == 18
    # An example's augmentation depends on the example, not on its batch or its position in it.
    assert seen(flip=True, crop=1) == seen(flip=True, crop=1, batch_size=7, drop_last=False, shuffle=False)
    assert seen(flip=True, crop=1) != seen(flip=True, crop=1, epoch=1)


def test_enlarging_is_bilinear_between_pixel_centers() -> None:
    # Two pixels to four: a quarter and three quarters of the way, edges held.
    image = np.array([[0, 100], [200, 40]], np.uint8)
    row0, row1 = np.array([0, 25, 75, 100]), np.array([200, 160, 80, 40])
    expected = [row0, 0.75 * row0 + 0.25 * row1, 0.25 * row0 + 0.75 * row1, row1]
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-14)):
        out = prepare(image, (1, 4, 4), (0.0,), (1.0,), dtype)
        assert out.dtype == dtype
        np.testing.assert_allclose(out[0] * 255, expected, rtol=tolerance)
    # Pillow's, which computes in integers.
    image = gray(0, (28, 28))
    by_pillow = np.asarray(Image.fromarray(image).resize((83, 57), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(prepare(image, (1, 57, 83), (0.0,), (1.0,), np.float64)[0], by_pillow, atol=1e-2)


@pytest.mark.parametrize("old", [(8, 8), (28, 28), (7, 40), (31, 9), (300, 200), (1, 1), (224, 96)])
@pytest.mark.parametrize("new", [(28, 28), (57, 83), (1, 1), (12, 100)])
def test_images_of_any_size_are_resized_to_any_other(old: tuple[int, int], new: tuple[int, int]) -> None:
    images = np.stack([gray(i, old) for i in range(2)])
    for image in images:
        out = prepare(image, (1, *new), (0.3,), (0.2,), np.float64)
        np.testing.assert_allclose(out[0], (enlarge(image / 255, new) - 0.3) / 0.2, rtol=1e-9, atol=1e-12)


def test_random_values_are_the_same_in_every_version_of_numpy() -> None:
    # Computed with NumPy 1.23.5 and 2.4.6; other sums of two products would differ in the last bit.
    data = open_dataset("digits")
    batches = Batches(
        data.training, (3, 96, 96), 128, dtype=np.float32, mean=data.mean, std=data.std, seed=1, flip=True, crop=1
    )
    digest = hashlib.sha256()
    for batch in batches.epoch(2):
        digest.update(batch.images.tobytes())
    assert digest.hexdigest()[:16] == "2305684f92660e55"


def test_channels_are_repeated_or_made_gray() -> None:
    assert prepare(gray(0), (4, 6, 5), (0.0,), (1.0,), np.float64).shape == (4, 6, 5)
    for plane in prepare(gray(0), (4, 6, 5), (0.1,), (0.5,), np.float64):
        np.testing.assert_allclose(plane, (gray(0) / 255 - 0.1) / 0.5, rtol=1e-12)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    image = color(0)
    out = prepare(image, (3, 6, 5), mean, std, np.float64)
    for c in range(3):
        np.testing.assert_allclose(out[c], (image[..., c] / 255 - mean[c]) / std[c], rtol=1e-9)
    # A gray image among colors has them all.
    out = prepare(gray(0), (3, 6, 5), mean, std, np.float64)
    for c in range(3):
        np.testing.assert_allclose(out[c], (gray(0) / 255 - mean[c]) / std[c], rtol=1e-9)
    # BT.601: of pure red 0.299, of green 0.587, of blue 0.114.
    primaries = 255 * np.eye(3, dtype=np.uint8)[None]
    out = prepare(primaries, (1, 1, 3), (0.0,), (1.0,), np.float64)
    np.testing.assert_allclose(out[0, 0], [0.299, 0.587, 0.114])
    out = prepare(primaries, (1, 1, 3), mean, std, np.float64)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(out[0, 0], (luma - luma @ mean) / (luma @ std))
    with pytest.raises(ConfigError, match="1 or 3 input channels, not 2"):
        prepare(image, (2, 6, 5), mean, std, np.float64)


def test_prepare_accepts_a_pillow_image() -> None:
    for array in (gray(0), color(0)):
        np.testing.assert_array_equal(
            prepare(Image.fromarray(array), (1, 8, 8), (0.5,), (0.5,), np.float32),
            prepare(array, (1, 8, 8), (0.5,), (0.5,), np.float32),
        )
    for array in (gray(0) / 255, np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(InputError, match="must be bytes"):
            prepare(array, (1, 8, 8), (0.5,), (0.5,), np.float32)


def test_images_of_many_sizes_and_kinds_make_a_batch(tmp_path: Path) -> None:
    for i in range(6):
        write_image(tmp_path / "gray" / f"{i}.png", gray(i, (5 + i, 9)))
        write_image(tmp_path / "color" / f"{i}.png", color(i, (8, 4 + i)))
    data = open_dataset(str(tmp_path))
    assert len(data.mean) == 3
    assert isinstance(data.training, datasets.FileExamples)
    options = {"dtype": np.float32, "mean": data.mean, "std": data.std, "seed": 0}
    (batch,) = Batches(data.training, (3, 16, 12), 10, **options).epoch(0)
    for index, label, image in zip(batch.indices, batch.labels, batch.images, strict=True):
        path = Path(data.training.paths[index])
        assert data.classes[label] == path.parent.name
        np.testing.assert_array_equal(image, prepare(open_image(path), (3, 16, 12), data.mean, data.std, np.float32))
    # An image is augmented alike alone and among others of its size.
    rest = {**options, "flip": True, "crop": 2, "shuffle": False}
    together = next(iter(Batches(data.training, (3, 16, 12), 10, **rest).epoch(0))).images
    alone = [batch.images for batch in Batches(data.training, (3, 16, 12), 1, **rest).epoch(0)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, r"`batch_size` \(=0\) must be at least 1"), (11, "10 training images do not fill a batch of 11")],
)
def test_invalid_batch_sizes_are_refused(size: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Batches(numbered(10), (1, 4, 4), size, **PLAIN)
    with pytest.raises(ConfigError, match=r"`crop` \(=-1\)"):
        Batches(numbered(10), (1, 4, 4), 2, **PLAIN, crop=-1)
    assert [len(b.labels) for b in Batches(numbered(10), (1, 4, 4), 11, **PLAIN, drop_last=False).epoch(0)] == [10]


def preparing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


class Watched(ArrayExamples):
    """Counts the batches asked for, takes its time, and fails in one of them."""

    asked = 0
    fails_in = -1
    takes = 0.0  # seconds

    def images(self, indices: np.ndarray) -> np.ndarray:
        kind = type(self)
        kind.asked += 1
        time.sleep(kind.takes)
        if kind.asked - 1 == kind.fails_in:
            raise InputError("x.png: cannot be read")
        return super().images(indices)


@pytest.fixture
def watched() -> Iterator[Watched]:
    Watched.asked, Watched.fails_in, Watched.takes = 0, -1, 0.0
    examples = numbered(100)
    yield Watched(examples.labels, examples.pixels)
    assert preparing() == []


def test_a_background_thread_prepares_batches_and_ends(watched: Watched) -> None:
    batches = Batches(watched, (1, 4, 4), 5, **PLAIN)
    epoch = batches.epoch(0)
    assert preparing() == []
    next(epoch)
    assert len(preparing()) == 1
    for _ in epoch:
        assert len(preparing()) == 1
    assert preparing() == []
    assert Watched.asked == 20


def test_stopping_early_ends_the_thread(watched: Watched) -> None:
    batches = Batches(watched, (1, 4, 4), 5, **PLAIN)
    for _ in batches.epoch(0):
        break
    assert preparing() == []
    assert Watched.asked <= 5, "no more is prepared ahead than a few batches"
    epoch = batches.epoch(0)
    next(epoch)
    epoch.close()  # type: ignore[attr-defined]
    assert preparing() == []

    def interrupted() -> None:
        for _ in batches.epoch(0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    Watched.asked, Watched.takes = 0, 0.2
    for _ in batches.epoch(0):
        break
    assert Watched.asked <= 2, "what is not begun is not prepared any more"


def test_an_error_is_raised_in_place_of_its_batch(watched: Watched) -> None:
    Watched.fails_in = 7
    taken = []

    def take() -> None:
        for batch in Batches(watched, (1, 4, 4), 5, **PLAIN).epoch(0):
            taken.append(batch)

    with pytest.raises(InputError, match=r"x\.png"):
        take()
    assert len(taken) == 7
    assert preparing() == []


def test_a_damaged_image_in_a_folder_is_named(folder: Path) -> None:
    data = open_dataset(str(folder))
    assert isinstance(data.training, datasets.FileExamples)
    path = Path(data.training.paths[3])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=str(path)):
        list(Batches(data.training, (1, 8, 8), 4, dtype=np.float32, mean=data.mean, std=data.std, seed=0).epoch(0))


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    script = (
        "import sys, common.training.batches\n"
        "print(*{'PIL', 'requests', 'urllib3', 'filelock', 'platformdirs'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == ""
