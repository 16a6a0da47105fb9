"""Benchmarks without a framework: statistics, faults of worker processes, history, tables, plots and the command.

tests/faulty_runner.py is the real worker with NumPy in place of a framework, and with faults.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from support import ROOT, interruptible

from common import catalog, json_records, reference, weights
from common.backends import environments, launch
from common.cli.main import main
from common.deploy import tolerance
from common.deploy.bench import benchmark, energy, history, install_size, machine, plots, tables, timing
from common.deploy.bench.inputs import Inputs, size_on_disk
from common.deploy.bench.results import SCHEMA, Cold, Interval, Measurement, Run
from common.deploy.execution_paths import PATHS, get
from common.errors import BackendError, InputError
from common.images import real_batch

# Timing


def test_a_constant_series_is_settled_and_a_falling_one_is_not() -> None:
    noise = np.random.default_rng(0).normal(1, 0.05, 2 * timing.WINDOW)
    assert timing.settled(list(noise))
    assert timing.settled([1.0] * 10)
    assert not timing.settled(list(noise * np.repeat([2.0, 1.0], timing.WINDOW)))
    assert not timing.settled([1.05] * 5 + [1.0] * 5)  # without noise, 5% is a trend
    assert timing.settled([1.005] * 5 + [1.0] * 5)
    assert not timing.settled([1.0] * (2 * timing.WINDOW - 1))


def test_warm_up_ends_when_times_are_constant_or_the_time_is_over() -> None:
    times = iter([8.0, 4.0, 2.0, 1.5, 1.2, *[1.0] * 100])
    # The first window differs from the second, which agrees with the third.
    assert len(timing.warm_up(lambda: next(times), 1000)) == 15
    falling = iter(0.9**i for i in range(1000))
    taken = timing.warm_up(lambda: next(falling), 8)
    assert math.fsum(taken[:-1]) < 8 <= math.fsum(taken)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_resampled_medians_have_the_distribution_of_real_resamples(count: int) -> None:
    generator = np.random.default_rng(1)
    samples = generator.exponential(size=count)
    drawn = generator.choice(samples, (40000, count))
    found = timing.resampled_medians(list(samples), 40000, generator)
    for percent in (5, 25, 50, 75, 95):
        # There are few distinct values, so compare the shares below a bound, not the percentiles.
        bound = np.percentile(np.median(drawn, axis=1), percent)
        shares = [np.mean(each <= bound + 1e-12) for each in (np.median(drawn, axis=1), found)]
        assert shares[0] == pytest.approx(shares[1], abs=0.015)


def test_a_95_percent_interval_contains_the_true_value_about_95_percent_of_the_time() -> None:
    generator, contained = np.random.default_rng(2), 0
    for _ in range(200):
        rounds = [list(generator.normal(offset, 0.5, 21)) for offset in generator.normal(10, 1, 12)]
        interval = timing.latency(rounds)
        assert interval.low <= interval.value <= interval.high
        contained += interval.low <= 10 <= interval.high
    assert 0.89 <= contained / 200 <= 0.99


def test_rounds_count_equally_whatever_their_number_of_samples() -> None:
    rounds = [[1.0] * 1000, [1.1] * 10, [1.2] * 10]
    interval = timing.latency(rounds)
    assert (interval.low, interval.value, interval.high) == (1.0, 1.1, 1.2)
    only = timing.latency([[3.0, 1.0, 2.0]])
    assert only.value == 2.0


def test_a_percentile_is_over_the_samples_of_all_rounds() -> None:
    assert timing.percentile([list(range(0, 51)), list(range(51, 101))], 95) == 95
    assert timing.percentile([[1.0, 2.0]], 50) == 1.5


# Input files and the order of cases


def test_the_reference_gives_the_same_logits_in_small_batches(tmp_path: Path) -> None:
    network = catalog.get("bn_lenet")
    inputs = Inputs(tmp_path, [network], [2, 6], None)
    model = reference.build(network)
    reference.load(model, weights.initialize(network, "probe", 0))
    images = real_batch(network, 6).astype(np.float32)
    for batch in (2, 6):
        assert np.array_equal(np.load(inputs.images(network, batch)), images[:batch])
        expected = model(images[:batch].astype(np.float64))
        found = np.load(inputs.expected(network, "inference", batch))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_tolerances_grow_as_the_precision_of_the_dtype_falls() -> None:
    network = catalog.get("lenet")
    found = [tolerance.tolerance(network, 1, dtype) for dtype in ("float64", "float32", "float16", "int8")]
    assert found == sorted(found)
    assert found[0] < 1e-13 < found[1] < 1e-4 < found[2] < found[3] < 1


def test_each_round_runs_all_cases_in_another_order() -> None:
    settings = benchmark.Settings([catalog.get("lenet")], list(PATHS.values()), modes=("inference", "training"))
    every = benchmark.cases(settings)
    orders = [list(benchmark._order(every, number, 0)) for number in range(3)]
    assert all(set(order) == set(every) and len(order) == len(every) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == list(benchmark._order(every, 0, 0))
    # Cases of one table are measured one after the other.
    groups = [(case.mode, case.batch) for case in orders[1]]
    assert sum(a != b for a, b in itertools.pairwise(groups)) == len(set(groups)) - 1
    assert not {case.path.name for case in every if case.mode == "training"} & {"numpy", "onnxruntime"}
    assert not any(case.path.format for case in benchmark.cases(dataclasses.replace(settings, device="gpu")))


# Processes


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace frameworks by NumPy with a fault, as in `faults(torch="wrong")`."""
    monkeypatch.setattr(benchmark, "_peaks", lambda *_: {"matmul_gflops": {"1": 10.0}, "memory_gb_per_s": {"1": 5.0}})

    def replace(**faulty: str) -> None:
        for backend, fault in faulty.items():
            script = tmp_path / f"{backend}-{fault}"
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests/faulty_runner.py"}" {fault} "$@"\n')
            script.chmod(0o755)
            monkeypatch.setenv(f"ROSETTA_PYTHON_{backend.upper()}", str(script))

    return replace


