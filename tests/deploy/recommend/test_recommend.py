"""Recommendations from small sets of measurements whose ranking can be worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from common.backends import registry
from common.catalog import get
from common.cli import recommend as recommend_command
from common.deploy.bench import history
from common.deploy.bench.results import Cold, Interval, Measurement, Run
from common.deploy.execution_paths import PATHS
from common.deploy.export.formats import FORMATS
from common.deploy.recommend import facts
from common.deploy.recommend.criteria import AXES, LIMITS, OBJECTIVES, Objective, shown
from common.deploy.recommend.rank import Constraints, dominates, front, recommend
from common.deploy.recommend.report import commands
from common.errors import ConfigError, InterruptedRunError

CONFIG = json.loads(get("resnet18").config_json())


def measured(path: str, latency: float, memory: float, install: float, cold: float, **changes: Any) -> Measurement:
    """Return a correct measurement: latency in ms (interval of 5%), MB, MB, s; its p95 is 1.2 times the median."""
    values: dict[str, Any] = {
        "status": "measured",
        "error": 1e-7,
        "tolerance": 1e-4,
        "latency_ms": Interval(latency, 0.95 * latency, 1.05 * latency),
        "p95_ms": 1.2 * latency,
        "p99_ms": 1.5 * latency,
        "images_per_second": Interval(1000 / latency, 950 / latency, 1050 / latency),
        "peak_memory_bytes": round(memory * 1e6),
        "cold_seconds": Cold(cold / 2, cold / 4, cold / 4, cold),
        "artifact_bytes": 0,
        "install_bytes": round(install * 1e6),
    }
    return Measurement("resnet18", CONFIG, path, "inference", "cpu", 1, 2, **{**values, **changes})


def failed(path: str, status: str, **changes: Any) -> Measurement:
    return Measurement("resnet18", CONFIG, path, "inference", "cpu", 1, 2, status=status, **changes)  # type: ignore[arg-type]


#                          ms    MB   MB     s
SAMPLE = [
    measured("torch-eager", 16, 400, 700, 2.0),
    measured("torch-compile", 9.3, 600, 700, 30),
    measured("jax-jit", 20, 500, 350, 4.0),
    measured("onnxruntime", 8.8, 150, 100, 0.5),
    measured("openvino", 8, 300, 200, 1.0),
    measured("litert", 14, 80, 30, 0.2),
    measured("litert-int8", 5, 60, 30, 0.2, status="wrong", error=0.3, tolerance=1e-4),
    failed("mxnet-onednn", "failed", message="died of signal 11"),
    failed("tf-xla", "missing", message="environment tf is not installed"),
]


def reasons(result: Any) -> dict[str, str]:
    return {each.path: "; ".join(each.reasons) for each in result.dropped}


def order(result: Any) -> list[str]:
    return [each.measurement.path for each in result.ranked]


# --- who wins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraints", "objective", "expected"),
    [
        # 8 and 8.8 overlap, and so do 8.8 and 9.3, but the first of a rank decides: 8.4 < 8.835.
        (Constraints(), "latency", ["openvino", "onnxruntime", "torch-compile", "litert", "torch-eager", "jax-jit"]),
        (Constraints(latency_ms=15), "memory", ["onnxruntime", "openvino", "torch-compile"]),
        (Constraints(install_mb=50), "latency", ["litert"]),
        (Constraints(memory_mb=450), "throughput", ["openvino", "onnxruntime", "litert", "torch-eager"]),
        (Constraints(runtime="browser"), "latency", ["onnxruntime", "litert"]),
        (Constraints(runtime="c", memory_mb=300), "latency", ["openvino", "onnxruntime", "litert"]),
        (Constraints(latency_ms=17, memory_mb=100), "throughput", ["litert"]),
        (Constraints(install_mb=100), "size", ["litert", "onnxruntime"]),
        (Constraints(error=1e-7, latency_ms=15), "memory", ["onnxruntime", "openvino", "torch-compile"]),
        (Constraints(install_mb=700), "cold-start", ["litert", "onnxruntime", "openvino", "torch-eager", "jax-jit"]),
    ],
)
def test_the_best_path_that_meets_the_constraints_is_first(constraints, objective, expected) -> None:
    result = recommend(SAMPLE, constraints, objective)
    assert order(result)[: len(expected)] == expected
    if constraints != Constraints() and objective != "cold-start":
        assert order(result) == expected


def test_every_dropped_path_has_a_reason() -> None:
    why = reasons(recommend(SAMPLE, Constraints(10.6, 400, 500, "c"), "latency"))
    assert set(why) | {"onnxruntime", "openvino"} == set(PATHS)
    assert why["torch-eager"] == (
        "--runtime c: it is this project's Python code, not an artifact; --latency-ms 10.6: its p95 latency is "
        "19.2 ms; --install-mb 500: its installation is 700 MB"
    )
    assert why["litert"] == "--latency-ms 10.6: its p95 latency is 16.8 ms"
    assert why["litert-int8"] == "wrong: off by 3.0e-01 of the largest logit; its tolerance is 1.0e-04"
    assert why["mxnet-onednn"] == "failed: died of signal 11"
    assert why["tf-xla"] == "missing: environment tf is not installed"
    assert why["numpy"] == "not measured"


def test_paths_that_cannot_run_on_the_device_are_not_called_unmeasured() -> None:
    why = reasons(recommend([], Constraints(), "latency", "gpu"))
    assert why["onnxruntime"] == "it runs only on cpu"
    assert why["torch-eager"] == "not measured"


def test_an_unknown_path_and_one_without_a_latency_are_dropped() -> None:
    why = reasons(
        recommend(
            [measured("caffe", 1, 1, 1, 1), measured("litert", 1, 1, 1, 1, latency_ms=None)], Constraints(), "latency"
        )
    )
    assert why["caffe"] == "this version has no such path"
    assert why["litert"] == "its latency was not measured"


def test_int8_is_dropped_if_the_error_is_limited() -> None:
    paths = [measured("litert", 17, 150, 45, 0.2), measured("litert-int8", 3, 80, 12, 0.2, error=0.0131)]
    assert order(recommend(paths, Constraints(), "latency")) == ["litert-int8", "litert"]
    result = recommend(paths, Constraints(error=1e-3), "latency")
    assert order(result) == ["litert"]
    assert reasons(result)["litert-int8"] == "--error 0.001: its error is 1.3e-02"
    closest = recommend(paths, Constraints(error=1e-3, install_mb=20), "latency").relaxations
    assert {each.path: dict(each.changes) for each in closest} == {
        "litert-int8": {"--error": 0.0131},
        "litert": {"--install-mb": 45.0},
    }


def test_a_value_equal_to_the_limit_meets_it() -> None:
    exact = [measured("litert", 10, 80, 30, 0.2, p95_ms=12.0)]
    assert order(recommend(exact, Constraints(latency_ms=12.0), "latency")) == ["litert"]
    assert order(recommend(exact, Constraints(latency_ms=11.99), "latency")) == []


def test_installation_is_the_packages_plus_the_artifact() -> None:
    one = [measured("litert", 10, 80, 30, 0.2, artifact_bytes=45_000_000)]
    assert order(recommend(one, Constraints(install_mb=75), "latency")) == ["litert"]
    assert reasons(recommend(one, Constraints(install_mb=74), "latency"))["litert"] == (
        "--install-mb 74: its installation is 75.0 MB"
    )


def test_the_last_of_two_measurements_of_a_path_counts() -> None:
    result = recommend([measured("litert", 1, 1, 1, 1), measured("litert", 9, 1, 1, 1)], Constraints(), "latency")
    assert [each.measurement.latency_ms.value for each in result.ranked] == [9]


# --- ties and missing values ------------------------------------------------------------------------------------------


def test_paths_are_tied_if_their_intervals_overlap_that_of_the_first() -> None:
    times = {
        "onnxruntime": (10, 9, 11),
        "openvino": (11.5, 10.8, 12.2),
        "litert": (12.5, 12.1, 13),
        "jax-jit": (14, 13.5, 15),
    }
    sample = [
        measured(path, value, 1, 1, 1, latency_ms=Interval(value, low, high))
        for path, (value, low, high) in times.items()
    ]
    result = recommend(sample, Constraints(), "latency")
    # litert overlaps openvino, but is clearly slower than onnxruntime.
    assert [(each.measurement.path, each.rank, each.tied) for each in result.ranked] == [
        ("onnxruntime", 1, True),
        ("openvino", 1, True),
        ("litert", 3, False),
        ("jax-jit", 4, False),
    ]


def test_without_intervals_only_equal_values_are_tied() -> None:
    result = recommend(SAMPLE, Constraints(runtime="mobile"), "size")
    assert [each.tied for each in result.ranked] == [False, False]
    equal = [measured("litert", 9, 5, 1, 1), measured("openvino", 8, 5, 1, 1)]
    assert [each.rank for each in recommend(equal, Constraints(), "memory").ranked] == [1, 1]


def test_if_no_path_has_the_objective_nothing_is_ranked() -> None:
    result = recommend(SAMPLE, Constraints(), "energy")
    assert (result.ranked, result.unmeasured, result.nearest) == ((), True, None)
    assert reasons(result)["onnxruntime"] == "its energy was not measured"


def test_only_paths_with_the_objective_are_ranked() -> None:
    sample = [*SAMPLE[:4], measured("litert", 14, 80, 30, 0.2, energy_joules=0.1)]
    result = recommend(sample, Constraints(), "energy")
    assert (order(result), result.unmeasured) == (["litert"], False)


def test_a_missing_value_breaks_a_limit() -> None:
    blind = [measured("litert", 14, 80, 30, 0.2, peak_memory_bytes=None, p95_ms=None)]
    why = reasons(recommend(blind, Constraints(latency_ms=100, memory_mb=100), "latency"))["litert"]
    assert why == ("--latency-ms 100: its p95 latency was not measured; --memory-mb 100: its memory was not measured")


# --- no path meets all constraints ------------------------------------------------------------------------------------


def test_if_no_path_meets_all_constraints_the_nearest_and_a_relaxation_are_given() -> None:
    # openvino takes 9.6 ms of 9 and 200 MB of 150; onnxruntime 10.56 ms of 9; litert 16.8 ms.
    result = recommend(SAMPLE, Constraints(latency_ms=9, install_mb=150), "latency")
    assert result.ranked == ()
    assert result.nearest.path == "onnxruntime"
    assert [(each.path, dict(each.changes)) for each in result.relaxations] == [("onnxruntime", {"--latency-ms": 10.6})]


def test_each_constraint_that_suffices_to_relax_is_given() -> None:
    # Of memory alone: openvino (300 MB). Of latency alone: litert, 1.68 times; onnxruntime takes 1.76 times the memory.
    result = recommend(SAMPLE, Constraints(latency_ms=10, memory_mb=85), "latency")
    assert {each.path: dict(each.changes) for each in result.relaxations} == {
        "openvino": {"--memory-mb": 300.0},
        "litert": {"--latency-ms": 16.8},
    }
    assert result.nearest.path == "litert"


def test_if_no_single_constraint_suffices_all_that_the_nearest_breaks_are_given() -> None:
    result = recommend(SAMPLE[:2], Constraints(latency_ms=10, install_mb=100), "latency")
    assert [(each.path, dict(each.changes)) for each in result.relaxations] == [
        ("torch-compile", {"--latency-ms": 11.2, "--install-mb": 700.0})
    ]


def test_the_runtime_is_relaxed_if_it_is_the_only_constraint() -> None:
    result = recommend(SAMPLE[:3], Constraints(runtime="browser"), "latency")
    assert [(each.path, dict(each.changes)) for each in result.relaxations] == [
        ("torch-compile", {"--runtime": "python"})
    ]


def test_without_measurements_there_is_no_nearest() -> None:
    result = recommend([], Constraints(latency_ms=1), "latency")
    assert (result.ranked, result.nearest, result.relaxations) == ((), None, ())


# --- properties -------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(1, 6)
SAMPLES = st.lists(
    st.tuples(*[NUMBERS] * 5, st.sets(st.sampled_from(["latency_ms", "peak_memory_bytes", "install_bytes", "error"]))),
    max_size=9,
).map(
    lambda rows: [
        measured(path, *numbers, **{"error": error, **dict.fromkeys(unknown)})
        for path, (*numbers, error, unknown) in zip(PATHS, rows, strict=False)
    ]
)
LIMIT = st.none() | st.floats(0.1, 8)
CONSTRAINTS = st.builds(Constraints, LIMIT, LIMIT, LIMIT, st.sampled_from(facts.PLACES), LIMIT)


@given(SAMPLES)
def test_the_front_is_exactly_what_is_not_dominated(sample: list[Measurement]) -> None:
    best = front(sample)
    for each in sample:
        numbers = [math.inf if axis.of(each) is None else axis.of(each) for axis in AXES]
        beaten = [
            other.path
            for other in sample
            if (theirs := [math.inf if axis.of(other) is None else axis.of(other) for axis in AXES]) != numbers
            and all(a <= b for a, b in zip(theirs, numbers, strict=True))
        ]
        assert (each in best) == (not beaten), (each.path, beaten)
    assert bool(best) == bool(sample)


@given(SAMPLES)
def test_dominance_is_a_strict_order(sample: list[Measurement]) -> None:
    for one in sample:
        assert not dominates(one, one)
        for other in sample:
            assert not (dominates(one, other) and dominates(other, one))


@given(SAMPLES, CONSTRAINTS, st.sampled_from(sorted(OBJECTIVES)))
def test_every_path_is_ranked_and_meets_the_limits_or_is_dropped_with_a_reason(sample, limits, objective) -> None:
    result = recommend(sample, limits, objective)
    dropped = [each.path for each in result.dropped]
    assert sorted([*order(result), *dropped]) == sorted(PATHS)
    assert all(each.reasons and all(each.reasons) for each in result.dropped)
    for each in result.ranked:
        for name, limit in limits.given().items():
            assert LIMITS[name].quantity.of(each.measurement) <= limit
        assert facts.place(PATHS[each.measurement.path], limits.runtime)[0]
    ranks = [each.rank for each in result.ranked]
    assert ranks == sorted(ranks)
    if result.ranked:
        quantity = OBJECTIVES[objective]
        values = [quantity.of(each.measurement) for each in result.ranked]
        assert values[0] == (max if quantity.more_is_better else min)(values)
        assert any(each.on_front for each in result.ranked)


@given(SAMPLES, CONSTRAINTS)
def test_a_relaxation_lets_its_path_meet_the_constraints(sample, limits) -> None:
    result = recommend(sample, limits, "latency")
    fields = {"--runtime": "runtime"} | {limit.option: name for name, limit in LIMITS.items()}
    for relaxation in result.relaxations:
        changed = dataclasses.replace(limits, **{fields[option]: value for option, value in relaxation.changes.items()})
        assert relaxation.path in order(recommend(sample, changed, "latency"))
    if any(each.measurement for each in result.dropped) and not result.ranked:
        assert result.nearest is not None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (0, "0"), (8.8, "8.80"), (0.01234, "0.0123"), (123.4, "123"), (12345.6, "12,346"), (1.0, "1.00")],
)
def test_numbers_have_three_significant_digits(value: float | None, expected: str) -> None:
    assert shown(value) == expected


# --- facts ------------------------------------------------------------------------------------------------------------


def test_every_path_has_facts_with_sources() -> None:
    for path in PATHS.values():
        found = facts.of(path)
        elsewhere = [place for places in (found.elsewhere, *found.formats.values()) for place in places.values()]
        for fact in (found.status, found.license, found.platforms, *elsewhere):
            assert fact.says
            assert "https://" in fact.source or fact.source.startswith("the metadata of "), fact
            assert fact.seen >= "2026-01-01"
        if path.format is not None:
            assert set(found.elsewhere) == {"c", "mobile", "browser"}, path.name
    assert {form for found in facts.table().values() for form in found.formats} <= set(FORMATS)


def test_runtimes_of_a_path_follow_from_the_facts() -> None:
    served = {place: {path.name for path in PATHS.values() if facts.place(path, place)[0]} for place in facts.PLACES}
    litert = {"litert", "litert-float16", "litert-int8"}
    assert served["python"] == served["any"] == set(PATHS)
    compiled = {"torch-aot", "torch-aot-winograd"}
    assert served["c"] == {"onnxruntime", "openvino", "tf-savedmodel", "mxnet-symbol", *compiled, *litert}
    assert served["mobile"] == {"onnxruntime", *litert}
    assert served["browser"] == {"onnxruntime", "tf-savedmodel", *litert}
    assert [name for name, found in facts.table().items() if found.retired] == ["mxnet"]


@pytest.mark.environment
def test_licenses_are_those_of_the_installed_distributions() -> None:
    """For the distributions that this environment has."""
    from importlib import metadata

    for name, known in facts.table().items():
        try:
            found = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        license_text = " ".join(
            [found["License-Expression"] or "", found["License"] or "", *found.get_all("Classifier", [])]
        )
        assert known.license.says.partition(" ")[0].partition("-")[0] in license_text, (name, license_text)


def test_every_choice_is_implemented() -> None:
    assert tuple(OBJECTIVES) == get_args(Objective)


# --- the history ------------------------------------------------------------------------------------------------------

MACHINE = {"processor": "A Processor", "processors": 2, "memory_bytes": 8_000_000_000, "system": "Linux x86_64"}


def a_run(*measurements: Measurement, when: str = "2026-11-01T10:00:00+00:00", **machine: Any) -> Run:
    return Run(1, when, {**MACHINE, **machine}, {}, {}, measurements)


def of(measurement: Measurement, **changes: Any) -> Measurement:
    return dataclasses.replace(measurement, **changes)


def latest_in(folder: Path, *lines: Run, threads: int | None = None, batch: int = 1) -> history.LatestResults | None:
    path = folder / "bench.jsonl"
    path.write_text("".join(f"{history.dumps(run)}\n" for run in lines))
    return history.from_history(path, get("resnet18"), "cpu", batch, threads, MACHINE)


def test_the_latest_measurement_of_each_path_counts(tmp_path: Path) -> None:
    old = [measured("litert", 9, 1, 1, 1), measured("onnxruntime", 7, 1, 1, 1)]
    found = latest_in(tmp_path, a_run(*old), a_run(measured("litert", 5, 1, 1, 1), when="2026-11-02"))
    assert {each.path: each.latency_ms.value for each in found.measurements} == {"litert": 5, "onnxruntime": 7}
    assert found.when == "2026-11-02"


def test_other_machines_networks_settings_and_training_are_left_out(tmp_path: Path) -> None:
    one = measured("litert", 9, 1, 1, 1)
    strange = [
        of(one, path="openvino", network="lenet", config=json.loads(get("lenet").config_json())),
        of(one, path="openvino", config={**CONFIG, "num_classes": 7}),
        of(one, path="openvino", mode="training"),
        of(one, path="openvino", device="gpu"),
        of(one, path="openvino", batch=8),
        of(one, path="openvino", threads=1),
    ]
    other = a_run(of(one, path="jax-jit"), processor="Another")
    found = latest_in(tmp_path, other, a_run(*strange, one), other)
    assert [each.path for each in found.measurements] == ["litert"]
    assert latest_in(tmp_path, other) is None
    assert found.setting == history.Setting("cpu", 1, 2)


def test_the_largest_number_of_threads_counts_by_default(tmp_path: Path) -> None:
    one = measured("litert", 9, 1, 1, 1)
    run = a_run(of(one, threads=4), of(one, threads=1))
    assert latest_in(tmp_path, run).setting.threads == 4
    assert latest_in(tmp_path, run, threads=1).setting.threads == 1
    assert latest_in(tmp_path, run, threads=2) is None
    assert latest_in(tmp_path, run, batch=2) is None


def test_an_incomplete_last_line_of_the_history_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    line = f"{history.dumps(a_run(*SAMPLE))}\n"
    for torn in ("", line[:-2], line[:-1]):
        path.write_text(line + torn)
        found = history.from_history(path, get("resnet18"), "cpu", 1, None, MACHINE)
        assert found is not None
        assert len(found.measurements) == len(SAMPLE)


def test_a_missing_history_has_no_results(tmp_path: Path) -> None:
    assert history.from_history(tmp_path / "none.jsonl", get("lenet"), "cpu", 1, None, MACHINE) is None


def test_by_default_the_history_of_rosetta_bench_is_read(tmp_path: Path, monkeypatch) -> None:
    from common.deploy.bench import machine

    history.append(tmp_path / "bench.jsonl", a_run(*SAMPLE))
    monkeypatch.setattr(history, "default_path", lambda: tmp_path / "bench.jsonl")
    monkeypatch.setattr(machine, "describe", lambda: MACHINE)
    found = recommend_command._in_history(None, get("resnet18"), "cpu", 1, None)
    assert len(found.measurements) == len(SAMPLE)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    path = tmp_path / "bench.json"
    path.write_text(history.dumps(a_run(*SAMPLE), indent=1))
    return path


def test_three_deployments_get_different_recommendations(rosetta, bench: Path) -> None:
    winners = {}
    for name, arguments in {
        "server": ["--memory-mb", 1000],
        "phone": ["--runtime", "mobile", "--optimize", "size"],
        "function": ["--install-mb", 150, "--latency-ms", 12, "--optimize", "cold-start"],
    }.items():
        result = rosetta("recommend", "resnet18", "--from", bench, *arguments, "--json", f"{name}.json")
        assert (result.returncode, result.stderr) == (0, "")
        record = json.loads((bench.parent / f"{name}.json").read_text())
        winners[name] = record["ranked"][0]["measurement"]["path"]
        assert f"To run {winners[name]} on " in result.stdout
        assert all(command in result.stdout for command in record["commands"])
    assert winners == {"server": "openvino", "phone": "litert", "function": "onnxruntime"}


def test_ranking_reasons_and_caveats_are_printed(rosetta, bench: Path) -> None:
    result = rosetta("recommend", "resnet18", "--from", bench, "--runtime", "browser")
    lines = result.stdout.splitlines()
    assert lines[0] == "resnet18: batch 1, 2 threads, cpu; measured on A Processor, 2026-11-01T10:00:00+00:00"
    assert lines[1] == f"2 of {len(PATHS)} paths meet the constraints, best latency first:"
    ranks = {line.split()[1]: line.split()[0] for line in lines if line[:1].isdigit()}
    assert {"onnxruntime": "1", "litert": "2"}.items() <= ranks.items()
    assert "Speed, memory, size and cold start in a browser can differ" in result.stdout
    assert "by onnxruntime-web" in result.stdout
    assert "--runtime browser: OpenVINO supports Linux, macOS and Windows" in result.stdout
    assert "died of signal 11" in result.stdout


def test_support_for_c_depends_on_the_artifact_format(rosetta, tmp_path: Path) -> None:
    run = a_run(measured("torch-export", 14, 400, 800, 2), measured("torch-aot", 9, 400, 800, 2))
    (tmp_path / "bench.json").write_text(history.dumps(run, indent=1))
    result = rosetta("recommend", "resnet18", "--from", "bench.json", "--runtime", "c")
    ranked, dropped = result.stdout.split("Dropped:")
    assert "by libtorch, whose AOTIModelPackageLoader runs the package without Python" in ranked
    assert "torch-export" not in ranked
    assert "compiled for C++ by AOTInductor: export it to torch-aot" in dropped


SHOWN = re.findall(r"```text\n\$ (rosetta recommend .*?)```", (ROOT / "docs" / "bench.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.partition("\n")[0])
def test_the_documentation_shows_the_real_output(rosetta, tmp_path: Path, block: str) -> None:
    command, *lines = block.splitlines()
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    result = rosetta(*shlex.split(command)[1:])
    assert result.stderr == ""
    printed = {line.rstrip() for line in result.stdout.splitlines()}
    expected = {line for line in lines if line not in ("", "...")}
    assert expected
    assert expected <= printed


def test_the_documentation_shows_three_different_recommendations() -> None:
    winners = [block.partition("\n1")[2].split()[1] for block in SHOWN if "\n1" in block]
    assert len(set(winners)) >= 3


def test_a_tie_and_a_retired_framework_are_printed(rosetta, tmp_path: Path) -> None:
    run = a_run(measured("mxnet-hybrid", 9.9, 1, 1, 1), measured("litert", 10, 1, 1, 1))
    (tmp_path / "bench.json").write_text(history.dumps(run))
    shown = rosetta("recommend", "resnet18", "--from", "bench.json").stdout
    assert "1=    mxnet-hybrid" in shown
    assert "1=    litert" in shown
    assert "=: tied" in shown
    assert "MXNet, retired" in shown
    assert "Apache Attic in 2023" in shown


def test_if_no_path_meets_the_constraints_the_status_is_1(rosetta, bench: Path) -> None:
    result = rosetta("recommend", "resnet18", "--from", bench, "--latency-ms", 9, "--install-mb", 150)
    assert (result.returncode, result.stderr) == (1, "")
    assert "No path meets the constraints." in result.stdout
    assert "Nearest: onnxruntime, with p95 latency 10.6 ms of 9, installation 100 MB of 150." in result.stdout
    assert "With --latency-ms 10.6, onnxruntime meets them." in result.stdout
    again = rosetta("recommend", "resnet18", "--from", bench, "--latency-ms", 10.6, "--install-mb", 150)
    assert again.returncode == 0


def test_without_energy_measurements_the_status_is_1(rosetta, bench: Path) -> None:
    result = rosetta("recommend", "resnet18", "--from", bench, "--optimize", "energy")
    assert (result.returncode, result.stderr) == (1, "")
    assert (
        "The energy was not measured for any path, so nothing can be ranked by it: this machine does not report"
        in result.stdout
    )


def test_the_pareto_plot_labels_every_measured_path(rosetta, bench: Path) -> None:
    result = rosetta("recommend", "resnet18", "--from", bench, "--memory-mb", 200, "--plot", "front.svg")
    assert (result.returncode, result.stderr) == (0, "")
    drawn = (bench.parent / "front.svg").read_text()
    for path in ("onnxruntime", "litert", "openvino", "torch-eager"):
        assert drawn.count(f">{path}</text>") == 3, path  # once for each cost
    assert ">litert-int8</text>" not in drawn


def test_a_recommendation_imports_neither_numpy_nor_matplotlib(bench: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from common.cli.main import main; "
        f"status = main(['recommend', 'resnet18', '--from', {str(bench)!r}]); "
        "print(status, *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    status, *modules = result.stdout.splitlines()[-1].split()
    assert status == "0"
    assert not {"numpy", "matplotlib", "safetensors", "psutil", "jinja2"} & set(modules)


def text_of(**changes: Any) -> str:
    return json.dumps({**json.loads(history.dumps(a_run(*SAMPLE))), **changes})


REFUSED = {
    "no file": (None, [], "bench.json: no such file"),
    "not JSON": ("{", [], "bench.json: not a run of `rosetta bench`: "),
    "not text": (b"\xff\xfe\x00", [], "bench.json: not a run of `rosetta bench`: 'utf-8' codec can't decode"),
    "a list": ("[]", [], "bench.json: not a run of `rosetta bench`: "),
    "another schema": (text_of(schema=2), [], "its `schema` is 2; expected 1"),
    "no measurements": (text_of(measurements=None), [], "`measurements`"),
    "a measurement without its path": (
        text_of(measurements=[{"network": "resnet18", "mode": "inference", "device": "cpu", "batch": 1}]),
        [],
        "not a run of `rosetta bench`: ",
    ),
    "a measurement of a network that cannot be": (
        text_of(measurements=[dataclasses.asdict(of(SAMPLE[0], config={"num_classes": -1}))]),
        [],
        "this version has no such network as was measured",
    ),
    "nothing of that network": (text_of(), ["lenet"], "holds no inference of lenet"),
    "nothing of that batch": (text_of(), ["--batch", 7], "with batch 7, cpu; it holds batch 1, 2 threads, cpu"),
    "an unknown network": (text_of(), ["resnet81"], "there is no network 'resnet81'; did you mean"),
    "an unknown runtime": (text_of(), ["--runtime", "phone"], "there is no runtime 'phone'"),
    "an unknown objective": (text_of(), ["--optimize", "speed"], "there is no objective 'speed'"),
    "an unknown device": (text_of(), ["--device", "tpu"], "there is no device 'tpu'"),
    "a limit of nothing": (text_of(), ["--latency-ms", 0], "--latency-ms"),
    "a limit that is no number": (text_of(), ["--error", "nan"], "'--error': nan is not a finite number"),
    "two sources": (text_of(), ["--history", "h.jsonl"], "--from and --history were both given"),
    "no kind of picture": (text_of(), ["--plot", "front.jpg"], "front.jpg: a picture is written as"),
    "a folder that is not there": (text_of(), ["--json", "no/such.json"], "there is no folder no"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_request_is_one_line_and_status_2(rosetta, tmp_path: Path, kind: str) -> None:
    text, arguments, message = REFUSED[kind]
    if text is not None:
        (tmp_path / "bench.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    named = arguments and not str(arguments[0]).startswith("--")
    result = rosetta("recommend", *([] if named else ["resnet18"]), *arguments, "--from", "bench.json")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_a_damaged_line_of_the_history_is_named(rosetta, tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(history.dumps(a_run(*SAMPLE)) + '\n{"network": "resnet18", \n')
    result = rosetta("recommend", "resnet18", "--history", "h.jsonl")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("rosetta: h.jsonl, line 2: not a run of `rosetta bench`: ")


@pytest.mark.parametrize("path", PATHS.values(), ids=lambda path: path.name)
def test_the_printed_commands_are_valid(path) -> None:
    lines = commands("resnet18", path, "cpu", 8, 2)
    if path.format is None:
        code = lines[-1].partition(' -c "')[2].removesuffix('"')
        compile(code, path.name, "exec")
        package = registry.get(path.backend).adapters
        assert f"from {package} import deploy" in code
        assert f"'{path.name}'" in code
    else:
        assert lines[0].startswith(f"rosetta export resnet18 --weights w.safetensors --to {path.format}")
        assert ("--dtype" in lines[0]) == (path.dtype != "float32")
        assert "--batch 8" in lines[0]
        assert lines[1] == f"pip install {' '.join(path.needs)}"
        assert "--threads 2" in lines[2]
        assert ("--server open_vino" in lines[2]) == (path.name == "openvino")


def test_without_results_the_paths_are_measured_and_added_to_the_history(tmp_path: Path, monkeypatch, capsys) -> None:
    from common.deploy.bench import benchmark, machine
    from common.system import processors

    requests = []

    def run(settings: benchmark.Settings, progress: Any) -> Run:
        requests.append(settings)
        (threads,) = settings.threads
        return a_run(of(measured("litert", 9, 1, 1, 1), threads=threads, batch=4))

    monkeypatch.setattr(benchmark, "run", run)
    monkeypatch.setattr(machine, "describe", lambda: MACHINE)
    path = tmp_path / "made" / "bench.jsonl"
    for _ in range(2):
        found = recommend_command._in_history(path, get("resnet18"), "cpu", 4, None)
        assert found.setting == history.Setting("cpu", 4, processors())
    (settings,) = requests
    assert ([network.name for network in settings.networks], settings.batches) == (["resnet18"], (4,))
    assert len(settings.paths) == len(PATHS)
    assert "no measurements of resnet18 in this setting on this machine yet; measuring" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"--threads \(=4096\) is more than this machine's"):
        recommend_command._in_history(path, get("resnet18"), "cpu", 4, 4096)


def test_an_interrupted_measurement_is_added_to_the_history(tmp_path: Path, monkeypatch) -> None:
    from common.deploy.bench import benchmark, machine
    from common.system import processors

    one = of(measured("litert", 9, 1, 1, 1), threads=processors())
    monkeypatch.setattr(benchmark, "run", lambda *_: dataclasses.replace(a_run(one), interrupted=True))
    monkeypatch.setattr(machine, "describe", lambda: MACHINE)
    path = tmp_path / "bench.jsonl"
    with pytest.raises(InterruptedRunError, match=r"the measurements so far were added to .*bench\.jsonl") as ended:
        recommend_command._in_history(path, get("resnet18"), "cpu", 1, None)
    assert ended.value.exit_status == 130
    assert [
        each.path for each in recommend_command._in_history(path, get("resnet18"), "cpu", 1, None).measurements
    ] == ["litert"]
