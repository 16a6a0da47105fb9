"""What is recommended, on measurements small enough to work the answer out by hand."""

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
    """A path that was measured and is right: ms (5% to either side), MB, MB, s. Its p95 is a fifth above the median."""
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
        # 8 and 8.8 are within 5% of either, and so are 8.8 and 9.3, but the first of a rank decides: 8.4 < 8.835.
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
def test_the_best_of_those_that_keep_to_the_constraints_comes_first(constraints, objective, expected) -> None:
    result = recommend(SAMPLE, constraints, objective)
    assert order(result)[: len(expected)] == expected
    if constraints != Constraints() and objective != "cold-start":
        assert order(result) == expected


def test_each_that_drops_out_says_why() -> None:
    said = reasons(recommend(SAMPLE, Constraints(10.6, 400, 500, "c"), "latency"))
    assert set(said) | {"onnxruntime", "openvino"} == set(PATHS)
    assert said["torch-eager"] == (
        "--runtime c: it is this project's Python code, no artifact; --latency-ms 10.6: its p95 latency is 19.2 ms; "
        "--install-mb 500: its installation is 700 MB"
    )
    assert said["litert"] == "--latency-ms 10.6: its p95 latency is 16.8 ms"
    assert said["litert-int8"] == "wrong: off by 3.0e-01 of the largest logit; its tolerance is 1.0e-04"
    assert said["mxnet-onednn"] == "failed: died of signal 11"
    assert said["tf-xla"] == "missing: environment tf is not installed"
    assert said["numpy"] == "not measured"


def test_on_a_gpu_the_paths_that_cannot_run_there_are_not_called_unmeasured() -> None:
    said = reasons(recommend([], Constraints(), "latency", "gpu"))
    assert said["onnxruntime"] == "it runs on cpu alone"
    assert said["torch-eager"] == "not measured"


def test_a_path_of_another_version_and_one_without_a_time_are_not_recommended() -> None:
    said = reasons(
        recommend(
            [measured("caffe", 1, 1, 1, 1), measured("litert", 1, 1, 1, 1, latency_ms=None)], Constraints(), "latency"
        )
    )
    assert said["caffe"] == "this version knows no such path"
    assert said["litert"] == "no time was measured"


def test_whole_numbers_drop_out_where_the_error_is_limited() -> None:
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


def test_a_limit_is_kept_at_the_limit_itself() -> None:
    exact = [measured("litert", 10, 80, 30, 0.2, p95_ms=12.0)]
    assert order(recommend(exact, Constraints(latency_ms=12.0), "latency")) == ["litert"]
    assert order(recommend(exact, Constraints(latency_ms=11.99), "latency")) == []


def test_what_must_be_installed_and_the_artifact_count_together() -> None:
    one = [measured("litert", 10, 80, 30, 0.2, artifact_bytes=45_000_000)]
    assert order(recommend(one, Constraints(install_mb=75), "latency")) == ["litert"]
    assert reasons(recommend(one, Constraints(install_mb=74), "latency"))["litert"] == (
        "--install-mb 74: its installation is 75.0 MB"
    )


def test_of_two_measurements_of_a_path_the_last_counts() -> None:
    result = recommend([measured("litert", 1, 1, 1, 1), measured("litert", 9, 1, 1, 1)], Constraints(), "latency")
    assert [each.measurement.latency_ms.value for each in result.ranked] == [9]


# --- ties and what was not measured -----------------------------------------------------------------------------------


def test_paths_are_tied_where_their_confidence_intervals_overlap_the_first_ones() -> None:
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
    # litert overlaps openvino, and yet is slower than the first beyond doubt.
    assert [(each.measurement.path, each.rank, each.tied) for each in result.ranked] == [
        ("onnxruntime", 1, True),
        ("openvino", 1, True),
        ("litert", 3, False),
        ("jax-jit", 4, False),
    ]


