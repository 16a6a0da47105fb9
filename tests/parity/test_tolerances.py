"""Tests of the tolerances, which follow from measured rounding errors only."""

from __future__ import annotations

import dataclasses
import io
import json
from xml.etree import ElementTree

import pytest
from rich.console import Console

from common import catalog, reference
from common.parity import report as reports
from common.parity.comparison import Limit, TapError
from common.parity.gradients import GradientCase
from common.parity.results import Cell, Report, Settings
from common.parity.tolerances import (
    FLOOR,
    MAX_TRAINING_ERROR,
    ROUNDING,
    SAFETY_FACTOR,
    Limits,
    Measurement,
    measurements,
    reasons,
)
from common.parity.training_mode import reduced_for_training
from common.parity.training_runs import TrainingCase

DTYPES = tuple(ROUNDING)
MEASURED = [(check, one) for check in ("forward", "gradients") for one in measurements(check)]
RUNS = measurements("training")


def label(value: object) -> str:
    return f"{value.network.name} {value.network.settings().get('arch', '')}" if isinstance(value, Measurement) else ""


def limits_of(check: str, measured: Measurement) -> Limits:
    """Return the limits at a measured size."""
    network = measured.network
    if network != catalog.get(network.name):
        network = network.configured(in_channels=3, input_size=[57, 83])
    return Limits(check, reduced_for_training(network) if check == "gradients" else network, 4)


def at(steps: dict[int, float], depth: int) -> float:
    return max(roundings for place, roundings in steps.items() if place <= depth)


@pytest.mark.parametrize("check", reasons())
def test_every_network_of_the_catalog_was_measured(check: str) -> None:
    measured = [one.network.name for one in measurements(check)]
    assert set(catalog.NETWORKS) <= set(measured)
    for network in catalog.NETWORKS.values():
        assert Limits(check, network, 4).measured.network == network
    if check != "training":
        assert set(catalog.FAMILIES) <= set(measured)
        assert all(one.budget and all(one.taps.values()) for one in measurements(check))
    assert len(reasons()[check]) > 80


@pytest.mark.parametrize(("check", "measured"), MEASURED, ids=label)
def test_no_tolerance_of_a_tap_is_wider_than_ten_times_what_was_measured(check: str, measured: Measurement) -> None:
    limits = limits_of(check, measured)
    assert limits.widening == 1
    assert limits.depths
    for tap, depth in limits.depths.items():
        for dtype in DTYPES:
            worst = max(at(measured.taps[dtype], depth), FLOOR) * ROUNDING[dtype]
            assert limits.tap(tap, dtype).tolerance <= 10 * worst, f"{tap} {dtype}"


@pytest.mark.parametrize("measured", measurements("gradients"), ids=label)
def test_no_tolerance_of_a_gradient_is_wider_than_ten_times_what_was_measured(measured: Measurement) -> None:
    limits = limits_of("gradients", measured)
    for dtype in DTYPES:
        assert limits.gradient(dtype).tolerance <= 10 * measured.gradient[dtype] * ROUNDING[dtype]
    worst = max(one.derivative for one in measurements("gradients"))
    assert limits.derivative().tolerance <= min(10 * worst, 1e-5)


@pytest.mark.parametrize("measured", RUNS, ids=label)
def test_no_tolerance_of_a_run_is_wider_than_ten_times_what_was_measured(measured: Measurement) -> None:
    limits = Limits("training", measured.network, 1)
    for dtype in DTYPES:
        rounding_spread = 1000 * ROUNDING[dtype]
        if dtype in measured.run:
            assert limits.run(dtype, rounding_spread).tolerance <= 10 * measured.run[dtype] * rounding_spread
        assert limits.run(dtype, 1.0).tolerance == MAX_TRAINING_ERROR[dtype]