@pytest.fixture
def no_install_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip measuring the installed size."""
    monkeypatch.setattr(benchmark._Bench, "installed", lambda *_: None)


def bench_of(*paths: str, network: str = "lenet", config: dict | None = None, **settings: object) -> Run:
    options = {"batches": (2,), "rounds": 1, "seconds": 0.01, **settings}
    return benchmark.run(benchmark.Settings([catalog.get(network, **(config or {}))], list(map(get, paths)), **options))


def test_the_higher_rate_before_or_after_the_rounds_counts(
    faults: Callable[..., None], no_install_size: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults(torch="none")
    before = {"matmul_gflops": {"1": 8.0}, "memory_gb_per_s": {"1": 5.0}}
    after = {"matmul_gflops": {"1": 10.0}, "memory_gb_per_s": {"1": 4.0}}
    rates = iter((before, after))
    monkeypatch.setattr(benchmark, "_peaks", lambda *_: next(rates))
    described = bench_of("torch-eager").machine
    assert (described["matmul_gflops"], described["memory_gb_per_s"]) == ({"1": 10.0}, {"1": 5.0})


def test_a_fault_fails_only_its_own_row(faults: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    faults(torch="none", jax="wrong", tf="crash")
    monkeypatch.setattr(environments, "_tox_folders", list)
    monkeypatch.delenv("ROSETTA_PYTHON_MXNET", raising=False)
    find_spec = environments.importlib.util.find_spec
    monkeypatch.setattr(environments.importlib.util, "find_spec", lambda name: name != "mxnet" and find_spec(name))
    reported: list[tuple[str, int, int]] = []
    settings = benchmark.Settings(
        [catalog.get("lenet")],
        [get(name) for name in ("numpy", "torch-eager", "torch-compile", "jax-jit", "tf-eager", "mxnet-imperative")],
        (2,),
        rounds=2,
        seconds=0.01,
    )
    run = benchmark.run(settings, lambda *progress: reported.append(progress))
    rows = {one.path: one for one in run.measurements}
    assert {name: one.status for name, one in rows.items()} == {
        "numpy": "measured",
        "torch-eager": "measured",
        "torch-compile": "measured",
        "jax-jit": "wrong",
        "tf-eager": "failed",
        "mxnet-imperative": "missing",
    }
    assert rows["jax-jit"].error == pytest.approx(1e-3, rel=1e-3)
    assert rows["jax-jit"].tolerance < 1e-4
    assert "off by 0.001 of the largest logit" in rows["jax-jit"].message
    assert "SIGABRT" in rows["tf-eager"].message
    assert "ROSETTA_PYTHON_MXNET" in rows["mxnet-imperative"].message
    for name in ("jax-jit", "tf-eager", "mxnet-imperative"):
        assert rows[name].latency_ms is rows[name].images_per_second is rows[name].cold_seconds is None
    whole = rows["numpy"]
    assert whole.images_per_second.value == pytest.approx(2e3 / whole.latency_ms.value)
    assert whole.p99_ms >= whole.p95_ms >= whole.latency_ms.low
    assert whole.rounds == 2
    assert whole.samples >= 10
    cold = whole.cold_seconds
    assert cold.first_answer >= cold.imports + cold.load
    assert cold.again is None  # NumPy has no cache
    assert rows["torch-eager"].cold_seconds.again is None  # an empty folder is not a cache
    assert rows["torch-compile"].cold_seconds.again > 0
    assert 10e6 < whole.peak_memory_bytes < 500e6
    described = reference.describe(catalog.get("lenet"))
    assert 0 < whole.artifact_bytes - 4 * (described.parameters + described.statistics) < 4096
    assert whole.install_bytes > 1e6
    assert run.versions["numpy"]["numpy"] == np.__version__
    assert reported[-1][1:] in [(2, 2)]
    assert {backend: done for backend, done, _ in reported} == {"numpy": 2, "torch": 4, "jax": 2, "tf": 2, "mxnet": 2}
    assert history.loads(history.dumps(run)) == run


@pytest.mark.usefixtures("no_install_size")
def test_errors_of_a_worker_process_are_reported(faults: Callable[..., None]) -> None:
    faults(torch="raises", jax="silent", tf="missing")
    raised, silent, missing = bench_of("torch-eager", "jax-jit", "tf-eager").measurements
    assert (raised.status, raised.message) == ("failed", "RuntimeError: no kernel for this")
    assert silent.status == "failed"
    assert "without an outcome" in silent.message
    assert missing.status == "missing"
    assert "framework is not installed" in missing.message
    assert "install it" in missing.message
    faults(torch="shape", jax="nan")
    shape, nan = bench_of("torch-eager", "jax-jit").measurements
    assert (shape.status, shape.message) == ("wrong", "the logits are of shape (2, 9); expected (2, 10)")
    assert (nan.status, nan.message) == ("wrong", "the answer is not finite")


@pytest.mark.usefixtures("no_install_size")
def test_a_training_step_is_compared_with_the_loss_in_training_mode(faults: Callable[..., None]) -> None:
    faults(torch="none", jax="evaluates")
    rows = bench_of("torch-eager", "jax-jit", network="bn_lenet", batches=(4,), modes=("training",)).measurements
    assert [row.status for row in rows] == ["measured", "wrong"]
    assert rows[0].error == pytest.approx(0, abs=1e-6)
    assert "the loss is off" in rows[1].message


@pytest.mark.usefixtures("no_install_size")
def test_a_step_with_dropout_is_checked_without_it(faults: Callable[..., None]) -> None:
    config = {"input_size": [67, 67]}
    faults(torch="none", jax="diverges", tf="offset")
    paths = ("torch-eager", "jax-jit", "tf-eager")
    rows = bench_of(*paths, network="nin", config=config, modes=("training",)).measurements
    assert [row.status for row in rows] == ["measured", "wrong", "wrong"]
    assert "not finite" in rows[1].message
    assert "the loss is off" in rows[2].message
    assert rows[0].config["dropout"] == 0.5
    assert rows[0].error == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("no_install_size")
@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize(("after", "rounds"), [(4, [2, 1, 1]), (2, [1, 1])])
def test_after_an_interruption_the_results_so_far_are_returned(
    faults: Callable[..., None], interruption: BaseException, after: int, rounds: list[int]
) -> None:
    faults(torch="none")
    calls: list[str] = []

    def interrupt(*progress: object) -> None:
        calls.append(str(progress))
        if len(calls) == after:
            raise interruption

    paths = list(map(get, ("numpy", "torch-eager", "torch-compile")))
    settings = benchmark.Settings([catalog.get("lenet")], paths, (2,), rounds=3, seconds=0.01)
    run = benchmark.run(settings, interrupt)
    assert len(calls) == after
    assert run.interrupted
    assert sorted((one.rounds for one in run.measurements), reverse=True) == rounds
    assert all(one.status == "measured" and one.latency_ms for one in run.measurements)
    assert run.machine["matmul_gflops"] == {"1": 10.0}
    assert history.loads(history.dumps(run)) == run
    lines = list(tables.heading(run))
    assert lines[-1].startswith(f"interrupted after {'1 to 2' if after == 4 else '1'} of 3 rounds")


def test_an_interruption_before_the_first_result_is_raised(
    faults: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    faults(torch="none")
    monkeypatch.setattr(benchmark._Bench, "once", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_of("torch-eager")


def test_a_process_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(99)"
    child, note = f"subprocess.Popen([sys.executable, '-c', {sleep!r}])", tmp_path / "child"
    code = f"import pathlib, subprocess, sys; pathlib.Path({str(note)!r}).write_text(str({child}.pid)); {sleep}"
    start = time.monotonic()
    with pytest.raises(BackendError, match="was not done within 3 s"):
        launch.launch(Path(sys.executable), ["-c", code], dict(os.environ), tmp_path / "log", 3)
    assert time.monotonic() - start < 60
    with contextlib.suppress(psutil.NoSuchProcess):
        left = psutil.Process(int(note.read_text()))
        # It ends when it is next scheduled, and may stay a zombie if its new parent does not wait for it.
        while left.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() - start < 60
            time.sleep(0.01)


def test_the_number_of_threads_overrides_the_users_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = launch.environment(2, Path("/caches"))
    assert {found[name] for name in launch.THREAD_VARIABLES} == {"2"}
    assert found["TORCHINDUCTOR_CACHE_DIR"].startswith("/caches/")


# The machine


def test_rates_follow_their_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(machine, "_best", lambda work: ran.append(work()) or 0.5)
    monkeypatch.setattr(machine, "_array_bytes", lambda: 8_000_008)
    assert machine.matmul_gflops() == pytest.approx(2 * 1536**3 / 0.5 / 1e9)
    for threads in (1, 3):
        assert machine.memory_gb_per_s(threads) == pytest.approx(3 * 8_000_008 / 0.5 / 1e9)
    assert len(ran) == 3


def test_separate_cores_are_used_before_second_threads_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 6}, raising=False)
    monkeypatch.setattr(
        machine, "_siblings", lambda cpu: sorted((cpu, (cpu + 4) % 8)) if cpu > 3 else [cpu & 2, cpu | 1]
    )
    assert machine.processors(2) == [0, 2]
    assert machine.processors(4) == [0, 2, 1, 3]


def test_minimum_traffic_is_weights_once_and_each_image_and_activation_once() -> None:
    assert machine.least_bytes(1000, 10, 200, batch=3) == 4 * (1000 + 3 * 210)


def test_energy_is_summed_over_packages_and_counters_may_wrap_around(tmp_path: Path) -> None:
    def zone(name: str, kind: str, microjoules: int) -> None:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for file, value in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", 10_000_000)):
            (folder / file).write_text(f"{value}\n")

    assert energy.meter("cpu", tmp_path) is None
    zones = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:0": "core", "intel-rapl:2": "psys"}
    for name, kind in zones.items():
        zone(name, kind, 9_000_000)
    joules = energy.meter("cpu", tmp_path)
    zone("intel-rapl:0", "package-0", 9_500_000)
    zone("intel-rapl:1", "package-1", 1_000_000)
    zone("intel-rapl:0:0", "core", 9_900_000)
    assert joules() == pytest.approx(0.5 + 2.0)


# Installed size


def test_each_dependency_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str, size: int, *requires: str) -> None:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        lines = [f"Requires-Dist: {each}" for each in requires]
        (folder / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *lines, ""])
        )
        (folder / "RECORD").write_text(f"{name}.py,sha256=x,{size}\n{name}.pyc,,\n")

    distribution("top_level", 1, "Middle.Part[fast]>=1", "absent; python_version < '3'", "tests; extra == 'test'")
    distribution("middle_part", 20, "leaf", "quick; extra == 'fast'", "slow; extra == 'slow'")
    distribution("leaf", 300, "top_level", "gone")
    distribution("quick", 4000)
    distribution("slow", 50000)
    distribution("tests", 50000)
    monkeypatch.syspath_prepend(tmp_path)
    found = install_size.closure(["top_level"])
    assert list(found) == ["leaf", "middle-part", "quick", "top-level"]
    assert install_size.size(found.values()) == 4321
    with pytest.raises(install_size.metadata.PackageNotFoundError):
        install_size.closure(["never-heard-of"])


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "sub" / "b").write_bytes(b"345")
    assert size_on_disk(tmp_path) == 5
    assert size_on_disk(tmp_path / "a") == 2


# Results, history, tables and plots


def measurement(
    path: str = "torch-eager", low: float = 9.0, value: float = 10.0, high: float = 11.0, **other
) -> Measurement:
    fields = {
        "network": "resnet18",
        "config": json.loads(catalog.get("resnet18").config_json()),
        "path": path,
        "mode": "inference",
        "device": "cpu",
        "batch": 1,
        "threads": 2,
        "status": "measured",
        **other,
    }
    if fields["status"] != "measured":
        return Measurement(**fields)
    batch = fields["batch"]
    return Measurement(
        **fields,
        latency_ms=Interval(value, low, high),
        p95_ms=high,
        p99_ms=high,
        images_per_second=Interval(*(1e3 * batch / bound for bound in (value, high, low))),
        cold_seconds=Cold(1, 2, 3, 7, None),
    )


def run_of(*measurements: Measurement, when: str = "2026-01-01T00:00:00+00:00", **other: object) -> Run:
    described = {
        "processor": "P",
        "processors": 2,
        "memory_bytes": 10**9,
        "system": "Linux x86_64",
        "gpu": None,
        "matmul_gflops": {"2": 200.0},
        "memory_gb_per_s": {"2": 20.0},
        **other,
    }
    return Run(SCHEMA, when, described, {}, {}, measurements)


def test_a_run_survives_a_round_trip_through_json() -> None:
    run = run_of(measurement(), measurement("jax-jit", status="failed", message="it died"))
    again = history.loads(history.dumps(run))
    assert again == run
    assert again.measurements[0].key == run.measurements[0].key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measurements": [{}]}, "no `network`"),
        ({"measurements": 1}, "`measurements`"),
        ({"schema": "1"}, "`schema`"),
        ({"measurements": [{**dataclasses.asdict(measurement()), "latency_ms": 3}]}, "expected object"),
        ({"measurements": [{**dataclasses.asdict(measurement()), "latency_ms": {"value": 1}}]}, "no `low`"),
        ({"measurements": [{**dataclasses.asdict(measurement()), "batch": None}]}, "batch` "),
        ({"measurements": [{**dataclasses.asdict(measurement()), "status": "good"}]}, "one of measured"),
    ],
)
def test_json_of_another_structure_is_refused(change: dict, message: str) -> None:
    whole = json.loads(history.dumps(run_of()))
    with pytest.raises(ValueError, match=message):
        json_records.build(Run, whole | change)


def test_a_clearly_slower_result_on_the_same_machine_is_a_regression(tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    assert history.read(file) == []
    history.append(file, run_of(measurement(low=1, value=2, high=3)))
    history.append(file, run_of(measurement(), measurement("jax-jit"), measurement("tf-xla"), when="later"))
    history.append(file, run_of(measurement(low=0.1, value=0.2, high=0.3), processor="another"))
    history.append(file, run_of(measurement(batch=8, low=1, value=1, high=1), measurement(status="failed")))
    now = run_of(
        measurement(low=11.5, value=12, high=12.5),
        measurement("jax-jit", low=10.5, value=12, high=13),
        measurement("tf-xla", status="wrong"),
        measurement("openvino"),
    )
    changes = {change.now.path: change for change in history.compare(now, history.read(file))}
    assert {path: change.verdict for path, change in changes.items()} == {
        "torch-eager": "slower",
        "jax-jit": "same",
        "tf-xla": "broken",
    }
    slower = changes["torch-eager"]
    assert slower.when == "later"
    assert slower.ratio == Interval(1.2, 11.5 / 11, 12.5 / 9)
    assert [change.now.path for change in changes.values() if change.regression] == ["torch-eager", "tf-xla"]
    (back,) = history.compare(run_of(measurement()), [run_of(measurement(low=11.5, value=12, high=12.5))])
    assert (back.verdict, back.regression) == ("faster", False)
    # The intervals do not overlap, but the difference is below 5%.
    (close,) = history.compare(
        run_of(measurement(low=10.3, value=10.4, high=10.5)), [run_of(measurement(low=9.9, high=10.1))]
    )
    assert close.verdict == "same"


def test_a_damaged_line_of_a_history_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    history.append(file, run_of())
    file.write_text(file.read_text() + '{"schema": 1\n')
    with pytest.raises(InputError, match="line 2"):
        history.read(file)


def test_an_incomplete_last_line_is_ignored_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    first, torn, third = run_of(when="first"), run_of(when="torn"), run_of(when="third")
    history.append(file, first)
    end = file.stat().st_size
    history.append(file, torn)
    whole = file.read_bytes()
    for size in (end + 1, end + 100, len(whole) - 2):
        file.write_bytes(whole[:size])
        assert history.read(file) == [first]
        history.append(file, third)
        assert history.read(file) == [first, third]
    # A complete line without a newline, as some editors leave it.
    file.write_bytes(whole[:-1])
    assert history.read(file) == [first, torn]
    history.append(file, third)
    assert history.read(file) == [first, torn, third]


@contextlib.contextmanager
def files_limited(size: int) -> Iterator[None]:
    """Limit the size of files, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_the_history_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    history.append(file, run_of())
    before = file.read_bytes()
    with files_limited(len(before) + 100), pytest.raises(InputError, match=f"cannot write {file}: File too large"):
        history.append(file, run_of())
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", ["notes", "notes\n", "{}\n", "\x1f\x8b"])
def test_a_file_that_is_not_a_history_is_not_changed(content: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(content)
    with pytest.raises(InputError, match="name another --history"):
        history.append(file, run_of())
    assert file.read_text() == content


def test_a_table_has_a_row_per_path_and_blanks_for_missing_values() -> None:
    rows = [
        measurement(),
        measurement("numpy", status="missing"),
        measurement(batch=8, value=80.0, low=70.0, high=90.0),
    ]
    found = list(tables.tables(rows))
    assert [table.row_count for table in found] == [2, 1]
    assert list(found[0].columns[2].cells) == ["10.0 [9.00, 11.0]", ""]
    assert list(found[1].columns[5].cells) == ["100"]
    assert "resnet18 (1x96x96, 10 classes), inference, batch 8, 2 threads" in found[1].title


def run_of_all_paths() -> Run:
    return run_of(
        *(
            measurement(path, batch=b, value=10 * b**0.9, low=9 * b**0.9, high=11 * b**0.9)
            for path in PATHS
            for b in (1, 8)
        )
    )


def test_plotted_points_are_the_measured_values() -> None:
    run = run_of_all_paths()
    lines = {line.get_label(): line for line in plots.draw_latency(run).get_axes()[0].get_lines()}
    assert list(lines["openvino"].get_xdata()) == pytest.approx([10, 10 * 8**0.9])
    assert list(lines["openvino"].get_ydata()) == pytest.approx([100, 800 / 8**0.9])
    network = catalog.get("resnet18")
    described = reference.describe(network)
    operations = 2 * described.multiply_accumulates
    moved = 4 * (described.parameters + described.statistics + 96 * 96 + described.activations)
    lines = {line.get_label(): line for line in plots.draw_roofline(run).get_axes()[0].get_lines()}
    assert lines["numpy"].get_xdata()[0] == pytest.approx(operations / moved)
    assert lines["numpy"].get_ydata()[0] == pytest.approx(operations / 0.010 / 1e9)
    (axes,) = plots.draw_batches(run).get_axes()
    assert axes.containers[0].lines[0].get_ydata()[1] == pytest.approx(10 * 8**0.9 / 8)


def test_every_path_has_its_own_color_and_marker() -> None:
    assert len({plots.look(path) for path in PATHS}) == len(PATHS)


def test_plots_are_saved_if_something_was_measured(tmp_path: Path) -> None:
    names = [path.name for path in plots.save_plots(run_of_all_paths(), tmp_path / "plots")]
    assert names == ["latency.svg", "batch.svg", "roofline.svg"]
    assert all((tmp_path / "plots" / name).read_text().startswith("<?xml") for name in names)
    assert plots.save_plots(run_of(measurement(status="failed")), tmp_path / "none") == []
    on_gpu = run_of(measurement(device="gpu"))
    assert len(plots.save_plots(on_gpu, tmp_path / "gpu")) == 2  # no roofline for a GPU


# The command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the networks"),
        (["lenet9"], "no network 'lenet9'"),
        (["lenet", "--paths", "torch-egaer"], "did you mean torch-eager"),
        (["lenet", "--backends", "theano"], "no backend 'theano'"),
        (["lenet", "--backends", "jax", "--paths", "torch-eager"], "leave one of the two out"),
        (["lenet", "--batch", "0"], "--batch (='0')"),
        (["lenet", "--batch", "1,x"], "--batch (='1,x')"),
        (["lenet", "--threads", "65536"], "more than this machine's"),
        (["lenet", "--threads", "-1"], "--threads (='-1')"),
        (["lenet", "--device", "tpu"], "no device 'tpu'"),
        (["lenet", "--mode", "both"], "no mode 'both'"),
        (["lenet", "--mode", "training", "--paths", "onnxruntime"], "can do training"),
        (["lenet", "--rounds", "0"], "--rounds"),
        (["lenet", "--weights", "absent"], "absent: no such file"),
        (["lenet", "--config", '{"input_size": [1, 1]}'], "too small"),
        (["lenet", "--no-history", "--json", "absent/x.json"], "there is no folder absent"),
        (["lenet", "--plot", "absent/plots"], "there is no folder absent"),
        (["lenet", "--history", "absent/h.jsonl"], "there is no folder absent"),
        (["lenet", "--history", "damaged.jsonl", "--compare"], "line 1"),
        (["lenet", "--history", "notes.txt"], "not a history of `rosetta bench`"),
    ],
)
def test_a_bad_request_is_one_line_before_any_work(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "run", lambda *_: pytest.fail("it started to measure"))
    (tmp_path / "damaged.jsonl").write_text('{"schema": 1}\n')
    (tmp_path / "notes.txt").write_text("notes\n")
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_the_command_shows_saves_and_compares_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    requests: list[benchmark.Settings] = []
    answers = [run_of(measurement(low=1, value=1, high=1), when="first"), run_of(measurement())]

    def fake_run(settings: benchmark.Settings, *_: object) -> Run:
        requests.append(settings)
        return answers.pop(0)

    monkeypatch.setattr(benchmark, "run", fake_run)
    options = ["--history", "h.jsonl", "--paths", "torch-eager,openvino", "--threads", "1", "--batch", "1,4"]
    assert main(["bench", "resnet18", *options, "--json", "run.json", "--compare"]) == 0
    assert "nothing to compare with" in capsys.readouterr().out
    assert history.loads((tmp_path / "run.json").read_bytes()).when == "first"
    assert [path.name for path in requests[0].paths] == ["torch-eager", "openvino"]
    assert (requests[0].batches, requests[0].threads) == ([1, 4], [1])
    assert main(["bench", "resnet18", *options, "--compare", "--plot", "plots"]) == 1
    printed = capsys.readouterr().out
    assert "slower" in printed
    assert "10.0 [9.00, 11.0]" in printed
    assert len(list((tmp_path / "plots").iterdir())) == 3
    assert len(history.read(tmp_path / "h.jsonl")) == 2