def test_without_confidence_intervals_only_equals_are_tied() -> None:
    result = recommend(SAMPLE, Constraints(runtime="mobile"), "size")
    assert [each.tied for each in result.ranked] == [False, False]
    equal = [measured("litert", 9, 5, 1, 1), measured("openvino", 8, 5, 1, 1)]
    assert [each.rank for each in recommend(equal, Constraints(), "memory").ranked] == [1, 1]


def test_energy_that_no_path_was_measured_for_ranks_nothing_and_says_so() -> None:
    result = recommend(SAMPLE, Constraints(), "energy")
    assert (result.ranked, result.unmeasured, result.nearest) == ((), True, None)
    assert reasons(result)["onnxruntime"] == "its energy was not measured"


def test_energy_that_some_were_measured_for_ranks_these() -> None:
    sample = [*SAMPLE[:4], measured("litert", 14, 80, 30, 0.2, energy_joules=0.1)]
    result = recommend(sample, Constraints(), "energy")
    assert (order(result), result.unmeasured) == (["litert"], False)


def test_a_limit_on_what_was_not_measured_is_not_kept() -> None:
    blind = [measured("litert", 14, 80, 30, 0.2, peak_memory_bytes=None, p95_ms=None)]
    said = reasons(recommend(blind, Constraints(latency_ms=100, memory_mb=100), "latency"))["litert"]
    assert said == ("--latency-ms 100: its p95 latency was not measured; --memory-mb 100: its memory was not measured")


# --- nothing meets all ------------------------------------------------------------------------------------------------


def test_where_nothing_meets_all_the_nearest_and_what_to_relax_is_said() -> None:
    # openvino takes 9.6 ms of 9 and 200 MB of 150; onnxruntime 10.56 ms of 9; litert 16.8 ms.
    result = recommend(SAMPLE, Constraints(latency_ms=9, install_mb=150), "latency")
    assert result.ranked == ()
    assert result.nearest.path == "onnxruntime"
    assert [(each.path, dict(each.changes)) for each in result.relaxations] == [("onnxruntime", {"--latency-ms": 10.6})]


def test_each_constraint_that_is_in_the_way_alone_is_named() -> None:
    # Of memory alone: openvino (300 MB). Of latency alone: litert, 1.68 times; onnxruntime takes 1.76 times the memory.
    result = recommend(SAMPLE, Constraints(latency_ms=10, memory_mb=85), "latency")
    assert {each.path: dict(each.changes) for each in result.relaxations} == {
        "openvino": {"--memory-mb": 300.0},
        "litert": {"--latency-ms": 16.8},
    }
    assert result.nearest.path == "litert"


def test_where_no_constraint_alone_is_in_the_way_all_that_the_nearest_breaks_are_named() -> None:
    result = recommend(SAMPLE[:2], Constraints(latency_ms=10, install_mb=100), "latency")
    assert [(each.path, dict(each.changes)) for each in result.relaxations] == [
        ("torch-compile", {"--latency-ms": 11.2, "--install-mb": 700.0})
    ]


def test_the_runtime_is_named_where_it_is_what_is_in_the_way() -> None:
    result = recommend(SAMPLE[:3], Constraints(runtime="browser"), "latency")
    assert [(each.path, dict(each.changes)) for each in result.relaxations] == [
        ("torch-compile", {"--runtime": "python"})
    ]


def test_where_nothing_was_measured_there_is_no_nearest() -> None:
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
def test_nothing_on_the_front_is_dominated_and_all_that_is_off_it_is(sample: list[Measurement]) -> None:
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
def test_every_path_is_ranked_or_dropped_with_a_reason_and_what_is_ranked_keeps_to_all(
    sample, limits, objective
) -> None:
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
def test_what_is_said_to_be_relaxed_lets_that_path_through(sample, limits) -> None:
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
def test_figures_have_three_digits(value: float | None, expected: str) -> None:
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


def test_where_a_path_can_run_follows_from_the_facts() -> None:
    served = {place: {path.name for path in PATHS.values() if facts.place(path, place)[0]} for place in facts.PLACES}
    litert = {"litert", "litert-float16", "litert-int8"}
    assert served["python"] == served["any"] == set(PATHS)
    compiled = {"torch-aot", "torch-aot-winograd"}
    assert served["c"] == {"onnxruntime", "openvino", "tf-savedmodel", "mxnet-symbol", *compiled, *litert}
    assert served["mobile"] == {"onnxruntime", *litert}
    assert served["browser"] == {"onnxruntime", "tf-savedmodel", *litert}
    assert [name for name, found in facts.table().items() if found.retired] == ["mxnet"]