@pytest.mark.parametrize(("check", "measured"), MEASURED, ids=label)
def test_a_float32_budget_is_the_float64_budget_in_other_units(check: str, measured: Measurement) -> None:
    limits = limits_of(check, measured)
    for tap in (*limits.depths, "loss"):
        double, single = (limits.tap(tap, dtype).budget for dtype in DTYPES)
        assert single == double * 2**29
    if check == "gradients":
        assert limits.gradient("float32").budget == limits.gradient("float64").budget * 2**29


@pytest.mark.parametrize(("check", "measured"), MEASURED, ids=label)
def test_a_budget_is_no_less_than_float64_lost_and_grows_with_depth(check: str, measured: Measurement) -> None:
    limits = limits_of(check, measured)
    budgets = {depth: limits.tap(tap, "float64").budget for tap, depth in limits.depths.items()}
    assert sorted(budgets.values()) == [budgets[depth] for depth in sorted(budgets)]
    for depth, budget in budgets.items():
        assert budget >= at(measured.taps["float64"], depth) * ROUNDING["float64"]


def test_a_statistic_has_its_layers_limit_and_the_loss_that_of_the_logits() -> None:
    limits = Limits("gradients", catalog.get("bn_lenet"), 4)
    assert limits.tap("bn1.running_mean", "float64") == limits.tap("bn1", "float64")
    assert limits.tap("loss", "float64") == limits.tap("logits", "float64")
    assert limits.tap("bn1", "float64").budget < limits.tap("logits", "float64").budget


def test_an_exact_layer_may_still_err_by_one_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits("forward", catalog.get("lenet"), 2)
    limits.measured = dataclasses.replace(limits.measured, budget={1: 0.0}, taps={dtype: {1: 0.0} for dtype in DTYPES})
    assert limits.tap("pool1", "float64") == Limit(2.0**-53, SAFETY_FACTOR * 2.0**-53)


OTHER = {"arch": [[1, 8], [1, 24]]}


def test_an_unmeasured_architecture_has_the_largest_errors_of_all_and_says_so() -> None:
    limits = Limits("forward", catalog.get("vgg", **OTHER, input_size=[64, 64]), 2)
    assert limits.basis.startswith("the largest errors of all networks by depth")
    depth = limits.depths["stage2.pool"]
    worst = max(at(one.budget, depth) for one in measurements("forward"))
    assert limits.tap("stage2.pool", "float64").budget == worst * ROUNDING["float64"]
    assert limits.tap("stage2.pool", "float64").tolerance <= SAFETY_FACTOR * worst * ROUNDING["float64"]


def test_gradients_of_an_unmeasured_architecture_have_the_largest_errors_of_its_family() -> None:
    network = catalog.get("vgg", **OTHER, input_size=[32, 32])
    kin = [one.gradient for one in measurements("gradients") if one.network.family == "vgg"]
    assert len(kin) == 3
    expected = SAFETY_FACTOR * max(gradient["float64"] for gradient in kin) * ROUNDING["float64"]
    assert Limits("gradients", network, 4).gradient("float64").tolerance == expected


def test_a_measurement_in_float64_only_also_serves_for_float32() -> None:
    for network in (catalog.get("vgg11"), catalog.get("vgg", **OTHER)):
        limits = Limits("training", network, 1)
        assert "float32" not in limits.measured.run
        single, double = limits.run("float32", 1e-5), limits.run("float64", 1e-12)
        assert single.tolerance == pytest.approx(double.tolerance * 1e7)


def test_a_family_in_the_architecture_of_the_catalog_has_its_measurements() -> None:
    assert Limits("forward", catalog.get("resnet"), 2).measured.network.name == "resnet18"
    assert Limits("forward", catalog.get("resnet18", num_classes=3, in_channels=3, input_size=[57, 83]), 2).basis == ""


