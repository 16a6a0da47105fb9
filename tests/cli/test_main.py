"""The command line: output of the commands, one-line errors, and no files after an error."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import FACTS, ROOT

from common import catalog, reference, weights
from common.choices import Check, DTypeName, OptimizerName, SummaryFormat
from common.parity.tolerances import ROUNDING, reasons
from common.parity.training_runs import RUNS
from common.view.summary import FORMATS


def test_list_shows_the_catalog_with_the_facts(rosetta) -> None:
    entries = {entry["name"]: entry for entry in json.loads(rosetta("list", "--json").stdout)}
    for name, facts in FACTS.items():
        assert [1, *entries[name]["input"]] == facts["input_shape_nchw"]
        assert entries[name]["parameters"] == facts["parameters"]
        assert entries[name]["multiply_accumulates"] == facts["multiply_accumulates_conv_and_dense"]
    assert set(entries) == {*catalog.NETWORKS, *catalog.FAMILIES}
    table = rosetta("list").stdout
    assert "128,806,154" in table
    assert "1409.1556" in table


@pytest.mark.parametrize("name", ["lenet", "googlenet", "resnet18"])
def test_summary_prints_the_rows_of_the_facts(rosetta, name: str) -> None:
    lines = rosetta("summary", name).stdout.splitlines()[1:-1]
    shapes = [[int(size) for size in SHAPE.search(line)[0].split(",")] for line in lines]
    assert shapes == [shape for _, shape in FACTS[name]["summary"]]


SHAPE = re.compile(r"1(, \d+)+")


@pytest.mark.port
def test_summary_in_a_framework_has_the_rows_of_the_facts(rosetta, backend_name: str) -> None:
    result = rosetta("summary", "lenet", "--backend", backend_name)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + len(FACTS["lenet"]["summary"]) + 1
    image = "1, 28, 28, 6" if backend_name in ("jax", "tf") else "1, 6, 28, 28"
    assert SHAPE.search(lines[1])[0] == image
    assert lines[1].split()[-8:] == ["156", "117,600", "18,816", "5", "x", "5", "1", "-2"]
    assert lines[-1].startswith("61,706 parameters")


def test_summary_holds_the_same_values_in_every_format(rosetta, tmp_path: Path) -> None:
    asked = ("summary", "bn_lenet", "--batch", "3", "--dtype", "float64")
    found = json.loads(rosetta(*asked, "--format", "json").stdout)
    description = reference.describe(catalog.get("bn_lenet"))
    assert found["totals"] == {
        "parameters": description.parameters,
        "statistics": description.statistics,
        "multiply_accumulates": description.multiply_accumulates,
        "activation_bytes": 3 * 8 * description.activations,
    }
    conv, norm = found["rows"][:2]
    assert (conv["path"], conv["layer"], conv["output_shape"]) == ("conv1", "Conv2d", [3, 6, 24, 24])
    assert conv["activation_bytes"] == 3 * 8 * 6 * 24 * 24
    assert conv["receptive_field"] == {"size": [5, 5], "stride": [1, 1], "offset": [0, 0], "whole_image": False}
    assert (norm["parameters"], norm["statistics"]) == (12, 12)
    last = found["rows"][-1]["receptive_field"]
    assert last == {"size": [28, 28], "stride": None, "offset": [0, 0], "whole_image": True}

    lines = list(csv.DictReader(io.StringIO(rosetta(*asked, "--format", "csv").stdout)))
    assert [line["path"] for line in lines] == [*(row["path"] for row in found["rows"]), "total"]
    assert lines[0]["output_shape"] == "3 6 24 24"
    assert (lines[0]["receptive_field_height"], lines[0]["stride_width"], lines[0]["offset_width"]) == ("5", "1", "0")
    for cost, total in found["totals"].items():
        assert sum(int(line[cost]) for line in lines[:-1]) == int(lines[-1][cost]) == total

    rosetta(*asked, "-o", "s.md")
    markdown = (tmp_path / "s.md").read_text().splitlines()
    assert len(markdown) == 2 + len(found["rows"]) + 2
    assert {line.count("|") for line in markdown[:-2]} == {11}
    assert "| conv1 | Conv2d | 3, 6, 24, 24 | 156 |  | 86,400 | 82,944 | 5 x 5 | 1 | 0 |" in markdown
    assert "| whole image |" in markdown[-3]

    table = rosetta(*asked).stdout.splitlines()
    rosetta(*asked, "-o", "s.txt")
    assert (tmp_path / "s.txt").read_text().splitlines() == [line.rstrip() for line in table]
    assert table[-1] == markdown[-1]


def test_summary_shows_the_receptive_field_where_pooling_skips_pixels(rosetta) -> None:
    asked = ("summary", "lenet", "--config", '{"input_size": [28, 31]}')
    rows = json.loads(rosetta(*asked, "--format", "json").stdout)["rows"]
    seen = {row["path"]: row["receptive_field"] for row in rows}
    # Of 11 columns behind conv2, pool2 takes 10, which end at pixel 29 of 0 to 30.
    assert seen["fc1"] == {"size": [28, 30], "stride": None, "offset": [0, 0], "whole_image": False}
    assert re.search(r"^fc1 .* 28 x 30 *$", rosetta(*asked).stdout, re.MULTILINE)


def test_summary_of_everything_lists_every_layer(rosetta) -> None:
    rows = json.loads(rosetta("summary", "resnet18", "--all", "--format", "json").stdout)["rows"]
    paths = [row["path"] for row in rows]
    assert set(paths) == {call.path for call in reference.describe(catalog.get("resnet18")).calls} - {""}
    assert paths[:3] == ["stem", "stem.conv", "stem.bn"]


@pytest.mark.port
def test_summary_of_everything_in_a_framework_has_the_references_paths(rosetta, backend_name: str) -> None:
    config = ("--config", '{"arch": [[2, 8]]}', "--all", "--format", "json")
    asked = {name: rosetta("summary", "resnet", "--backend", name, *config) for name in ("numpy", backend_name)}
    ours, theirs = (json.loads(result.stdout)["rows"] for result in asked.values())
    assert [row["path"] for row in theirs] == [row["path"] for row in ours]
    for key in ("parameters", "statistics", "multiply_accumulates", "activation_bytes", "receptive_field"):
        assert [row[key] for row in theirs] == [row[key] for row in ours]


def test_init_writes_a_file_that_can_be_read(rosetta, tmp_path: Path) -> None:
    result = rosetta(
        "init",
        "resnet",
        "-o",
        "w",
        "--scheme",
        "probe",
        "--seed",
        "7",
        "--dtype",
        "float64",
        "--config",
        '{"arch": [[1, 8]]}',
    )
    assert (result.returncode, result.stderr) == (0, "")
    file = weights.read(tmp_path / "w")
    assert file.network == catalog.get("resnet", arch=[[1, 8]])
    expected = weights.initialize(file.network, "probe", 7, "float64")
    assert all((file.tensors[name] == expected[name]).all() for name in expected)


@pytest.fixture
def lenet(rosetta, tmp_path: Path) -> Path:
    """A folder with lenet's weights w and an input x.npy."""
    assert rosetta("init", "lenet", "-o", "w", "--scheme", "probe").returncode == 0
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((3, 1, 28, 28)))
    return tmp_path


