"""Whole training runs: the files of a run, exact resumption, and one-line errors."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import INTERRUPTIBLE, ROOT

from common import catalog, reference, weights
from common.errors import ConfigError, DivergedError, InputError, WeightsError
from common.optimizers import OptimizerConfig
from common.reference.loss import cross_entropy
from common.training import checkpoints, metrics
from common.training.datasets import ArrayExamples, open_dataset
from common.training.evaluation import evaluate
from common.training.experiment import Experiment, ScheduleConfig
from common.training.loop import train, training_batches, validation_batches


class Silent:
    """A display that shows nothing and remembers the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.on_step = lambda position, loss: None

    def begin(self, start, epochs, steps) -> None:
        pass

    def step(self, position, loss) -> None:
        self.on_step(position, loss)

    def epoch(self, position, training, validation, speed) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)


DIGITS = open_dataset("digits")


def experiment(backend: str, network: str = "bn_lenet", **changes: object) -> Experiment:
    """Return a short run on the digits, 11 steps an epoch."""
    entry = catalog.get(network)
    usual = Experiment(
        network,
        entry.settings(),
        backend,
        "digits",
        epochs=2,
        batch_size=128,
        learning_rate=0.1,
        classes=DIGITS.classes,
        mean=DIGITS.mean,
        std=DIGITS.std,
        optimizer=OptimizerConfig("momentum"),
        schedule=ScheduleConfig("cosine", warmup=0.5),
    )
    return dataclasses.replace(usual, **changes)


def last_bytes(run: Path) -> dict[str, bytes]:
    """Return what the last checkpoint of a run holds, but for the time that it took."""
    path = checkpoints.checkpoints(run)[0]
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "state.json"}


@pytest.fixture(scope="module")
def whole(backend_name: str, backend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run, experiment(backend_name), DIGITS, Silent())
    return run


@pytest.mark.port
def test_a_run_folder_holds_all_files(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} >= {"config.json", "metrics.jsonl", "curves.png", "events"}
    assert [path.name for path in checkpoints.checkpoints(whole)] == ["step-00000022", "step-00000011"]
    history = metrics.read(whole)
    assert history.steps.step.tolist() == list(range(1, 23))
    assert history.epochs.step.tolist() == [11, 22]
    with Image.open(whole / "curves.png") as picture:
        assert min(picture.size) > 400
    assert Experiment.load(whole) == experiment(history.config["backend"])
    assert weights.read(checkpoints.checkpoints(whole)[0] / "weights.safetensors").network.name == "bn_lenet"


@pytest.mark.port
def test_every_framework_starts_with_the_same_weights_and_batches(whole: Path) -> None:
    asked = experiment("numpy")
    model = reference.build(asked.entry)
    reference.load(model, weights.initialize(asked.entry, "xavier", 0, "float32"))
    model.train(True)
    first = next(training_batches(asked, DIGITS).epoch(1))
    logits = model(first.images.astype(np.float64))
    steps = metrics.read(whole).steps
    assert steps.loss[0] == pytest.approx(cross_entropy(logits, first.labels), rel=1e-5)
    assert steps.accuracy[0] == np.mean(logits.argmax(axis=1) == first.labels)
    # 5.5 steps of warm-up, rounded to 6; half way down the cosine after 8 more
    assert steps.learning_rate[[0, 5, 14]] == pytest.approx([0.1 / 6, 0.1, 0.05], rel=1e-9)


@pytest.mark.port
def test_validation_metrics_belong_to_the_checkpoint_weights(whole: Path) -> None:
    checkpoint, _ = checkpoints.last(whole)
    model = reference.build(checkpoint.network)
    reference.load(model, checkpoint.weights)
    found = evaluate(lambda x: model(x.astype(np.float64)), validation_batches(experiment("numpy"), DIGITS).epoch(0))
    epochs = metrics.read(whole).epochs
    assert len(found.labels) == len(DIGITS.validation) == 359
    assert epochs.validation_accuracy[-1] == pytest.approx(found.accuracy, abs=1e-9)
    assert epochs.validation_loss[-1] == pytest.approx(found.loss, rel=1e-4)