def test_beyond_the_measured_depth_errors_grow_like_a_random_walk() -> None:
    network = catalog.get("resnet", arch=[[200, 4]], input_size=[32, 32])
    limits = Limits("forward", network, 2)
    deepest = max(limits.measured.budget)
    depth = limits.depths["logits"]
    assert depth > 2 * deepest
    budget = limits.measured.budget[deepest] * ROUNDING["float64"]
    assert limits.tap("logits", "float64").budget == pytest.approx(budget * (depth / deepest) ** 0.5)


def test_larger_images_than_those_measured_have_wider_limits() -> None:
    usual, larger = (Limits("forward", catalog.get("resnet18", input_size=[n, n]), 2) for n in (96, 96 * 4))
    assert usual.basis == ""
    assert larger.widening == pytest.approx((96 * 4 * 96 * 4 / usual.measured.numbers[1]) ** 0.5)
    assert larger.tap("logits", "float64").budget == pytest.approx(
        larger.widening * usual.tap("logits", "float64").budget
    )
    assert larger.basis.endswith("times the errors measured at other sizes")


def test_the_number_of_images_matters_in_training_only() -> None:
    network = catalog.get("bn_lenet")
    assert [Limits("forward", network, images).widening for images in (1, 4, 64)] == [1, 1, 1]
    assert [Limits("gradients", network, images).widening for images in (2, 4, 16)] == [16, 1, 2]
    # A batch norm after a dense layer sees one value per image, whatever the image size.
    large = catalog.get("bn_lenet", input_size=[56, 56])
    assert Limits("gradients", large, 2).widening == pytest.approx(16 * 2**0.5)


def test_the_limit_of_a_float32_gradient_includes_the_rounding_spread_of_the_run(tmp_path) -> None:
    settings = Settings([catalog.get("lenet")], ["a"], ("gradients",))
    case = GradientCase(settings.networks[0], settings, tmp_path)
    plain = case.limits.gradient("float32")
    assert case.limit("float32", "gradient of input") == plain
    case.rounding_spread["float32"] = {"gradient of input": 1e-9, "gradient of conv1.weight": 1e-3}
    expected = Limit(plain.budget + 1e-3 / SAFETY_FACTOR, plain.tolerance + 1e-3)
    assert case.limit("float32", "gradient of input") == expected


def test_the_limit_of_a_float64_gradient_includes_its_own_rounding_spread_up_to_a_maximum(tmp_path) -> None:
    settings = Settings([catalog.get("lenet")], ["a"], ("gradients",))
    case = GradientCase(settings.networks[0], settings, tmp_path)
    plain = case.limits.gradient("float64")
    assert case.limit("float64", "gradient of input") == plain
    case.rounding_spread["float32"] = {"gradient of input": 2.0**-10, "gradient of conv1.weight": 1.0}
    assert case.limit("float64", "gradient of input") == Limit(2.0**-39 / SAFETY_FACTOR, 2.0**-39)
    assert case.limit("float64", "gradient of conv1.bias") == plain
    assert case.limit("float64", "gradient of conv1.weight").tolerance == 1e-10


def test_a_run_that_was_not_measured_has_a_finite_limit(tmp_path) -> None:
    settings = Settings([catalog.get("lenet")], ["a"], ("training",))
    case = TrainingCase(settings.networks[0], settings, tmp_path, "sgd")
    limit = case.limit("float64", "loss")
    assert limit.tolerance == MAX_TRAINING_ERROR["float64"]
    assert limit.budget <= limit.tolerance


@pytest.mark.parametrize(("check", "measured"), MEASURED, ids=label)
def test_the_largest_measured_error_is_not_marked_and_ten_times_as_much_is(check: str, measured: Measurement) -> None:
    limits = limits_of(check, measured)
    for tap, depth in limits.depths.items():
        for dtype in DTYPES:
            largest = max(at(measured.taps[dtype], depth), FLOOR) * ROUNDING[dtype]
            usual, digit_lost = (TapError("", tap, factor * largest, limits.tap(tap, dtype)) for factor in (1, 10))
            assert usual.agrees
            assert not usual.close
            assert digit_lost.close or not digit_lost.agrees