def test_run_writes_logits_and_trace(rosetta, lenet: Path) -> None:
    arguments = ("run", "lenet", "--backend", "numpy", "--weights", "w", "--input", "x.npy", "-o", "y.npy")
    result = rosetta(*arguments, "--trace", "t")
    assert (result.returncode, result.stderr) == (0, "")
    model = reference.build(catalog.get("lenet"))
    reference.load(model, weights.read(lenet / "w").tensors)
    expected = reference.trace(model, np.load(lenet / "x.npy"))
    np.testing.assert_allclose(np.load(lenet / "y.npy"), expected["logits"], rtol=1e-12)
    taps = load_file(lenet / "t")
    assert set(taps) == set(expected)
    for tap, values in expected.items():
        np.testing.assert_allclose(taps[tap], values, rtol=1e-12)


@pytest.mark.port
def test_run_in_a_framework_gives_the_references_logits(rosetta, lenet: Path, backend_name: str) -> None:
    for backend in ("numpy", backend_name):
        result = rosetta(
            *("run", "lenet", "--backend", backend, "--weights", "w", "--input", "x.npy"),
            *("-o", f"{backend}.npy", "--trace", f"{backend}.t", "--dtype", "float64"),
        )
        assert (result.returncode, result.stderr) == (0, "")
    np.testing.assert_allclose(np.load(lenet / f"{backend_name}.npy"), np.load(lenet / "numpy.npy"), rtol=1e-12)
    assert set(load_file(lenet / f"{backend_name}.t")) == set(load_file(lenet / "numpy.t"))