class StopError(Exception):
    """Ends a run as a crash would, but for the process."""


def crash(run: Path, asked: Experiment, step: int, resume: bool = False) -> None:
    display = Silent()

    def stop(position, _) -> None:
        if position.step == step:
            raise StopError

    display.on_step = stop
    with pytest.raises(StopError):
        train(run, asked, DIGITS, display, resume)


@pytest.mark.port
@pytest.mark.parametrize("step", [5, 11, 16])
def test_a_resumed_run_ends_with_identical_weights(backend_name: str, whole: Path, tmp_path: Path, step: int) -> None:
    asked = experiment(backend_name, checkpoint_every=4)
    crash(tmp_path / "run", asked, step)
    train(tmp_path / "run", asked, DIGITS, Silent(), resume=True)
    assert last_bytes(tmp_path / "run") == last_bytes(whole)
    same, different = metrics.read(whole), metrics.read(tmp_path / "run")
    np.testing.assert_array_equal(different.steps.loss, same.steps.loss)
    np.testing.assert_array_equal(different.epochs.training_loss, same.epochs.training_loss)
    np.testing.assert_array_equal(different.epochs.validation_loss, same.epochs.validation_loss)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "an altered weight": lambda path: flip(path / "weights.safetensors"),
    "torn weights": lambda path: truncate(path / "weights.safetensors"),
    "an altered slot": lambda path: flip(path / "optimizer.safetensors"),
    "slots that are gone": lambda path: (path / "optimizer.safetensors").unlink(),
    "an altered position": lambda path: (path / "state.json").write_text(
        (path / "state.json").read_text().replace('"batch": 0', '"batch": 1')
    ),
    "a torn position": lambda path: truncate(path / "state.json"),
    "an empty position": lambda path: (path / "state.json").write_text(""),
    "no position": lambda path: (path / "state.json").unlink(),
    "a position of another kind": lambda path: (path / "state.json").write_text("[1]"),
}


