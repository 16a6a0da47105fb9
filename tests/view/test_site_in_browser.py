"""Tests of the site in Debian's chromium: pointer, keyboard, small screens, light and dark, accessibility."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from site_examples import a_benchmark, a_report

from common.backends.registry import BACKENDS
from common.catalog import get
from common.deploy.bench import history
from common.parity import report
from common.view.site.build import build

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

WIDTHS = (360, 900, 1500)
MAX_LOAD = 1000
"""Milliseconds until a page is interactive."""
KINDS = ("index", "resnet18", "idioms", "pitfalls", "parity", "resnet18-parity", "benchmarks", "resnet18-benchmarks")
"""One page of each kind."""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "parity.json").write_text(report.to_json(a_report()))
    (folder / "bench.json").write_text(history.dumps(a_benchmark("resnet18", get("resnet18").settings())))
    build(folder / "site", folder / "parity.json", bench=[folder / "bench.json"])
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "there is no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Browser, site: Path) -> Iterator[Callable[..., Page]]:
    """Open a page of the site. Console errors and external requests fail the test."""
    contexts, problems = [], []

    def open_page(name: str, width: int = 1500, **options: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda line: problems.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))

        def check_request(request: object) -> None:
            if not request.url.startswith((site.as_uri(), "data:")):
                problems.append(f"external: {request.url}")

        page.on("request", check_request)
        file, _, part = name.partition("#")
        page.goto(f"{(site / file).as_uri()}.html" + (f"#{part}" if part else ""))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def shown(page: Page) -> list[str]:
    """Return the visible columns of the first table of source."""
    return [name for name in BACKENDS if page.locator(f"table.code td.{name}").first.is_visible()]


def marked(page: Page, selector: str) -> list[str]:
    return page.eval_on_selector_all(f"{selector}.marked", "found => found.map(each => each.textContent.trim())")


def test_every_page_is_interactive_within_a_second(opened, site: Path) -> None:
    page = opened("index")
    for path in sorted(site.glob("*.html")):
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        took = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
        assert took < MAX_LOAD, path.name
        assert page.locator("h1").count() == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(opened, site: Path, width: int) -> None:
    page = opened("index", width)
    for name in KINDS:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_column_switches_are_remembered(opened) -> None:
    page = opened("lenet")
    assert shown(page) == ["torch", "jax", "tf"]
    button = page.get_by_role("button", name="MXNet")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    page.get_by_role("button", name="JAX").click()
    assert button.get_attribute("aria-pressed") == "true"
    assert shown(page) == ["torch", "tf", "mxnet"]
    page.get_by_role("link", name="Idioms").click()
    page.wait_for_url("**/idioms.html")
    page.wait_for_selector("html[data-ready]")
    assert shown(page) == ["torch", "tf", "mxnet"]
    for name in ("PyTorch", "TensorFlow", "MXNet"):
        page.get_by_role("button", name=name).click()
    assert shown(page) == ["mxnet"]  # one always stays


def test_pointing_at_a_box_highlights_the_part_in_every_column_and_in_the_table(opened) -> None:
    page = opened("resnet18")
    for name in ("NumPy", "MXNet"):
        page.get_by_role("button", name=name).click()
    page.locator('.drawing .part[data-path~="stage3.block1.conv2"]').first.hover()
    assert marked(page, "tr")
    for backend in BACKENDS:
        lines = marked(page, f"td.{backend}")
        assert any("conv2 =" in line.partition("\n")[0] or "self.conv2" in line for line in lines), backend
    page.locator("h1").hover()
    assert page.locator(".marked").count() == 0


def test_pointing_at_a_line_highlights_its_boxes_and_taps(opened) -> None:
    page = opened("resnet18")
    page.locator('td.torch[data-role~="Stem.conv"]').first.hover()
    assert page.locator('.drawing .part.marked[data-path~="stem.conv"]').count() == 1
    assert page.locator('.chart .tap.marked[data-path="stem.conv"]').count() == 2
    assert len(marked(page, "td.jax")) == 2  # where it is created, and where it is called


def test_a_part_is_selected_and_deselected_by_keyboard(opened) -> None:
    page = opened("resnet18")
    first = page.locator(".drawing .part").first
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("document.activeElement.dataset.path")
    assert marked(page, "tr")
    page.keyboard.press("Enter")
    path = focused.split(" ")[0]
    page.wait_for_function("path => location.hash === `#${path}`", arg=path)
    page.wait_for_function("path => document.querySelector('#here').textContent.startsWith(path)", arg=path)
    page.keyboard.press("Escape")
    assert page.evaluate("location.hash") == ""
    assert page.locator("#here").text_content() == ""


def test_the_first_tab_stop_skips_to_the_content(opened) -> None:
    page = opened("pitfalls")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_link_to_a_part_shows_where_it_is_created(opened, width: int) -> None:
    page = opened("resnet18#stage2.block1", width)
    page.wait_for_function("document.querySelector('#here').textContent")
    title = page.locator("#code-Residual h3")
    assert page.locator("#code-Residual.marked").count() == 1
    assert page.locator(".tools").bounding_box()["y"] + page.locator(".tools").bounding_box()["height"] <= (
        title.bounding_box()["y"] + 1
    )
    assert title.bounding_box()["y"] < 500
    # The shapes beside its lines are those of this block, whose first convolution halves the image.
    assert page.locator("#code-Residual .created", has_text="conv1").inner_text() == "conv1 128×12×12"
    page.goto(page.url.replace("stage2.block1", "stage3.block2.conv1"))
    page.wait_for_function("document.querySelector('#here').textContent.startsWith('stage3.block2.conv1')")
    assert page.locator("#code-Residual .created", has_text="conv1").inner_text() == "conv1 256×6×6"
    row = page.locator('#code-Residual td.torch[data-role~="Residual.conv1"]').first
    assert 0 < row.bounding_box()["y"] < 900


def test_shapes_are_shown_in_nchw_or_nhwc(opened) -> None:
    page = opened("lenet")
    shape = page.locator("tr[id='conv1'] .shape:visible")
    assert shape.inner_text() == "6×28×28"
    page.get_by_role("button", name="NHWC").click()
    assert shape.inner_text() == "28×28×6"
    visible = page.locator(".drawing tspan:visible").all_text_contents()
    assert "28×28×6" in visible
    assert "6×28×28" not in visible
    page.reload()
    assert shape.inner_text() == "28×28×6"


@pytest.mark.parametrize(
    ("words", "first", "page_and_part"),
    [
        ("resnet18 stage2.block1.conv1", "resnet18.stage2.block1.conv1", "resnet18.html#stage2.block1.conv1"),
        ("densenet", "densenet", "densenet.html"),
        ("epsilon", "5. Epsilon", "pitfalls.html#pitfall-5"),
        ("compile", "Compile", "idioms.html#compile"),
    ],
)
def test_search_finds_networks_parts_idioms_and_pitfalls(opened, words: str, first: str, page_and_part: str) -> None:
    page = opened("index")
    page.keyboard.press("/")
    page.keyboard.type(words)
    page.wait_for_selector("#found li")
    assert page.locator("#found li[aria-selected=true]").inner_text().startswith(first)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{page_and_part}")


def test_search_without_results_says_so_and_closes(opened) -> None:
    page = opened("lenet")
    page.locator("#search").fill("transformer")
    page.wait_for_selector("text=No results")
    page.keyboard.press("Escape")
    assert not page.locator("#found").is_visible()
    assert page.locator("#search").input_value() == ""


def test_a_narrow_screen_shows_one_column_at_a_time(opened) -> None:
    page = opened("resnet18", 360)
    assert shown(page) == ["torch"]
    page.get_by_role("button", name="JAX").click()
    assert shown(page) == ["jax"]
    # Long lines of code wrap and are not cut off.
    assert page.evaluate("Math.max(...[...document.querySelectorAll('td.jax')].map(each => each.scrollWidth))") <= 360


def test_the_theme_follows_the_system_or_the_switch(opened) -> None:
    def background(page: Page) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page = opened("index", color_scheme="dark")
    assert background(page) == "rgb(13, 17, 23)"
    button = page.get_by_role("button", name="Theme")
    button.click()
    assert (button.inner_text(), background(page)) == ("Theme: light", "rgb(255, 255, 255)")
    page.goto(page.url.replace("index", "lenet"))
    assert background(page) == "rgb(255, 255, 255)"
    drawn = page.evaluate("getComputedStyle(document.querySelector('.drawing')).backgroundColor")
    assert drawn == "rgb(255, 255, 255)"


def test_print_is_light_and_without_controls(opened) -> None:
    page = opened("resnet18", color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    assert not page.locator(".tools").is_visible()
    assert not page.locator("#search").is_visible()
    assert page.locator("#code-Residual td.torch").first.is_visible()


def test_without_scripts_every_column_is_visible(opened) -> None:
    page = opened("resnet18", java_script_enabled=False)
    assert shown(page) == list(BACKENDS)
    assert page.locator("tr[id='stage2.block1.conv1']").is_visible()
    assert not page.locator(".tools").is_visible()


def test_the_checkbox_shows_every_layer(opened) -> None:
    page = opened("resnet18")
    layer = page.locator("tr[id='stage2.block1.conv1']")
    assert not layer.is_visible()
    page.get_by_label("every layer").check()
    assert layer.is_visible()


def test_the_command_of_a_result_is_copied(opened) -> None:
    page = opened("resnet18-parity", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.click()
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith("rosetta parity resnet18 --checks forward")


def test_a_click_in_the_matrix_opens_the_page_of_taps(opened) -> None:
    page = opened("parity")
    page.locator("table.matrix").get_by_role("link", name="resnet18").click()
    page.wait_for_url("**/resnet18-parity.html#forward-resnet18")
    assert page.locator("td.disagree").first.is_visible()


def violations(page: Page, **options: object) -> dict[str, list[str]]:
    """Return the accessibility violations that axe finds, by rule, with the first elements."""
    from axe_playwright_python.sync_playwright import Axe

    # With `preload`, axe requests the style sheet, which a page from the file system must not.
    found = Axe().run(page, options={"preload": False, **options}).response["violations"]
    return {each["id"]: [node["html"][:200] for node in each["nodes"][:3]] for each in found}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", KINDS)
def test_axe_finds_nothing(opened, name: str, scheme: str) -> None:
    page = opened(name, color_scheme=scheme)
    if name == "resnet18":
        page.locator('td.torch[data-role~="Residual.conv1"]').first.hover()
    # Only colors differ in the dark theme.
    assert violations(page, **({"runOnly": ["color-contrast"]} if scheme == "dark" else {})) == {}


def test_axe_finds_nothing_on_a_phone_with_a_search_open(opened) -> None:
    page = opened("lenet", 360)
    page.locator("#search").fill("conv")
    page.wait_for_selector("#found li")
    assert violations(page) == {}


def test_a_click_in_the_matrix_of_the_html_report_opens_the_taps(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "parity.html").write_text(report.to_html(a_report()))
    page = browser.new_page()
    page.goto((tmp_path / "parity.html").as_uri())
    closed = page.locator("details:not([open])").first
    name = closed.locator("[id]").first.get_attribute("id")
    assert not page.locator(f"[id='{name}'] td.tap").first.is_visible()
    page.locator(f"a[href='#{name}']").first.click()
    assert page.locator(f"[id='{name}'] td.tap").first.is_visible()
    page.close()