REFUSED = [
    (("init", "lenot", "-o", "out"), "no network 'lenot'; did you mean lenet"),
    (("init", "lenet", "-o", "absent/out"), "there is no folder absent"),
    (("init", "lenet", "-o", "."), "it is a folder"),
    (("init", "lenet"), "Missing option '-o'"),
    (("init", "lenet", "-o", "out", "--scheme", "zeros"), "there is no scheme 'zeros'; choose from probe, xavier"),
    (("init", "lenet", "-o", "out", "--dtype", "float16"), "there is no dtype 'float16'; did you mean float"),
    (("init", "lenet", "-o", "out", "--seed", "-1"), "`seed` (=-1) must be an integer of 0 or more"),
    (("init", "lenet", "-o", "out", "--config", '{"num_clases": 7}'), "did you mean num_classes"),
    (("init", "lenet", "-o", "out", "--config", '{"num_classes": "7"}'), "must be a positive integer"),
    (("init", "lenet", "-o", "out", "--config", "{num_classes: 7}"), "--config: not JSON"),
    (("init", "lenet", "-o", "out", "--config", "absent.json"), "neither JSON nor a readable file"),
    (("init", "anynet", "-o", "out", "--config", '{"arch": [[1, 30, 16, 1]]}'), "must be a positive multiple"),
    (("init", "alexnet", "-o", "out", "--config", '{"input_size": [64, 64]}'), "pool3 runs out of pixels"),
    (("summary", "resnet19"), "no network 'resnet19'; did you mean resnet18"),
    (("summary", "lenet", "--backend", "pytorch"), "no backend 'pytorch'; did you mean torch"),
    (("summary", "lenet", "--format", "yaml"), "no format 'yaml'; choose from table, markdown, csv, json"),
    (("summary", "lenet", "--dtype", "float16"), "no dtype 'float16'"),
    (("summary", "lenet", "--batch", "0"), "Invalid value for '--batch'"),
    (("summary", "lenet", "-o", "absent/s.md"), "there is no folder absent"),
    (("summary", "alexnet", "--config", '{"input_size": [64, 64]}'), "pool3 runs out of pixels"),
    (("parity", "lenet", "--backends", "torch,tensorflow"), "no backend to compare 'tensorflow'"),
    (("parity", "lenet", "--backends", ","), "name at least one backend"),
    (("parity", "lenet", "--checks", "backward"), "no check 'backward'; did you mean forward"),
    (("parity", "lenet", "--dtype", "float16"), "no dtype 'float16'; did you mean float"),
    (("parity", "lenet", "--json", "absent/r.json"), "there is no folder absent"),
    (("parity", "lenet", "--batch", "0"), "Invalid value for '--batch'"),
    (("parity", "lenet", "--plot", "errors.pdf"), "a picture is written as .png or .svg"),
    (("parity", "lenet", "--plot", "absent/errors.svg"), "there is no folder absent"),
    (("pariti",), "no command 'pariti'; did you mean parity"),
    (("list", "--jsn"), "No such option"),
    (("diagnose", "lenet"), "Missing option '--backend'"),
    (("diagnose", "lenet", "--backend", "numpy"), "there is no backend to compare 'numpy'"),
    (("diagnose", "lenet", "--backend", "tf", "--checks", "training"), "there is no check of layers 'training'"),
    (("diagnose", "resnet19", "--backend", "tf"), "did you mean resnet18"),
    (("mutants", "--kinds", "swop"), "did you mean swap"),
    (("show", "resnet19.stem"), "no network or file 'resnet19'; did you mean resnet18"),
    (("show", "resnet18.stage2.block1.conv3"), "no part of resnet18.stage2.block1 'conv3'; did you mean conv"),
    (("show", "lenet.stage1"), "no part of lenet 'stage1'"),
    (("show", "googlenet.stage1.xyz"), "no part of googlenet.stage1 'xyz'; choose from block1, block2, pool"),
    (("show", "layers.batchnrm"), "no part of layers 'batchnrm'; did you mean batch_norm"),
    (("show", "training.setp"), "no part of training 'setp'"),
    (("show", "lenet", "--backends", "torch,flax"), "no backend 'flax'"),
    (("show", "layers", "--config", '{"num_classes": 7}'), "layers is a file, not a network: omit the configuration"),
    (("mutants", "--sample", "0"), "0 is not in the range x>=1"),
    (("mutants", "--json", "nowhere/x.json"), "there is no folder nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_a_bad_option_gives_one_line_and_writes_nothing(
    rosetta, tmp_path: Path, arguments: tuple, message: str
) -> None:
    result = rosetta(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=True)


NAN = np.zeros((1, 1, 28, 28))
NAN[0, 0, 3, 4] = np.nan


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((28, 28)), "shape (28, 28); lenet expects (N, 1, 28, 28)"),
        (np.zeros((0, 1, 28, 28)), "shape (0, 1, 28, 28); lenet expects (N, 1, 28, 28)"),
        (np.zeros((1, 3, 28, 28)), "3 channels, shape (1, 3, 28, 28); lenet expects (N, 1, 28, 28)"),
        (np.zeros((1, 1, 32, 28)), "images of 32x28; lenet expects (N, 1, 28, 28)"),
        (NAN, "holds a NaN or an infinity; an input must be finite"),
        (np.zeros((1, 1, 28, 28), complex), "holds complex128; expected one array of real numbers"),
        (np.array([{"a": 1}]), "not an array that numpy.save wrote"),
        (b"no array", "not an array that numpy.save wrote"),
        (b"", "not an array that numpy.save wrote"),
        (None, "no such file"),
    ],
)
def test_a_bad_input_array_gives_one_line_and_writes_nothing(rosetta, lenet: Path, given: object, message: str) -> None:
    path = lenet / "wrong.npy"
    if isinstance(given, bytes):
        path.write_bytes(given)
    elif given is not None:
        save(path, given)
    before = sorted(lenet.iterdir())
    result = rosetta("run", "lenet", "--backend", "numpy", "--weights", "w", "--input", path, "-o", "y", "--trace", "t")
    assert result.returncode == 2
    assert f"wrong.npy: {message}" in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert sorted(lenet.iterdir()) == before