# The same in reports


def report_of(*shares: float, status: str = "agree", basis: str = "") -> Report:
    """A report of one cell with one error per share of its tolerance, on a tolerance of 8e-15."""
    settings = Settings([catalog.get("lenet")], ["torch"])
    taps = list(reference.describe(settings.networks[0]).taps)
    errors = [
        TapError("digits", tap, share * 8e-15, Limit(1e-15, 8e-15)) for tap, share in zip(taps, shares, strict=False)
    ]
    cell = Cell("lenet", "forward", "", "float64", "torch", status, errors=tuple(errors), basis=basis)
    return Report(settings, [cell])


def printed(report: Report, color: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=color, color_system="standard" if color else None)
    reports.print_table(report, console)
    return console.file.getvalue()


def test_a_cell_shows_the_error_nearest_its_tolerance_and_the_percentage_used() -> None:
    report = report_of(0.02, 0.31, 0.3)
    assert reports.cell_text(report.cells[0]) == ("✓ 2.5e-15 31%", "pool1")
    assert "✓ 2.5e-15 31% pool1" in printed(report)
    assert "1 pass in 0 s" in printed(report)
    assert "✓ 2.5e-15 31%" in reports.to_html(report)
    assert 'class="close"' not in reports.to_html(report)
    worst = json.loads(reports.to_json(report))["results"][0]["worst"]
    assert (worst["tap"], worst["budget"], worst["tolerance"]) == ("pool1", 1e-15, 8e-15)
    assert worst["tolerance_used"] == pytest.approx(0.31)
    assert worst["share"] == pytest.approx(8 * 0.31)
    suite = ElementTree.fromstring(reports.to_junit(report))
    assert suite.find(".//system-out").text == "✓ 2.5e-15 31% pool1"


def test_an_error_close_to_its_tolerance_passes_and_is_yellow() -> None:
    report = report_of(0.4, 0.75)
    cell = report.cells[0]
    assert cell.close
    assert report.exit_status() == 0
    assert report.summary()["agree"] == 1
    assert "1 pass, 1 close to their tolerance in" in printed(report)
    assert "\x1b[33m✓ 6.0e-15 75% pool1" in printed(report, color=True)  # yellow
    assert "\x1b[32m✓ 3.2e-15 40% conv1" in printed(report_of(0.4), color=True)  # green
    assert reports.to_html(report).count('class="close"') == 2  # in the table of networks and in that of taps
    assert json.loads(reports.to_json(report))["results"][0]["close"] is True
    suite = ElementTree.fromstring(reports.to_junit(report))
    assert suite.find(".//failure") is None
    assert suite.find(".//system-out").text.endswith("; close to its tolerance")


def test_a_cell_that_disagrees_is_not_called_close() -> None:
    report = report_of(0.75, 1.1, status="disagree")
    assert not report.cells[0].close
    assert "close to" not in printed(report)
    assert "✗ 8.8e-15 first at pool1" in printed(report)
    assert "1 disagree in" in printed(report)


def test_half_of_the_tolerance_is_not_close_to_it() -> None:
    assert not report_of(0.5).cells[0].close


def test_the_record_still_says_which_errors_exceed_the_largest_measured() -> None:
    found = [json.loads(reports.to_json(report_of(share)))["results"][0]["over_budget"] for share in (0.125, 0.13)]
    assert found == [False, True]


def test_a_report_says_where_the_tolerances_of_an_unmeasured_network_come_from() -> None:
    report = report_of(0.05, basis="the largest errors of all networks")
    assert "lenet: tolerances come from the largest errors of all networks" in printed(report)
    assert "tolerances come from the largest errors of all networks" in reports.to_html(report)
    assert json.loads(reports.to_json(report))["results"][0]["basis"] == "the largest errors of all networks"
