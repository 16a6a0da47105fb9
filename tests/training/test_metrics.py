"""Metrics files, training curves and confusion matrices."""

import json
import math
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support import ROOT

from common import plotting
from common.errors import InputError
from common.training import metrics, plots
from common.training.confusion_matrix import ClassScore, confusion, draw_confusion, per_class, per_class_table
from common.training.metrics import Metrics, read, truncate

CONFIG = {
    "format": "rosetta-run",
    "version": 1,
    "network": "lenet5",
    "config": {"num_classes": 10},
    "backend": "torch",
    "dtype": "float32",
    "seed": 0,
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 0.1,
    "optimizer": {"name": "momentum", "momentum": 0.9},
    "schedule": {"name": "constant", "base": 0.1, "total": 8},
    "data": "digits",
    "classes": list("0123456789"),
}


DASH = "\N{EN DASH}"


def new_run(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def write(writer: Metrics, losses: list[float], per_epoch: int = 4, first: int = 1) -> None:
    for step, loss in enumerate(losses, first):
        epoch = (step - 1) // per_epoch + 1
        numbers = {"learning_rate": 0.1 / step, "correct": step % 33, "examples": 32, "seconds": step / 10}
        writer.step(step=step, epoch=epoch, loss=loss, **numbers)
        if step % per_epoch == 0:
            writer.epoch(
                epoch=epoch,
                step=step,
                training_loss=loss,
                training_accuracy=0.5,
                validation_loss=1 + loss,
                validation_accuracy=0.25,
                images_per_second=320.0,
                seconds=step / 10,
            )


def trained(folder: Path, losses: list[float], per_epoch: int = 4, **config: Any) -> Path:
    new_run(folder, **config)
    with Metrics(folder) as writer:
        write(writer, losses, per_epoch)
    return folder


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum, bit by bit, and TensorFlow's masking of it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(run: Path) -> list[list[Any]]:
    """The events of each of a run's files, in the order in which TensorBoard reads them."""
    from tensorboardX.proto.event_pb2 import Event

    files = []
    for path in sorted((run / "events").iterdir()):
        assert "tfevents" in path.name
        data, found = path.read_bytes(), []
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            payload = data[12 : 12 + length]
            assert struct.unpack("<I", data[8:12]) == (crc32c(data[:8]),)
            assert struct.unpack("<I", data[12 + length : 16 + length]) == (crc32c(payload),)
            found.append(Event.FromString(payload))
            data = data[16 + length :]
        files.append(found)
    return files


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """Return the values that TensorBoard shows: a START event discards earlier values of its step and later ones."""
    shown: dict[str, dict[int, float]] = {}
    for event in (event for file in events(run) for event in file):
        if event.HasField("session_log"):
            assert event.session_log.status == event.session_log.START
            for tag, values in shown.items():
                shown[tag] = {step: value for step, value in values.items() if step < event.step}
        for value in event.summary.value:
            assert event.step not in shown.setdefault(value.tag, {}), f"{value.tag} of step {event.step} twice"
            shown[value.tag][event.step] = value.simple_value
    return shown


class TestMetrics:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        losses = [2.302585092994046, 1.1, 0.1 + 0.2, 1e-300, 5e-324, 3.0]
        history = read(trained(tmp_path / "run", losses))
        assert history.config == CONFIG
        assert history.steps.loss.tolist() == losses  # to the last bit
        assert history.steps.step.tolist() == [1, 2, 3, 4, 5, 6]
        assert history.steps.epoch.tolist() == [1, 1, 1, 1, 2, 2]
        assert history.steps.learning_rate.tolist() == [0.1 / step for step in range(1, 7)]
        assert history.steps.accuracy.tolist() == [step / 32 for step in range(1, 7)]
        assert history.steps.seconds.tolist() == [step / 10 for step in range(1, 7)]
        assert history.epochs.epoch.tolist() == [1]
        assert history.epochs.step.tolist() == [4]
        assert history.epochs.training_loss.tolist() == [1e-300]
        assert history.epochs.training_accuracy.tolist() == [0.5]
        assert history.epochs.validation_loss.tolist() == [1.0]
        assert history.epochs.validation_accuracy.tolist() == [0.25]
        assert history.epochs.images_per_second.tolist() == [320.0]
        assert history.epochs.seconds.tolist() == [0.4]

    def test_the_lines_are_as_specified(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [np.float32(0.5), 1.0, 1.0, 1.0])
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert lines[0] == {
            "kind": "step",
            "step": 1,
            "epoch": 1,
            "loss": 0.5,
            "learning_rate": 0.1,
            "correct": 1,
            "examples": 32,
            "seconds": 0.1,
        }
        assert list(lines[4]) == [
            *("kind", "epoch", "step", "training_loss", "training_accuracy", "validation_loss"),
            *("validation_accuracy", "images_per_second", "seconds"),
        ]

    def test_every_line_is_in_the_file_at_once(self, tmp_path: Path) -> None:
        run = new_run(tmp_path / "run")
        with Metrics(run) as writer:
            assert read(run).steps.step.size == 0
            for step in (1, 2, 3):
                write(writer, [1.0], first=step)
                assert read(run).steps.step.tolist() == list(range(1, step + 1))

    def test_not_finite_is_null_in_the_file_and_nan_when_read(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [1.0, math.nan, math.inf, -math.inf])
        for line in (run / "metrics.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert np.isnan(read(run).steps.loss).tolist() == [False, True, True, True]
        assert np.isnan(read(run).epochs.validation_loss).all()

    def test_a_new_run_is_not_written_into_an_old_one(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [1.0])
        before = (run / "metrics.jsonl").read_bytes()
        with pytest.raises(InputError, match="already has metrics; resume"):
            Metrics(run)
        assert (run / "metrics.jsonl").read_bytes() == before
        assert len(events(run)) == 1

    def test_lines_of_other_writers_are_read(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [1.0])
        with (run / "metrics.jsonl").open("a") as file:
            file.write(
                '{"kind": "step", "step": 2, "epoch": 1, "loss": 3, "learning_rate": 1, "correct": 1, "examples": 4, '
                '"seconds": Infinity, "more": [1]}\n'
            )
        assert np.isnan(read(run).steps.seconds).tolist() == [False, True]
        assert read(run).steps.loss.tolist() == [1.0, 3.0]
        assert read(run).steps.accuracy.tolist() == [1 / 32, 0.25]


class TestResume:
    @pytest.mark.parametrize("torn", [b"", b'{"kind": "st', b'{"kind": "step"}', b"\0\0\0", b"\xff", b"{}"])
    def test_an_incomplete_last_line_is_ignored(self, tmp_path: Path, torn: bytes) -> None:
        run = trained(tmp_path / "run", [3.0, 2.0, 1.0])
        whole = (run / "metrics.jsonl").read_bytes()
        (run / "metrics.jsonl").write_bytes(whole + torn)
        assert read(run).steps.loss.tolist() == [3.0, 2.0, 1.0]
        truncate(run, 3)
        assert (run / "metrics.jsonl").read_bytes() == whole

    def test_a_last_line_without_newline_is_ignored(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [3.0, 2.0])
        (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes()[:-1])
        assert read(run).steps.loss.tolist() == [3.0]

    @pytest.mark.parametrize(("step", "epochs"), [(0, 0), (3, 0), (4, 1), (5, 1), (8, 2), (99, 2)])
    def test_truncate_keeps_the_lines_up_to_the_step(self, tmp_path: Path, step: int, epochs: int) -> None:
        run = trained(tmp_path / "run", [1.0] * 9)
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        truncate(run, step)
        kept = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        assert kept == lines[: len(kept)]
        history = read(run)
        assert history.steps.step.tolist() == list(range(1, min(step, 9) + 1))
        assert history.epochs.epoch.tolist() == list(range(1, epochs + 1))
        assert sorted(path.name for path in run.iterdir()) == ["config.json", "events", "metrics.jsonl"]

    def test_truncate_leaves_the_old_file_where_it_cannot_write(self, tmp_path: Path, monkeypatch: Any) -> None:
        run = trained(tmp_path / "run", [1.0] * 9)
        before = (run / "metrics.jsonl").read_bytes()
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(InputError, match="No space left"):
            truncate(run, 2)
        assert (run / "metrics.jsonl").read_bytes() == before
        assert sorted(path.name for path in run.iterdir()) == ["config.json", "events", "metrics.jsonl"]

    def test_metrics_of_a_resumed_run_equal_those_of_an_uninterrupted_one(self, tmp_path: Path) -> None:
        losses = [float(loss) for loss in range(20, 8, -1)]
        whole = trained(tmp_path / "whole", losses)
        run = trained(tmp_path / "run", [*losses[:6], 99.0, 98.0])
        with (run / "metrics.jsonl").open("ab") as file:
            file.write(b'{"kind": "step", "step": 9, "lo')
        with Metrics(run, after=6) as writer:
            write(writer, losses[6:9], first=7)
        with Metrics(run, after=7) as writer:  # within the same second
            write(writer, losses[7:], first=8)
        assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        assert len(events(run)) == 3
        assert scalars(run) == scalars(whole)

    def test_a_run_may_be_resumed_before_its_first_step(self, tmp_path: Path) -> None:
        run = new_run(tmp_path / "run")
        with Metrics(run, after=0) as writer:
            write(writer, [1.0])
        assert read(run).steps.step.tolist() == [1]


class TestEvents:
    def test_the_scalars_are_mirrored(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [0.5, 0.25, 0.125, 1.0, math.nan])
        shown = scalars(run)
        assert math.isnan(shown["training/loss"].pop(5))
        assert shown == {
            "training/loss": {1: 0.5, 2: 0.25, 3: 0.125, 4: 1.0},
            "training/accuracy": {step: step / 32 for step in range(1, 6)},
            "learning_rate": {step: pytest.approx(0.1 / step) for step in range(1, 6)},
            "validation/loss": {4: 2.0},
            "validation/accuracy": {4: 0.25},
        }

    def test_a_file_begins_with_its_version(self, tmp_path: Path) -> None:
        (file,) = events(trained(tmp_path / "run", [1.0]))
        assert file[0].file_version == "brain.Event:2"
        assert all(event.wall_time > 1.7e9 for event in file)

    def test_they_are_on_disk_after_each_epoch(self, tmp_path: Path) -> None:
        run = new_run(tmp_path / "run")
        with Metrics(run) as writer:
            write(writer, [1.0] * 4)
            assert list(scalars(run)["validation/loss"]) == [4]

    def test_a_loss_beyond_float32_is_no_error(self, tmp_path: Path) -> None:
        assert scalars(trained(tmp_path / "run", [1e300]))["training/loss"] == {1: math.inf}


FULL = """
import resource, sys
from pathlib import Path
from common.errors import InputError
from common.training.metrics import Metrics
writer = Metrics(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    with writer:
        for step in range(1, 10000):
            writer.step(step=step, epoch=1, loss=1.0, learning_rate=0.1, correct=1, examples=2, seconds=1.0)
except InputError as error:
    print(error)
"""


class TestBadInputs:
    @pytest.mark.parametrize("prefilled", [0, 1 << 20], ids=["metrics", "events"])
    def test_a_full_disk_is_one_line(self, tmp_path: Path, prefilled: int) -> None:
        run = new_run(tmp_path / "run")
        code = FULL
        if prefilled:  # only the events meet the limit: the metrics go elsewhere
            (run / "metrics.jsonl").symlink_to("/dev/null")
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, run, "20000"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        name = "events" if prefilled else "metrics.jsonl"
        assert (done.stdout, done.stderr) == (f"cannot write {run / name}: File too large\n", "")

    def test_no_space_left(self, tmp_path: Path) -> None:
        run = new_run(tmp_path / "run")
        (run / "metrics.jsonl").symlink_to("/dev/full")
        with (
            pytest.raises(InputError, match=r"^cannot write .*metrics.jsonl: No space left on device$"),
            Metrics(run) as w,
        ):
            write(w, [1.0])

    def test_the_first_error_is_reported(self, tmp_path: Path) -> None:
        run = new_run(tmp_path / "run")
        writer = Metrics(run)
        write(writer, [1.0])
        # The events meet a full disk only on closing.
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), writer._events._file._writer.fileno())
        error = KeyboardInterrupt()
        writer.__exit__(KeyboardInterrupt, error, None)
        assert read(run).steps.step.tolist() == [1]

    def test_a_full_disk_on_closing(self, tmp_path: Path) -> None:
        run = new_run(tmp_path / "run")
        writer = Metrics(run)
        write(writer, [1.0])
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), writer._events._file._writer.fileno())
        with pytest.raises(InputError, match=r"^cannot write .*events: No space left on device$"):
            writer.__exit__(None, None, None)

    @pytest.mark.parametrize("name", ["metrics.jsonl", "events"])
    def test_an_error_names_the_path_that_cannot_be_written(self, tmp_path: Path, name: str) -> None:
        run = new_run(tmp_path / "run")
        if name == "events":
            (run / name).touch()
        else:
            (run / name).mkdir()
        with pytest.raises(InputError, match=f"cannot write .*{name}: "):
            Metrics(run)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no folder"):
            Metrics(tmp_path / "none")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("rubbish", "Expecting value"),
            ("", "Expecting value"),
            ("[1]", "expected object, got array"),
            ("3", "expected object, got int"),
            ('{"kind": "stop"}', "`kind` (='stop'): invalid value"),
            ('{"kind": ["step"]}', "`kind` (=['step']): expected str"),
            ('{"kind": "step", "step": 2}', "it has no `epoch`"),
            ('{"kind": "step", "step": true}', "`step` (=True): expected int, got bool"),
            ('{"kind": "step", "step": 2.0}', "`step` (=2.0): expected int, got float"),
            ('{"kind": "step", "step": -1}', "`step` (=-1): expected int >= 0"),
            ('{"kind": "step", "step": 9223372036854775808}', "`step` (=9223372036854775808): expected int <= "),
            ('{"kind": "step", "step": 2, "epoch": 1, "loss": "1"}', "`loss` (='1'): expected float | null, got str"),
            (
                '{"kind": "step", "step": 2, "epoch": 1, "loss": false}',
                "`loss` (=False): expected float | null",
            ),
            (
                '{"kind": "step", "step": 2, "epoch": 1, "loss": 1, "learning_rate": 1, "correct": 0, "examples": 0, '
                '"seconds": 0}',
                "`examples` (=0): expected int >= 1",
            ),
            (
                '{"kind": "step", "step": 1, "epoch": 1, "loss": 1, "learning_rate": 1, "correct": 0, "examples": 1, '
                '"seconds": 0}',
                "step 1 follows step 1; did two runs write here",
            ),
            ("[" * 100000, "recursion"),
            ('{"kind": "step", "step": 2, "epoch": 1, "loss": 1' + "0" * 400 + "}", "): number out of range"),
        ],
    )
    def test_an_invalid_line_is_refused_with_its_number(self, tmp_path: Path, line: str, message: str) -> None:
        run = trained(tmp_path / "run", [1.0])
        path = run / "metrics.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole + line.encode() + b"\n" + whole.replace(b'"step": 1', b'"step": 3'))
        for use in (read, lambda run: truncate(run, 1), lambda run: Metrics(run, after=1), plots.draw):
            with pytest.raises(InputError) as caught:
                use(run)
            assert str(caught.value).startswith(f"{path}, line 2: ")
            assert message in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_no_run(self, tmp_path: Path) -> None:
        expected = "it has no config.json; give the folder that a training run wrote"
        for folder in (tmp_path, tmp_path / "none", Path(__file__)):
            with pytest.raises(InputError, match=expected):
                read(folder)
        (tmp_path / "config.json").mkdir()
        with pytest.raises(InputError, match="cannot read"):
            read(tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "is not JSON"),
            ("[]", "has no .format.: .rosetta-run."),
            ('{"format": "other"}', "has no .format.: .rosetta-run."),
            ('{"format": "rosetta-run", "version": 2}', "version 2; this rosetta reads version 1"),
        ],
    )
    def test_no_configuration(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            read(tmp_path)

    def test_a_run_without_steps(self, tmp_path: Path) -> None:
        run, begun = new_run(tmp_path / "run"), trained(tmp_path / "begun", [1.0])
        with pytest.raises(InputError, match=r"has no metrics\.jsonl: training has not started"):
            read(run)
        (run / "metrics.jsonl").touch()
        for use in (lambda: plots.draw(run), lambda: plots.compare([begun, run], tmp_path / "picture.png")):
            with pytest.raises(InputError, match="has no steps yet"):
                use()


def colors(path: Path, begin: float = 0, end: float = 1) -> dict[str, int]:
    """How many pixels are of each color of the palette, exactly, between these shares of the picture's width."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    width = pixels.shape[1]
    packed = pixels[:, int(begin * width) : int(end * width)].astype(np.int64) @ [1 << 16, 1 << 8, 1]
    return {color: n for color in plotting.PALETTE[:6] if (n := int((packed == int(color[1:], 16)).sum()))}


class TestDraw:
    @pytest.mark.parametrize(
        ("losses", "drawn"),
        [
            ([1.0], 1),  # one step, no epoch
            ([1.0] * 7, 2),  # in the second epoch
            ([2.0 - step / 50 for step in range(80)], 2),
            ([2.0] * 40 + [math.nan] * 4, 2),
            ([2.0, 1e30, 1e38, 1e38, math.nan], 2),
            ([0.0] * 8, 2),
        ],
        ids=["step", "few", "many", "nan", "blown-up", "zero"],
    )
    def test_a_picture_of_both_curves(self, tmp_path: Path, losses: list[float], drawn: int) -> None:
        run = trained(tmp_path / "run", losses)
        plots.draw(run)
        with Image.open(run / "curves.png") as image:
            image.verify()
            assert (image.format, image.size) == ("PNG", (1500, 630))
        for half in ((0, 0.5), (0.5, 1)):
            assert list(colors(run / "curves.png", *half)) == list(plotting.PALETTE[:drawn])

    def test_losses_that_are_not_finite_are_drawn(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [math.nan] * 40)
        plots.draw(run, tmp_path / "elsewhere.png")
        assert len(colors(tmp_path / "elsewhere.png")) == 2
        assert not (run / "curves.png").exists()

    def test_a_second_draw_replaces_the_first_atomically(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [1.0] * 4)
        plots.draw(run)
        first = (run / "curves.png").read_bytes()
        plots.draw(run)
        assert (run / "curves.png").read_bytes() == first  # the same numbers, the same picture
        with (run / "curves.png").open("rb") as reader:
            with Metrics(run, after=4) as writer:
                write(writer, [0.5] * 4, first=5)
            plots.draw(run)
            assert reader.read() == first  # a reader keeps the picture that it began to read
        assert (run / "curves.png").read_bytes() != first
        names = ["config.json", "curves.png", "events", "metrics.jsonl"]
        assert sorted(path.name for path in run.iterdir()) == names

    def test_from_a_thread_while_the_run_goes_on(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [1.0] * 40)
        threads = [threading.Thread(target=plots.draw, args=(run,)) for _ in range(3)]
        with Metrics(run, after=40) as writer:
            for thread in threads:
                thread.start()
            write(writer, [1.0] * 100, first=41)
            for thread in threads:
                thread.join()
        with Image.open(run / "curves.png") as image:
            image.verify()

    def test_without_pyplot(self) -> None:
        code = (
            "import sys, common.training.plots, common.training.confusion_matrix, common.training.metrics;"
            "print([m for m in ('matplotlib', 'tensorboardX', 'rich', 'PIL') if m in sys.modules])"
        )
        root = str(ROOT)
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
        sources = [Path(module.__file__).read_text() for module in (plots, metrics)]
        assert not any("pyplot" in source for source in sources)

    @pytest.mark.parametrize("name", ["$x$", "数字", "a_b", "$\\frac{$"])
    def test_any_name_is_drawn_as_it_stands(self, tmp_path: Path, name: str) -> None:
        run = trained(tmp_path / "run", [1.0], network=name)
        plots.draw(run)
        other = trained(tmp_path / "_other", [1.0], network="other")
        found = plots.compare([run, other], tmp_path / "both.png")
        assert found[0].runs == (plotting.printable(name), "other")

    def test_a_picture_that_cannot_be_written(self, tmp_path: Path) -> None:
        run, other = trained(tmp_path / "run", [1.0]), trained(tmp_path / "other", [1.0])
        path = tmp_path / "none" / "picture.png"
        matrix = np.eye(2, dtype=int)
        for use in (
            lambda: plots.draw(run, path),
            lambda: plots.compare([run, other], path),
            lambda: draw_confusion(matrix, ["a", "b"], path),
        ):
            with pytest.raises(InputError, match="there is no folder"):
                use()


class TestCompare:
    def losses(self, count: int, *changes: tuple[int, float]) -> list[float]:
        """Losses of `count` steps, from each given step on smaller by the given share."""
        values = []
        for step in range(1, count + 1):
            share = next((share for first, share in reversed(changes) if step >= first), 0.0)
            values.append((2 + math.sin(step)) * (1 - share))
        return values

    def test_the_first_steps_at_which_runs_diverge(self, tmp_path: Path) -> None:
        runs = [
            trained(tmp_path / "a", self.losses(60)),
            trained(
                tmp_path / "b", self.losses(60, (20, 0.9e-6), (31, 1.1e-6), (47, 0.9e-3), (53, 1.1e-3)), backend="jax"
            ),
            trained(tmp_path / "c", self.losses(40, (7, 0.5)), backend="tf"),
        ]
        found = plots.compare(runs, tmp_path / "picture.png")
        assert [parting.runs for parting in found] == [("torch", "jax"), ("torch", "tf"), ("jax", "tf")]
        assert [parting.common for parting in found] == [60, 40, 40]
        assert [dict(parting.first) for parting in found] == [
            {1e-6: 31, 1e-3: 53},
            {1e-6: 7, 1e-3: 7},
            {1e-6: 7, 1e-3: 7},
        ]
        assert [parting.largest for parting in found] == pytest.approx([1.1e-3, 0.5, 0.5])
        assert all(parting.differences == () for parting in found)
        with Image.open(tmp_path / "picture.png") as image:
            image.verify()
            assert (image.format, image.size) == ("PNG", (1350, 1500))
        assert list(colors(tmp_path / "picture.png")) == list(plotting.PALETTE[:3])

    def test_the_difference_is_relative_to_the_larger_and_symmetric(self, tmp_path: Path) -> None:
        a, b = trained(tmp_path / "a", [1.0, 1.0]), trained(tmp_path / "b", [1.0, 4.0])
        for runs in ([a, b], [b, a]):
            (parting,) = plots.divergences([read(run) for run in runs])
            assert parting.largest == 0.75
            assert parting.first == {1e-6: 2, 1e-3: 2}

    def test_runs_that_never_diverge(self, tmp_path: Path) -> None:
        runs = [trained(tmp_path / name, self.losses(100), backend=name) for name in ("torch", "jax", "tf", "mxnet")]
        found = plots.compare(runs, tmp_path / "picture.png")
        assert len(found) == 6
        assert all((parting.first, parting.largest) == ({1e-6: None, 1e-3: None}, 0.0) for parting in found)
        # Though every curve lies on the others, each is seen, beyond its mark in the legend.
        counts = colors(tmp_path / "picture.png")
        assert list(counts) == list(plotting.PALETTE[:4])
        assert min(counts.values()) > 1500

    def test_numbers_that_are_not_finite(self, tmp_path: Path) -> None:
        a = trained(tmp_path / "a", [1.0, 1.0, 1.0, math.nan])
        b = trained(tmp_path / "b", [1.0, 1.0, math.nan, math.nan])
        c = trained(tmp_path / "c", [1.0, 1.0, 1.0, math.nan], seed=1)
        a_b, a_c, _ = plots.compare([a, b, c], tmp_path / "picture.png")
        assert (a_b.first, a_b.largest) == ({1e-6: 3, 1e-3: 3}, math.inf)
        assert (a_c.first, a_c.largest) == ({1e-6: None, 1e-3: None}, 0.0)

    def test_steps_are_matched_by_their_number(self, tmp_path: Path) -> None:
        a = trained(tmp_path / "a", [4.0, 3.0, 2.0, 1.0])
        b = new_run(tmp_path / "b")
        with Metrics(b) as writer:
            write(writer, [2.0, 1.0], first=3)
        c = new_run(tmp_path / "c")
        with Metrics(c) as writer:
            write(writer, [9.0], first=7)
        a_b, a_c, _ = plots.compare([a, b, c], tmp_path / "picture.png")
        assert (a_b.common, a_b.largest) == (2, 0.0)
        assert a_c.common == 0
        assert a_c.first == {1e-6: None, 1e-3: None}
        assert math.isnan(a_c.largest)

    def test_zero_losses_are_equal(self, tmp_path: Path) -> None:
        runs = [trained(tmp_path / "a", [1.0, 0.0]), trained(tmp_path / "b", [1.0, 0.0])]
        (parting,) = plots.compare(runs, tmp_path / "picture.png")
        assert parting.largest == 0.0

    @pytest.mark.parametrize(
        ("changes", "labels", "differences"),
        [
            ({"backend": "jax", "dtype": "float64"}, ("torch, float32", "jax, float64"), ()),
            ({"seed": 1}, ("seed 0", "seed 1"), ("seed 0 and 1",)),
            ({"batch_size": 64}, ("batch_size 32", "batch_size 64"), ("batch_size 32 and 64",)),
            (
                {"learning_rate": 0.5, "schedule": {"name": "constant", "base": 0.5, "total": 9}},
                ("learning_rate 0.1", "learning_rate 0.5"),
                ("learning_rate 0.1 and 0.5",),
            ),
            (
                {"optimizer": {"name": "adam"}},
                ("momentum", "adam"),
                ("optimizer momentum and adam", "optimizer.momentum 0.9 and not given"),
            ),
            (
                {"optimizer": {"name": "momentum", "momentum": 0.5}},
                ("optimizer.momentum 0.9", "optimizer.momentum 0.5"),
                ("optimizer.momentum 0.9 and 0.5",),
            ),
            ({"classes": [f"a long name {n}" for n in range(10)]}, ("in a", "in b"), ("other classes",)),
            ({"epochs": 9, "versions": {"jax": "1"}}, ("in a", "in b"), ()),
            ({}, ("in a", "in b"), ()),
        ],
    )
    def test_a_label_says_what_differs(
        self, tmp_path: Path, changes: dict[str, Any], labels: tuple[str, str], differences: tuple[str, ...]
    ) -> None:
        runs = [trained(tmp_path / "a", [1.0]), trained(tmp_path / "b", [1.0], **changes)]
        (parting,) = plots.divergences([read(run) for run in runs])
        assert (parting.runs, parting.differences) == (labels, differences)

    def test_runs_in_folders_of_one_name_get_different_labels(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        runs = [trained(tmp_path / "run", [1.0]), trained(tmp_path / "x" / "run", [1.0])]
        (parting,) = plots.divergences([read(run) for run in runs])
        assert parting.runs == (f"in {runs[0]}", f"in {runs[1]}")

    def test_the_table(self, tmp_path: Path) -> None:
        a, b = trained(tmp_path / "a", [1.0, 1.0]), trained(tmp_path / "b", [1.0, 0.9995], batch_size=64, backend="[x]")
        c = new_run(tmp_path / "c", backend="jax")
        with Metrics(c) as writer:
            write(writer, [1.0], first=3)
        found = plots.divergences([read(run) for run in (a, b, c)])
        console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(plots.divergences_table(found))
        console.file.close()
        rows = [line.split() for line in console.export_text().splitlines()]
        assert rows[1][:7] == ["torch", "and", "[x]", "2", "2", "never", "5.0e-04"]
        assert " ".join(rows[1][7:]) == "not the same experiment: batch_size 32 and 64"
        assert rows[2] == ["torch", "and", "jax", "0", DASH, DASH, DASH]

    def test_many_runs(self, tmp_path: Path) -> None:
        runs = [trained(tmp_path / str(seed), self.losses(40, (1, seed / 20)), seed=seed) for seed in range(9)]
        assert len(plots.compare(runs, tmp_path / "picture.png")) == 36
        assert len(colors(tmp_path / "picture.png")) == 6

    def test_bad_inputs(self, tmp_path: Path) -> None:
        run = trained(tmp_path / "run", [1.0])
        with pytest.raises(InputError, match=r"^1 run given; give at least two"):
            plots.compare([run], tmp_path / "picture.png")
        with pytest.raises(InputError, match=r"^0 runs given"):
            plots.compare([], tmp_path / "picture.png")
        with pytest.raises(InputError, match="twice"):
            plots.compare([run, tmp_path / "x" / ".." / "run"], tmp_path / "picture.png")
        with pytest.raises(InputError, match="not a training run"):
            plots.compare([run, tmp_path], tmp_path / "picture.png")
        assert not (tmp_path / "picture.png").exists()


CLASSES = ["cat", "dog", "owl", "yak"]
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 3, 3, 3])
PREDICTIONS = np.array([0, 0, 1, 2, 1, 1, 0, 1, 0, 0])
MATRIX = np.array([[2, 1, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [2, 1, 0, 0]])


class TestConfusion:
    @pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
    def test_counts(self, dtype: type) -> None:
        matrix = confusion(LABELS.astype(dtype), PREDICTIONS.astype(dtype), CLASSES)
        assert np.array_equal(matrix, MATRIX)
        assert matrix.dtype == np.int64

    def test_many_classes_do_not_wrap_around(self) -> None:
        matrix = confusion(np.array([250], np.uint8), np.array([3], np.uint8), [str(n) for n in range(256)])
        assert np.argwhere(matrix).tolist() == [[250, 3]]

    def test_scores_by_hand(self) -> None:
        assert per_class(MATRIX, CLASSES) == [
            ClassScore("cat", 2 / 5, 2 / 4, 4 / 9, 4),
            ClassScore("dog", 2 / 4, 2 / 3, 4 / 7, 3),
            ClassScore("owl", 0.0, None, 0.0, 0),  # none is one, one was taken for one
            ClassScore("yak", None, 0.0, 0.0, 3),  # never predicted
        ]

    def test_a_class_that_never_occurs(self) -> None:
        assert per_class(np.diag([3, 0]), ["a", "b"]) == [
            ClassScore("a", 1.0, 1.0, 1.0, 3),
            ClassScore("b", None, None, None, 0),
        ]

    def test_the_table(self) -> None:
        console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(per_class_table(per_class(MATRIX, ["cat", "[dog]", "owl", "yak"])))
        console.file.close()
        rows = [line.split() for line in console.export_text().splitlines()]
        assert rows == [
            ["class", "precision", "recall", "F1", "images"],
            ["cat", "0.400", "0.500", "0.444", "4"],
            ["[dog]", "0.500", "0.667", "0.571", "3"],
            ["owl", "0.000", DASH, "0.000", "0"],
            ["yak", DASH, "0.000", "0.000", "3"],
        ]

    @pytest.mark.parametrize(("k", "size"), [(1, 750), (2, 750), (10, 1110), (100, 1950), (300, 1950)])
    def test_a_picture(self, tmp_path: Path, k: int, size: int) -> None:
        path = tmp_path / "picture.png"
        names = [f"class {n}" for n in range(k)]
        draw_confusion(np.eye(k, dtype=int), names, path, "lenet5 in torch")
        with Image.open(path) as image:
            image.verify()
            assert (image.format, image.size) == ("PNG", (size + 150, size))
        if k > 10:
            return
        # The diagonal is the darkest of the blues, and is a k-th of a square.
        dark = (np.asarray(Image.open(path).convert("RGB")) == (8, 48, 107)).all(axis=2)
        dark[:, dark.sum(axis=0) < 10] = False  # the color bar's end
        rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
        side = rows[-1] - rows[0] + 1
        assert columns[-1] - columns[0] + 1 == pytest.approx(side, abs=3)
        assert dark.sum() == pytest.approx(side**2 / k, rel=0.05)

    def test_rows_are_truth(self, tmp_path: Path) -> None:
        path = tmp_path / "picture.png"
        draw_confusion(np.array([[0, 5], [0, 0]]), ["a", "b"], path)
        pixels = np.asarray(Image.open(path).convert("RGB"))[:, :600]
        rows, columns = np.nonzero((pixels == (8, 48, 107)).all(axis=2))
        assert rows.mean() < 375  # above
        assert columns.mean() > 375  # and to the right

    @pytest.mark.parametrize("names", [["$x$", "_"], ["数字", "$\\frac{$"], ["$\\frac{$", "a" * 500]])
    def test_any_class_name_is_drawn(self, tmp_path: Path, names: list[str]) -> None:
        draw_confusion(np.zeros((2, 2), int), names, tmp_path / "picture.png", title=names[0][:20])
        with Image.open(tmp_path / "picture.png") as image:
            image.verify()

    def test_bad_inputs(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"^labels must be from 0 to 3, as there are 4 classes: 4$"):
            confusion(np.array([4]), np.array([0]), CLASSES)
        with pytest.raises(InputError, match=r"^predictions must be from 0 to 3, .*: -1$"):
            confusion(np.array([3]), np.array([-1]), CLASSES)
        with pytest.raises(InputError, match=r"^labels must be whole numbers in one dimension, not float64"):
            confusion(np.array([1.0]), np.array([1]), CLASSES)
        with pytest.raises(InputError, match=r"^predictions must be .* of shape \(1, 4\)"):
            confusion(np.array([1]), np.array([[0, 0, 0, 1]]), CLASSES)
        with pytest.raises(InputError, match=r"^2 labels and 1 predictions"):
            confusion(np.array([1, 1]), np.array([1]), CLASSES)
        for use in (
            lambda: per_class(MATRIX, ["a"]),
            lambda: draw_confusion(MATRIX[:, :2], CLASSES, tmp_path / "picture.png"),
            lambda: draw_confusion(np.zeros((0, 0), int), [], tmp_path / "picture.png"),
        ):
            with pytest.raises(InputError, match=r"a confusion matrix of . classes must be of shape"):
                use()
        assert confusion(np.array([], int), np.array([], int), CLASSES).sum() == 0