def test_weights_of_another_network_or_configuration_are_refused(rosetta, lenet: Path) -> None:
    rest = ("--weights", "w", "--input", "x.npy", "-o", "y")
    result = rosetta("run", "alexnet", "--backend", "numpy", *rest)
    assert (result.returncode, "weights of lenet" in result.stderr) == (2, True)
    result = rosetta("run", "lenet", "--backend", "numpy", "--config", '{"num_classes": 7}', *rest)
    assert (result.returncode, '"num_classes": 7' in result.stderr) == (2, True)
    result = rosetta("run", "lenet", "--backend", "numpy", "--weights", "x.npy", "--input", "x.npy", "-o", "y")
    assert (result.returncode, "not a whole safetensors file" in result.stderr) == (2, True)
    assert not (lenet / "y").exists()


def test_a_missing_backend_is_reported_with_how_to_install_it(rosetta, lenet: Path, tmp_path: Path) -> None:
    absent = next(name for name in ("mxnet", "torch") if not _installed(name))
    result = rosetta(
        *("run", "lenet", "--backend", absent, "--weights", "w", "--input", "x.npy", "-o", "y"),
        TOX_WORK_DIR=str(tmp_path),
        **{f"ROSETTA_PYTHON_{absent.upper()}": _bare_python(tmp_path)},
    )
    assert result.returncode == 3
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert f"backend {absent} is not installed" in result.stderr
    assert not (lenet / "y").exists()