@pytest.mark.environment
def test_the_license_is_that_of_what_is_installed() -> None:
    """Of whatever of the table this environment holds."""
    from importlib import metadata

    for name, known in facts.table().items():
        try:
            found = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        said = " ".join([found["License-Expression"] or "", found["License"] or "", *found.get_all("Classifier", [])])
        assert known.license.says.partition(" ")[0].partition("-")[0] in said, (name, said)


def test_every_choice_is_implemented() -> None:
    assert tuple(OBJECTIVES) == get_args(Objective)


# --- what was recorded ------------------------------------------------------------------------------------------------

MACHINE = {"processor": "A Processor", "processors": 2, "memory_bytes": 8_000_000_000, "system": "Linux x86_64"}


def a_run(*measurements: Measurement, when: str = "2026-11-01T10:00:00+00:00", **machine: Any) -> Run:
    return Run(1, when, {**MACHINE, **machine}, {}, {}, measurements)


def of(measurement: Measurement, **changes: Any) -> Measurement:
    return dataclasses.replace(measurement, **changes)


def found_in(folder: Path, *lines: Run, threads: int | None = None, batch: int = 1) -> history.Found | None:
    path = folder / "bench.jsonl"
    path.write_text("".join(f"{history.dumps(run)}\n" for run in lines))
    return history.from_history(path, get("resnet18"), "cpu", batch, threads, MACHINE)


def test_of_a_history_the_newest_of_each_path_counts(tmp_path: Path) -> None:
    old = [measured("litert", 9, 1, 1, 1), measured("onnxruntime", 7, 1, 1, 1)]
    found = found_in(tmp_path, a_run(*old), a_run(measured("litert", 5, 1, 1, 1), when="2026-11-02"))
    assert {each.path: each.latency_ms.value for each in found.measurements} == {"litert": 5, "onnxruntime": 7}
    assert found.when == "2026-11-02"


def test_what_another_machine_or_network_or_setting_or_training_took_is_not_mixed_in(tmp_path: Path) -> None:
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
    found = found_in(tmp_path, other, a_run(*strange, one), other)
    assert [each.path for each in found.measurements] == ["litert"]
    assert found_in(tmp_path, other) is None
    assert found.setting == history.Setting("cpu", 1, 2)


def test_the_most_threads_that_were_measured_count_unless_asked_otherwise(tmp_path: Path) -> None:
    one = measured("litert", 9, 1, 1, 1)
    run = a_run(of(one, threads=4), of(one, threads=1))
    assert found_in(tmp_path, run).setting.threads == 4
    assert found_in(tmp_path, run, threads=1).setting.threads == 1
    assert found_in(tmp_path, run, threads=2) is None
    assert found_in(tmp_path, run, batch=2) is None