def test_results_are_shown_and_saved_if_the_history_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "run", lambda *_: run_of(measurement()))
    for _ in range(10):
        history.append(tmp_path / "h.jsonl", run_of(measurement()))
    before = (tmp_path / "h.jsonl").read_bytes()
    with files_limited(len(before) + 1):
        assert main(["bench", "lenet", "--history", "h.jsonl", "--paths", "numpy", "--json", "run.json"]) == 2
    printed = capsys.readouterr()
    assert "10.0 [9.00, 11.0]" in printed.out
    assert printed.err == "rosetta: cannot write h.jsonl: File too large\n"
    assert history.loads((tmp_path / "run.json").read_bytes()) == run_of(measurement())
    assert (tmp_path / "h.jsonl").read_bytes() == before


def test_ctrl_c_keeps_the_results_so_far_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    arguments = ("lenet", "--paths", "numpy", "--rounds", "8", "--seconds", "0.01", "--batch", "1")
    process = interruptible(tmp_path, temporary, "bench", *arguments, "--json", "run.json", "--history", "h.jsonl")
    try:
        assert process.stderr.readline() == "reference: 2 of 8\n"
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error == ""
    run = history.loads((tmp_path / "run.json").read_bytes())
    assert history.read(tmp_path / "h.jsonl") == [run]
    (one,) = run.measurements
    assert (run.interrupted, one.status) == (True, "measured")
    assert 2 <= one.rounds < 8
    assert f"interrupted after {one.rounds} of 8 rounds" in output
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("statuses", "named", "status"),
    [
        (("measured", "missing"), False, 0),
        (("measured", "missing"), True, 3),
        (("missing", "missing"), False, 3),
        (("measured", "failed"), False, 3),
        (("measured", "failed", "wrong"), False, 1),
    ],
)
def test_exit_statuses(statuses: tuple[str, ...], named: bool, status: int) -> None:
    from common.cli.bench import _status

    rows = [measurement(path, status=one) for path, one in zip(PATHS, statuses, strict=False)]
    assert _status(run_of(*rows), False, named) == status
    assert _status(dataclasses.replace(run_of(*rows), interrupted=True), False, named) == 130