@pytest.mark.parametrize("arguments", [("init", "lenet", "-o", "w"), ("parity", "lenet", "--backends", "torch")])
def test_a_full_disk_gives_one_line_and_leaves_no_files(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    # A limit of 100 kB on files, where lenet's weights need 247 kB or twice that, fails in the same place.
    command = ["sh", "-c", 'ulimit -f 200 && exec "$@"', "sh", sys.executable, "-m", "common", *arguments]
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "cannot write" in result.stderr
    assert "File too large" in result.stderr
    assert not list((tmp_path / "tmp").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _bare_python(folder: Path) -> str:
    """An interpreter like this one, which lacks the framework that this one lacks."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_reports_hold_the_same_results_in_every_format(rosetta, tmp_path: Path) -> None:
    # Every framework absent: the forms of a report need none.
    bare = {f"ROSETTA_PYTHON_{name}": "/bin/false" for name in ("TORCH", "JAX", "TF", "MXNET")}
    result = rosetta(
        *("parity", "lenet", "--json", "r.json", "--html", "r.html", "--junit", "r.xml", "--plot", "r.svg"), **bare
    )
    assert result.returncode == 3
    assert not (tmp_path / "r.svg").exists()
    assert "no results to draw" in result.stderr
    assert "8 error" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == 1
    assert report["summary"] == {"agree": 0, "disagree": 0, "vacuous": 0, "error": 8, "missing": 0}
    assert {entry["status"] for entry in report["backends"].values()} == {"error"}
    assert [entry["backend"] for entry in report["results"][:4]] == ["torch", "jax", "tf", "mxnet"]
    page = (tmp_path / "r.html").read_text()
    assert "lenet" in page
    for elsewhere in ("http:", "https:", "src=", "<link", "<script", "url(", "@import"):
        assert elsewhere not in page
    assert (tmp_path / "r.xml").read_text().count("<error") == 8


@pytest.mark.port
def test_a_report_holds_every_error_and_a_plot_shows_them(rosetta, tmp_path: Path, backend_name: str) -> None:
    asked = ("parity", "lenet", "--backends", backend_name, "--dtype", "float64")
    result = rosetta(*asked, "--json", "r.json", "--plot", "r.svg")
    assert result.returncode == 0, result.stdout + result.stderr
    (cell,) = json.loads((tmp_path / "r.json").read_text())["results"]
    taps = list(reference.describe(catalog.get("lenet")).taps)
    assert [(error["tap"], error["input"]) for error in cell["errors"]] == [
        (tap, name) for tap in taps for name in ("digits", "noise")
    ]
    assert all(0 <= error["error"] <= error["tolerance"] for error in cell["errors"])
    assert max(error["error"] / error["tolerance"] for error in cell["errors"]) == cell["worst"]["tolerance_used"]
    svg = (tmp_path / "r.svg").read_text()
    assert all(f">{tap}<" in svg for tap in taps)


LEARNING = [("train",), ("evaluate",), ("predict",), ("compare",)]


@pytest.mark.parametrize(
    "verb",
    [
        (),
        *((verb,) for verb in ("doctor", "list", "init", "run", "parity", "diagnose", "mutants")),
        *((verb,) for verb in ("summary", "activations", "show", "site")),
        *LEARNING,
    ],
)
def test_help_has_an_example(rosetta, verb: tuple[str, ...]) -> None:
    result = rosetta(*verb, "--help")
    assert result.returncode == 0
    assert f"    rosetta {' '.join(verb)}".rstrip() in result.stdout.partition("Examples:")[2]


def test_every_choice_is_implemented() -> None:
    assert tuple(reasons()) == get_args(Check)
    assert set(ROUNDING) == set(get_args(DTypeName))
    assert tuple(RUNS) == get_args(OptimizerName)
    assert tuple(FORMATS) == get_args(SummaryFormat)


def test_two_outputs_need_two_names(rosetta, lenet: Path) -> None:
    result = rosetta(
        *("run", "lenet", "--backend", "numpy", "--weights", "w", "--input", "x.npy", "-o", "y", "--trace", "./y")
    )
    assert (result.returncode, result.stderr) == (2, "rosetta: --output and --trace are both y; give two names\n")
    assert not (lenet / "y").exists()


def test_doctor_away_from_a_checkout_names_the_extra(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "common", tmp_path / "common", ignore=shutil.ignore_patterns("__pycache__"))
    absent = next(name for name in ("mxnet", "torch") if not _installed(name))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TOX_WORK_DIR": str(tmp_path)}
    environment.pop(f"ROSETTA_PYTHON_{absent.upper()}", None)
    command = [sys.executable, "-m", "common", "doctor"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert f"install it as the extra [{absent}] of rosetta" in result.stdout


def test_doctor_shows_what_is_ready_and_how_to_install_the_rest(rosetta) -> None:
    result = rosetta("doctor", ROSETTA_PYTHON_TORCH="/bin/false")
    assert result.returncode == 3
    assert "numpy" in result.stdout
    assert "ready" in result.stdout
    assert "backend torch ended with status 1" in result.stdout
    assert "tox run --notest -e torch" in result.stdout