@pytest.mark.port
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped(whole: Path, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    DAMAGE[damage](checkpoints.checkpoints(run)[0])
    found, warnings = checkpoints.last(run)
    assert found.position.step == 11
    assert len(warnings) == 1
    assert "step-00000022" in warnings[0]


@pytest.mark.port
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(backend_name: str, whole: Path, tmp_path: Path) -> None:
    run, display = tmp_path / "run", Silent()
    shutil.copytree(whole, run)
    flip(checkpoints.checkpoints(run)[0] / "weights.safetensors")
    train(run, experiment(backend_name), DIGITS, display, resume=True)
    assert "step-00000022/weights.safetensors was altered" in display.warnings[0]
    assert last_bytes(run) == last_bytes(whole)
    # With none left it begins anew.
    for path in checkpoints.checkpoints(run):
        flip(path / "weights.safetensors")
    train(run, experiment(backend_name), DIGITS, display, resume=True)
    assert display.warnings[-1].endswith("starting again")
    assert last_bytes(run) == last_bytes(whole)


@pytest.mark.port
def test_a_run_can_be_extended_and_keeps_only_the_last_checkpoints(
    backend_name: str, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    train(run, experiment(backend_name, epochs=4, keep=2), DIGITS, Silent(), resume=True)
    assert [path.name for path in checkpoints.checkpoints(run)] == ["step-00000044", "step-00000033"]
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.port
def test_divergence_is_reported_and_the_last_good_checkpoint_is_kept(backend_name: str, tmp_path: Path) -> None:
    """Eleven layers without batch norm between a step too far and the next loss: no number holds what comes out."""
    entry = catalog.get("nin", input_size=[67, 67], dropout=0.0)
    asked = experiment(
        backend_name,
        "nin",
        config=entry.settings(),
        batch_size=4,
        learning_rate=1e6,
        checkpoint_every=1,
        schedule=ScheduleConfig(),
    )
    run = tmp_path / "run"
    with pytest.raises(DivergedError) as error:
        train(run, asked, DIGITS, Silent())
    text = str(error.value)
    assert "diverged: " in text
    assert "learning rate 1e+06" in text
    assert error.value.exit_status == 1
    found, warnings = checkpoints.last(run)
    assert str(found.path) in text
    assert not warnings
    assert all(np.isfinite(array).all() for array in found.weights.values())
    assert metrics.read(run).steps.step[-1] >= found.position.step


@pytest.mark.port
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"batch_size": 2000},
            ConfigError,
            "1438 training images do not fill a batch of 2000",
        ),
        ({"mean": (0.5,)}, InputError, "is not the data that the run started with"),
        (
            {"config": catalog.get("bn_lenet", num_classes=7).settings()},
            ConfigError,
            "must be 10, the classes of digits",
        ),
        ({"init": "lenet.safetensors"}, WeightsError, "weights of lenet"),
        ({"schedule": ScheduleConfig(warmup=3)}, ConfigError, "`warmup` (=3) must be from 0 to the 2 epochs"),
        *(
            ({"schedule": ScheduleConfig(every=every)}, ConfigError, "`every` (=")
            for every in (0, -1, math.nan, math.inf)
        ),
    ],
)
def test_invalid_settings_give_one_line(
    backend_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, error: type, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    weights.write_initial(Path("lenet.safetensors"), catalog.get("lenet"))
    with pytest.raises(error) as raised:
        train(Path("run"), experiment(backend_name, **changes), DIGITS, Silent())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.port
def test_a_new_run_does_not_overwrite_a_folder_in_use(backend_name: str, whole: Path, tmp_path) -> None:
    before = last_bytes(whole)
    with pytest.raises(InputError, match="already holds a run; resume it with --resume"):
        train(whole, experiment(backend_name), DIGITS, Silent())
    assert last_bytes(whole) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder"):
        train(tmp_path, experiment(backend_name), DIGITS, Silent())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.port
def test_a_checkpoint_of_another_network_is_refused(backend_name: str, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    lenet = catalog.get("lenet")
    path = checkpoints.write(run, lenet, checkpoints.Position(step=99), weights.initialize(lenet), {}, keep=9)
    with pytest.raises(InputError) as error:
        train(run, experiment(backend_name), DIGITS, Silent(), resume=True)
    assert str(path) in str(error.value)
    assert "is of lenet" in str(error.value)


@pytest.mark.port
def test_two_processes_do_not_train_in_one_folder(backend_name: str, whole: Path) -> None:
    from filelock import FileLock

    with FileLock(whole / ".lock"), pytest.raises(InputError, match="another process is training"):
        train(whole, experiment(backend_name), DIGITS, Silent(), resume=True)


def eight_of(examples: ArrayExamples) -> ArrayExamples:
    return ArrayExamples(examples.labels[:8], examples.pixels[:8])


@pytest.mark.port
@pytest.mark.parametrize("name", ["alexnet", "vgg11_small", "nin", "googlenet", "resnet18", "densenet", "regnetx32"])
def test_each_kind_of_network_reduces_the_loss_of_one_batch(backend_name: str, tmp_path: Path, name: str) -> None:
    sizes = {"alexnet": [67, 67], "nin": [67, 67], "vgg11_small": [32, 32]}
    shallow = {"resnet18": [[1, 64], [2, 128]], "densenet": [2, 2], "regnetx32": [[2, 32, 16, 1], [2, 80, 16, 1]]}
    arch = {"arch": shallow[name]} if name in shallow else {}
    settings = catalog.get(name, input_size=sizes.get(name, [33, 33]), **arch).settings()
    if "dropout" in settings:
        settings["dropout"] = 0.0  # a step on other units than the last step's may well lose what that won
    few = dataclasses.replace(DIGITS, training=eight_of(DIGITS.training), validation=eight_of(DIGITS.validation))
    asked = experiment(
        backend_name,
        name,
        config=settings,
        batch_size=8,
        epochs=3,
        learning_rate=3e-4,
        optimizer=OptimizerConfig("adam"),
        schedule=ScheduleConfig(),
    )
    train(tmp_path / "run", asked, few, Silent())
    loss = metrics.read(tmp_path / "run").epochs.training_loss
    assert len(loss) == 3
    assert (np.diff(loss) < 0).all(), loss


# The command, in a process of its own.


RUN = "import runpy; runpy.run_module('common', run_name='__main__')"
# No file may grow beyond this: the optimizer's slots do not fit.
ALMOST_FULL = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); {RUN}"


def start(run: Path, backend: str, *options: str, code: str = INTERRUPTIBLE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", "-o", str(run), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), f"ROSETTA_PYTHON_{backend.upper()}": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b'"kind": "step"') if path.exists() else 0


LONG = (
    "bn_lenet",
    "--epochs",
    "5",
    "--batch-size",
    "32",
    "--optimizer",
    "adam",
    "--lr",
    "0.001",
    "--checkpoint-every",
    "7",
)


@pytest.mark.port
@pytest.mark.parametrize(
    "signals",
    [[signal.SIGKILL, signal.SIGINT], [signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM]],
    ids=["two", "four"],
)
def test_runs_killed_or_interrupted_at_any_moment_resume_to_identical_weights(
    backend_name: str, tmp_path: Path, signals: list[signal.Signals]
) -> None:
    out, errors = start(tmp_path / "whole", backend_name, *LONG, "--backend", backend_name).communicate(timeout=300)
    assert "220 steps" in out, errors
    chance, run = random.Random(0), tmp_path / "run"
    for number, kind in enumerate(signals):
        options = ("--resume",) if number else (*LONG, "--backend", backend_name)
        process = start(run, backend_name, *options)
        goal = steps_of(run) + chance.randint(5, 45)
        while steps_of(run) < goal and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(kind)
        out, errors = process.communicate(timeout=120)
        if kind == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL, errors
        else:
            assert process.returncode == 130, errors
            assert f"interrupted after step {steps_of(run)}; " in errors
            assert checkpoints.last(run)[0].position.step == steps_of(run)
    out, errors = start(run, backend_name, "--resume").communicate(timeout=300)
    assert "220 steps" in out, errors
    assert last_bytes(run) == last_bytes(tmp_path / "whole")
    np.testing.assert_array_equal(metrics.read(run).steps.loss, metrics.read(tmp_path / "whole").steps.loss)


@pytest.mark.port
def test_evaluate_and_predict_match_the_reference(rosetta, backend_name: str, whole: Path, tmp_path: Path) -> None:
    here = {f"ROSETTA_PYTHON_{backend_name.upper()}": sys.executable}
    checkpoint, _ = checkpoints.last(whole)
    model = reference.build(checkpoint.network)
    reference.load(model, checkpoint.weights)
    truth = evaluate(lambda x: model(x.astype(np.float64)), validation_batches(experiment("numpy"), DIGITS).epoch(0))
    result = rosetta("evaluate", whole, "--json", "-o", tmp_path / "c.png", **here)
    found = json.loads(result.stdout)
    assert found["accuracy"] == pytest.approx(truth.accuracy)
    assert found["loss"] == pytest.approx(truth.loss, rel=1e-4)
    assert np.sum(found["confusion"], axis=1).tolist() == np.bincount(truth.labels).tolist()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")

    # The images that it was tested on, as files: what each is taken for is known.
    names = []
    for i, size in enumerate([8, 8, 40, 8]):
        pixels = DIGITS.validation.images(np.array([i]))[0]
        image = Image.fromarray(pixels).resize((size, size))
        names.append(tmp_path / f"{i}.{'jpg' if i == 3 else 'png'}")
        image.convert("RGB" if i == 1 else "L").save(names[-1], quality=100)
    result = rosetta("predict", whole, *names, "--json", "--top", 10, **here)
    records = json.loads(result.stdout)
    assert [record["image"] for record in records] == [str(name) for name in names]
    for i in (0, 1):
        assert records[i]["classes"][0]["class"] == DIGITS.classes[truth.predictions[i]]
    for record in records:
        shares = [item["probability"] for item in record["classes"]]
        assert sum(shares) == pytest.approx(1)
        assert shares == sorted(shares, reverse=True)
    batch = next(validation_batches(experiment("numpy"), DIGITS).epoch(0)).images[:1]
    logits = model(batch.astype(np.float64))[0]
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    first = {item["class"]: item["probability"] for item in records[0]["classes"]}
    np.testing.assert_allclose([first[name] for name in DIGITS.classes], expected, atol=1e-5)


@pytest.mark.port
def test_a_full_disk_gives_one_line_and_the_run_can_be_resumed(backend_name: str, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    process = start(run, backend_name, "--resume", "--epochs", "4", code=ALMOST_FULL)
    _, errors = process.communicate(timeout=300)
    lines = [line for line in errors.splitlines() if line.startswith("rosetta: ")]
    assert process.returncode == 2, errors
    assert len(lines) == 1
    assert "cannot write" in lines[0]
    assert "Traceback" not in errors
    train(run, experiment(backend_name), DIGITS, Silent(), resume=True)
    assert last_bytes(run) == last_bytes(whole)


@pytest.mark.port
def test_compare_shows_where_runs_diverge(rosetta, backend_name: str, whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    asked = experiment(backend_name, epochs=1, dtype="float64")
    train(other, asked, DIGITS, Silent())
    result = rosetta("compare", whole, other, "-o", "both.png")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert "float32" in result.stdout
    assert "float64" in result.stdout


REFUSED = [
    (("train", "-o", "run"), "name the network to train"),
    (("train", "lenet", "-o", "run"), "--backend is missing; choose from torch, jax, tf, mxnet"),
    (("train", "lenet", "--backend", "numpy", "-o", "run"), "there is no backend 'numpy'"),
    (("train", "lente", "--backend", "HERE", "-o", "run"), "did you mean lenet"),
    (("train", "lenet", "--backend", "HERE", "-o", "run", "--optimizer", "adma"), "did you mean adam or adamw?"),
    (
        ("train", "lenet", "--backend", "HERE", "-o", "run", "--batch-size", "0"),
        "--batch-size (=0) must be more than 0",
    ),
    (("train", "lenet", "--backend", "HERE", "-o", "run", "--lr", "-1"), "--lr (=-1) must be more than 0"),
    (("train", "lenet", "--backend", "HERE", "-o", "run", "--data", "nowhere"), "there is no data set or folder"),
    (
        ("train", "lenet", "--backend", "HERE", "-o", "run", "--data", "mnist", "--data-dir", "empty"),
        "lacks train-images-idx3-ubyte.gz",
    ),
    (("train", "-o", "run", "--resume"), "run is not a training run: it has no config.json"),
    (("evaluate", "nowhere"), "nowhere is not a training run"),
    (("predict", "nowhere", "x.png"), "nowhere is not a training run"),
    (("compare", "one"), "give at least two runs to compare"),
    (("compare", "one", "two"), "one is not a training run"),
]


@pytest.mark.port
@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_a_bad_option_gives_one_line_and_leaves_no_files(
    rosetta, backend_name: str, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    here = {f"ROSETTA_PYTHON_{backend_name.upper()}": sys.executable}
    result = rosetta(*(backend_name if word == "HERE" else word for word in arguments), **here)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.port
def test_a_resumed_run_keeps_its_settings(rosetta, backend_name: str, whole: Path) -> None:
    here = {f"ROSETTA_PYTHON_{backend_name.upper()}": sys.executable}
    result = rosetta("train", "-o", whole, "--resume", "--lr", "0.5", **here)
    assert result.returncode == 2
    assert "--learning-rate cannot be changed" in result.stderr or "--lr cannot be changed" in result.stderr
    result = rosetta("train", "lenet", "-o", whole, "--resume", **here)
    assert (result.returncode, "is a run of bn_lenet, not of lenet" in result.stderr) == (2, True)
    result = rosetta("predict", whole, whole / "config.json", **here)
    assert result.returncode == 2
    assert "config.json" in result.stderr
    assert result.stderr.count("\n") == 1