def test_of_a_history_whose_last_line_a_crash_tore_the_others_count(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    line = f"{history.dumps(a_run(*SAMPLE))}\n"
    for torn in ("", line[:-2], line[:-1]):
        path.write_text(line + torn)
        found = history.from_history(path, get("resnet18"), "cpu", 1, None, MACHINE)
        assert found is not None
        assert len(found.measurements) == len(SAMPLE)


def test_no_history_holds_nothing(tmp_path: Path) -> None:
    assert history.from_history(tmp_path / "none.jsonl", get("lenet"), "cpu", 1, None, MACHINE) is None


def test_the_history_is_where_the_benchmark_keeps_it() -> None:
    assert recommend_command._default_history() == history.default_path()


# --- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    path = tmp_path / "bench.json"
    path.write_text(history.dumps(a_run(*SAMPLE), indent=1))
    return path


def test_three_deployments_come_out_differently(rosetta, bench: Path) -> None:
    winners = {}
    for name, asked in {
        "server": ["--memory-mb", 1000],
        "phone": ["--runtime", "mobile", "--optimize", "size"],
        "function": ["--install-mb", 150, "--latency-ms", 12, "--optimize", "cold-start"],
    }.items():
        result = rosetta("recommend", "resnet18", "--from", bench, *asked, "--json", f"{name}.json")
        assert (result.returncode, result.stderr) == (0, "")
        record = json.loads((bench.parent / f"{name}.json").read_text())
        winners[name] = record["ranked"][0]["measurement"]["path"]
        assert f"To run {winners[name]} on " in result.stdout
        assert all(command in result.stdout for command in record["commands"])
    assert winners == {"server": "openvino", "phone": "litert", "function": "onnxruntime"}


def test_all_that_was_found_is_shown_and_what_the_figures_do_not_say(rosetta, bench: Path) -> None:
    result = rosetta("recommend", "resnet18", "--from", bench, "--runtime", "browser")
    lines = result.stdout.splitlines()
    assert lines[0] == "resnet18: batch 1, 2 threads, cpu; measured on A Processor, 2026-11-01T10:00:00+00:00"
    assert lines[1] == f"2 of {len(PATHS)} paths meet the constraints, best latency first:"
    ranks = {line.split()[1]: line.split()[0] for line in lines if line[:1].isdigit()}
    assert {"onnxruntime": "1", "litert": "2"}.items() <= ranks.items()
    assert "none says how fast, large or soon ready it is in a browser" in result.stdout
    assert "by onnxruntime-web" in result.stdout
    assert "--runtime browser: OpenVINO supports Linux, macOS and Windows" in result.stdout
    assert "died of signal 11" in result.stdout


def test_what_is_said_of_c_is_of_the_artifact_that_serves_there(rosetta, tmp_path: Path) -> None:
    found = a_run(measured("torch-export", 14, 400, 800, 2), measured("torch-aot", 9, 400, 800, 2))
    (tmp_path / "bench.json").write_text(history.dumps(found, indent=1))
    result = rosetta("recommend", "resnet18", "--from", "bench.json", "--runtime", "c")
    ranked, dropped = result.stdout.split("Dropped:")
    assert "by libtorch, whose AOTIModelPackageLoader runs the package without Python" in ranked
    assert "torch-export" not in ranked
    assert "compiled for C++ by AOTInductor: export it to torch-aot" in dropped


SHOWN = re.findall(r"```text\n\$ (rosetta recommend .*?)```", (ROOT / "docs" / "bench.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.partition("\n")[0])
def test_the_page_shows_what_is_printed(rosetta, tmp_path: Path, block: str) -> None:
    command, *lines = block.splitlines()
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    result = rosetta(*shlex.split(command)[1:])
    assert result.stderr == ""
    printed = {line.rstrip() for line in result.stdout.splitlines()}
    expected = {line for line in lines if line not in ("", "...")}
    assert expected
    assert expected <= printed


def test_the_page_shows_three_winners() -> None:
    winners = [block.partition("\n1")[2].split()[1] for block in SHOWN if "\n1" in block]
    assert len(set(winners)) >= 3


def test_a_tie_and_a_retired_framework_are_told(rosetta, tmp_path: Path) -> None:
    run = a_run(measured("mxnet-hybrid", 9.9, 1, 1, 1), measured("litert", 10, 1, 1, 1))
    (tmp_path / "bench.json").write_text(history.dumps(run))
    shown = rosetta("recommend", "resnet18", "--from", "bench.json").stdout
    assert "1=    mxnet-hybrid" in shown
    assert "1=    litert" in shown
    assert "=: tied" in shown
    assert "MXNet, retired" in shown
    assert "Apache Attic in 2023" in shown


def test_nothing_that_meets_the_constraints_is_status_1_with_the_nearest(rosetta, bench: Path) -> None:
    result = rosetta("recommend", "resnet18", "--from", bench, "--latency-ms", 9, "--install-mb", 150)
    assert (result.returncode, result.stderr) == (1, "")
    assert "Nothing meets the constraints." in result.stdout
    assert "onnxruntime comes nearest: p95 latency 10.6 ms of 9, installation 100 MB of 150." in result.stdout
    assert "--latency-ms 10.6 lets onnxruntime through." in result.stdout
    again = rosetta("recommend", "resnet18", "--from", bench, "--latency-ms", 10.6, "--install-mb", 150)
    assert again.returncode == 0


def test_energy_that_the_machine_does_not_tell_is_status_1_and_said(rosetta, bench: Path) -> None:
    result = rosetta("recommend", "resnet18", "--from", bench, "--optimize", "energy")
    assert (result.returncode, result.stderr) == (1, "")
    assert "The energy was measured of none of them, so nothing can be ranked by it: this machine" in result.stdout


def test_a_picture_is_drawn_where_one_is_asked_for(rosetta, bench: Path) -> None:
    result = rosetta("recommend", "resnet18", "--from", bench, "--memory-mb", 200, "--plot", "front.svg")
    assert (result.returncode, result.stderr) == (0, "")
    drawn = (bench.parent / "front.svg").read_text()
    for path in ("onnxruntime", "litert", "openvino", "torch-eager"):
        assert drawn.count(f">{path}</text>") == 3, path  # once for each cost
    assert ">litert-int8</text>" not in drawn


def test_a_recommendation_needs_neither_numpy_nor_anything_that_draws(bench: Path, tmp_path: Path) -> None:
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
    "not JSON": ("{", [], "bench.json: not JSON"),
    "not text": (b"\xff\xfe\x00", [], "bench.json: no text"),
    "a list": ("[]", [], "bench.json: no run of `rosetta bench`: it has no `schema`"),
    "another schema": (text_of(schema=2), [], "measurements of schema 2; expected 1"),
    "no measurements": (text_of(measurements=None), [], "it has no `measurements`"),
    "a measurement without its path": (
        text_of(measurements=[{"network": "resnet18", "mode": "inference", "device": "cpu", "batch": 1}]),
        [],
        "no whole run of `rosetta bench`: it has no `",
    ),
    "a measurement of a network that cannot be": (
        text_of(measurements=[dataclasses.asdict(of(SAMPLE[0], config={"num_classes": -1}))]),
        [],
        "a measurement of no network of this version",
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


def test_a_line_of_a_history_that_is_none_is_named(rosetta, tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(history.dumps(a_run(*SAMPLE)) + '\n{"network": "resnet18", \n')
    result = rosetta("recommend", "resnet18", "--history", "h.jsonl")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("rosetta: h.jsonl, line 2: not JSON")


@pytest.mark.parametrize("path", PATHS.values(), ids=lambda path: path.name)
def test_the_commands_name_verbs_and_modules_that_exist(path) -> None:
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


def test_what_no_history_holds_is_measured_once_and_kept(tmp_path: Path, monkeypatch, capsys) -> None:
    from common.deploy.bench import benchmark, machine
    from common.system import processors

    asked = []

    def run(settings: benchmark.Settings, progress: Any) -> Run:
        asked.append(settings)
        (threads,) = settings.threads
        return a_run(of(measured("litert", 9, 1, 1, 1), threads=threads, batch=4))

    monkeypatch.setattr(benchmark, "run", run)
    monkeypatch.setattr(machine, "describe", lambda: MACHINE)
    path = tmp_path / "made" / "bench.jsonl"
    for _ in range(2):
        found = recommend_command._in_history(path, get("resnet18"), "cpu", 4, None)
        assert found.setting == history.Setting("cpu", 4, processors())
    (settings,) = asked
    assert ([network.name for network in settings.networks], settings.batches) == (["resnet18"], (4,))
    assert len(settings.paths) == len(PATHS)
    assert "no measurements of resnet18 in this setting on this machine yet; measuring" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"--threads \(=4096\) is more than this machine's"):
        recommend_command._in_history(path, get("resnet18"), "cpu", 4, 4096)


def test_an_interrupted_measurement_is_kept_and_said_to_be(tmp_path: Path, monkeypatch) -> None:
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
