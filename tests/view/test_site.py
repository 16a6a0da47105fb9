"""Tests of the site: content, links, no external resources, colors, invalid input, and the output folder."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from site_examples import a_benchmark, a_report
from support import ROOT

from common import catalog
from common.backends.registry import BACKENDS
from common.catalog import get
from common.deploy.bench import history
from common.deploy.recommend import facts
from common.errors import InputError
from common.parity import report
from common.view.diagram import diagram
from common.view.side_by_side import lookup
from common.view.site import folder, idioms, markdown, networks, parity_report, pitfalls
from common.view.site.build import build

PAGES = {"index.html", "idioms.html", "pitfalls.html", "initializers.html", "parity.html", "benchmarks.html"}
MAX_BYTES, MAX_SECONDS = 500_000, 20.0
"""Maximum size of a page, and maximum time to build the site."""


@pytest.fixture(scope="module")
def parity(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("parity") / "parity.json"
    path.write_text(report.to_json(a_report()))
    return path


@pytest.fixture(scope="module")
def benches(tmp_path_factory) -> list[Path]:
    """Two benchmark runs. The second has another network configuration and was interrupted."""
    usual = dict(get("resnet18").settings())
    other = dataclasses.replace(a_benchmark("resnet18", {**usual, "num_classes": 1000}), interrupted=True)
    runs = [a_benchmark("resnet18", usual), other]
    folder = tmp_path_factory.mktemp("bench")
    for number, run in enumerate(runs):
        (folder / f"bench{number}.json").write_text(history.dumps(run))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def site(tmp_path_factory, parity: Path, benches: list[Path]) -> Path:
    target = tmp_path_factory.mktemp("built") / "site"
    begin = time.perf_counter()
    built = build(target, parity, bench=benches)
    assert time.perf_counter() - begin < MAX_SECONDS
    assert built.index == target / "index.html"
    assert built.pages == len(list(target.glob("*.html")))
    return target


class Page(HTMLParser):
    """Parses a page: its ids, links, resources, headings and tags, and the tags that are left open."""

    VOID = frozenset({"meta", "link", "input", "br", "path", "rect", "polygon", "circle", "line"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.headings: list[int] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") != "icon":
            self.loads.append(given["href"])
        self.loads += [given["src"]] if "src" in given else []
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, self.getpos()


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.name: Page(path) for path in site.glob("*.html")}


def test_every_network_has_a_page_and_pages_for_its_results(pages) -> None:
    of_networks = {f"{name}.html" for name in catalog.NETWORKS}
    results = {"lenet-parity.html", "resnet18-parity.html", "resnet18-benchmarks.html"}
    assert of_networks | PAGES | results == set(pages)


def test_pages_are_well_formed_with_one_h1_and_unique_ids(pages) -> None:
    for name, page in pages.items():
        assert page.open == [], name
        assert page.headings[0] == 1, name
        assert page.headings.count(1) == 1, name
        assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False)), name
        assert len(page.ids) == len(set(page.ids)), [each for each in page.ids if page.ids.count(each) > 1]
        assert ("html", {"lang": "en", "data-layout": "nchw"}) in page.tags
        assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in page.tags}


def links(pages: dict[str, Page]) -> Iterator[tuple[str, str, str]]:
    for name, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            yield name, target or name, unquote(anchor)


def test_links_lead_to_existing_anchors_or_to_arxiv(pages) -> None:
    for name, target, anchor in links(pages):
        if target.startswith("https://"):
            assert target.startswith("https://arxiv.org/abs/"), (name, target)
            continue
        assert target in pages, (name, target)
        assert not anchor or anchor in pages[target].ids, (name, target, anchor)


def test_search_index_entries_exist_and_are_unique(site: Path, pages) -> None:
    found = re.fullmatch(r"rosettaIndex\((.*)\);\n", (site / "search.js").read_text(encoding="utf-8"), re.DOTALL)
    entries = json.loads(found[1])
    for _, _, where in entries:
        target, _, anchor = where.partition("#")
        assert target in pages, where
        assert not anchor or anchor in pages[target].ids, where
    names = {name for name, _, _ in entries}
    assert {"resnet18", "resnet18.stage2.block1.conv1", "Compile", "5. Epsilon"} <= names
    assert len(names) == len(entries)


def test_no_external_resources_are_loaded(site: Path, pages) -> None:
    assert {load for page in pages.values() for load in page.loads} == {"site.css", "site.js"}
    assert "url(" not in (site / "site.css").read_text()
    assert "@import" not in (site / "site.css").read_text()
    for path in site.iterdir():
        text = re.sub(r'href="https://arxiv.org/abs/[\d.]+"|xmlns="http://www.w3.org/2000/svg"', "", path.read_text())
        assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//|fetch\(|XMLHttpRequest""", text), path.name


def test_pages_are_smaller_than_the_limit(site: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in site.glob("*.html")}
    assert max(sizes.values()) <= MAX_BYTES, max(sizes, key=sizes.__getitem__)


@pytest.mark.parametrize("name", catalog.NETWORKS)
def test_a_network_page_has_its_drawing_every_part_and_all_source(pages, name: str) -> None:
    page, view = pages[f"{name}.html"], lookup.of_network(get(name))
    assert {part.path for part in view.parts if part.path} <= set(page.ids)
    assert diagram.draw(get(name)) in page.text
    for backend in BACKENDS:
        cells = re.findall(rf'<td class="{backend}[^>]*><pre><code>(.*?)</code>', page.text, re.DOTALL)
        shown = [html.unescape(re.sub(r"<.*?>", "", cell)) for cell in cells]
        assert shown == [
            f"{snippet.source}\n" for section in view.sections[1:] for snippet in section.snippets(backend)
        ]
    boxes = {path for tag, given in page.tags for path in given.get("data-path", "").split() if tag == "g"}
    assert boxes & {part.path for part in view.parts}


def test_every_role_has_source_lines_in_every_column(pages) -> None:
    page = pages["resnet18.html"]
    for role in ("Residual.conv1", "Residual.bn2", "ResNet.stem", "Residual.shortcut"):
        columns = {
            given["class"].split()[0]
            for tag, given in page.tags
            if tag == "td" and role in given.get("data-role", "").split()
        }
        assert columns == set(BACKENDS), role
    rows = {given["id"]: given for tag, given in page.tags if tag == "tr" and "data-part" in given}
    assert rows["stage3.block2.conv1"]["data-part"] == "Residual.conv1"
    assert rows["stage3.block2"]["data-of"] == "Residual"


def test_networks_are_in_historical_order() -> None:
    order = [network.name for network in networks.in_order()]
    assert set(order) == set(catalog.NETWORKS)
    assert order[:4] == ["lenet", "alexnet", "nin", "vgg11"]
    assert order[-1] == "regnetx32"
    years = [networks.year(get(name)) for name in order]
    assert years == sorted(years)


def test_cost_shares_of_all_layers_sum_to_one() -> None:
    network = get("resnet18")
    rows = networks.part_rows(network, lookup.of_network(network))
    layers = [row for row in rows if not any(other.path.startswith(f"{row.path}.") for other in rows)]
    assert sum(row.parameter_share for row in layers) == pytest.approx(1)
    assert sum(row.cost_share for row in layers) == pytest.approx(1)


# --- idioms and pitfalls ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", idioms.TASKS, ids=lambda task: task.anchor)
def test_a_task_has_code_in_every_implementation_or_a_reason_for_its_absence(task) -> None:
    assert set(task.places) | set(task.absent) == set(BACKENDS)
    assert not set(task.places) & set(task.absent)
    for backend, snippets in idioms.examples(task).items():
        assert snippets, backend
        for snippet, place in zip(snippets, task.places[backend], strict=True):
            assert place.rpartition(".")[2].rpartition(" ")[2] in snippet.source
            code = "\n".join(snippet.source.split("\n"))
            compile(f"if True:\n{code}" if code.startswith(" ") else code, snippet.path, "exec")


def test_a_missing_example_is_an_error() -> None:
    with pytest.raises(KeyError, match="no_such"):
        idioms.examples(idioms.Task("a", "A", "", {"torch": ["training: no_such"]}))


def test_pitfalls_name_the_layers_that_they_affect() -> None:
    page = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
    found = {
        name: {each.number: each.paths for each in pitfalls.affecting(get(name), page)} for name in catalog.NETWORKS
    }
    assert found["alexnet"][4] == ("conv1",)
    assert found["resnet18"][1][0] == "stem.conv"
    assert "stage2.block1.conv1" in found["resnet18"][1]
    assert 4 not in found["resnet18"]
    assert set(found["lenet"]) == {10, 15}
    assert found["lenet"][10] == ("flatten",)
    assert found["densenet"][14] == ("transition1", "transition2", "transition3")
    assert 12 in found["regnetx32"]
    assert {number for numbers in found.values() for number in numbers} == set(pitfalls._CONDITIONS)
    assert sorted(pitfalls.headings(page)) == list(range(1, 29))


def test_markdown_has_anchors_scrollable_tables_and_highlighted_code(pages) -> None:
    page = pages["pitfalls.html"]
    assert {f"pitfall-{number}" for number in range(1, 29)} <= set(page.ids)
    assert "<!--" not in page.text.partition("<main")[2]
    text = markdown.render(
        '<a id="x-1"></a>\n\n### 1. `a<b`\n\n| | b |\n|---|---|\n| 1 | 2 |\n\n```python tf\nx = "<"\n```\n'
    )
    assert '<h3 id="x-1">' in text
    assert "<td></td>" in text
    assert '<p class="fence">tf</p>' in text
    assert '<b class="s">"&lt;"</b>' in text


# --- colors ----------------------------------------------------------------------------------------------------------


def luminance(color: str) -> float:
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast_in_light_and_dark_also_when_highlighted(site: Path) -> None:
    css = (site / "site.css").read_text()
    named = dict(re.findall(r"--([\w-]+): light-dark\((.*?)\);", css))
    tokens = dict(re.findall(r"^pre \.(\w).*?color: light-dark\((.*?)\)", css, re.MULTILINE))
    assert set(tokens) == set("cksmfav")
    for mode in (0, 1):
        for page in ("paper", "shade", "marked"):
            back = named[page].split(", ")[mode]
            for name, colors in {**tokens, "ink": named["ink"], "soft": named["soft"], "link": named["link"]}.items():
                assert contrast(colors.split(", ")[mode], back) >= 4.5, (name, page, mode)
        for status in ("agree", "wrong", "doubt"):
            assert contrast(*(named[name].split(", ")[mode] for name in (status, f"{status}-page"))) >= 4.5
        for name in BACKENDS:
            assert contrast(named[name].split(", ")[mode], named["paper"].split(", ")[mode]) >= 3, name


# --- the parity report ------------------------------------------------------------------------------------------------


def test_reading_a_report_restores_what_was_written(parity: Path) -> None:
    found = parity_report.read(parity)
    assert json.loads(report.to_json(found)) == json.loads(parity.read_text())
    assert found.cells == a_report().cells


def test_results_are_on_the_pages_with_failures_first(pages) -> None:
    page = pages["parity.html"]
    assert page.text.index("Failures") < page.text.index('id="forward"')
    assert page.text.index('href="resnet18-parity.html') < page.text.index('href="lenet-parity.html')
    assert "behaves as with padding (2, 3)" in page.text
    numbers = pages["resnet18-parity.html"].text
    assert "rosetta parity resnet18 --checks forward" in numbers
    assert 'class="disagree">3.0e-12' in numbers
    charts = re.findall(r'<svg class="chart".*?</svg>', pages["resnet18.html"].text, re.DOTALL)
    assert len(charts) == 2
    assert 'data-path="stem.conv"' in charts[0]
    assert "no parity results for this network" in pages["vgg11.html"].text


def test_a_site_without_results_gives_the_commands_to_get_them(tmp_path: Path) -> None:
    build(tmp_path / "site")
    for name in ("index.html", "parity.html", "lenet.html"):
        assert "rosetta site --parity parity.json" in (tmp_path / "site" / name).read_text()
    for name in ("benchmarks.html", "lenet.html"):
        assert "rosetta site --bench bench.json" in (tmp_path / "site" / name).read_text()


# --- benchmarks -------------------------------------------------------------------------------------------------------


def test_benchmarks_have_their_own_pages_and_are_linked(pages) -> None:
    for page in pages.values():
        assert "benchmarks.html" in page.links
    overview, own = pages["benchmarks.html"], pages["resnet18-benchmarks.html"]
    assert [link for link in overview.links if "resnet18" in link] == [
        "resnet18-benchmarks.html#run-1-1",
        "resnet18-benchmarks.html#run-2-1",
    ]
    assert {"resnet18-benchmarks.html#run-1-1", "resnet18-benchmarks.html#run-2-1"} <= set(pages["resnet18.html"].links)
    assert "num_classes 1000" in own.text
    assert "A &amp; B" in own.text
    assert own.text.count("interrupted: results are incomplete") == 1
    assert "onnxruntime<small>8.50 ms</small>" in overview.text
    assert "onnxruntime 1.31.1" in overview.text
    assert "no benchmarks of this network" in pages["lenet.html"].text


def test_a_benchmark_table_has_every_path_with_values_or_an_error(pages) -> None:
    tables = re.findall(r'<table class="costs">.*?</table>', pages["resnet18-benchmarks.html"].text, re.DOTALL)
    assert len(tables) == 4
    rows = re.findall(r"<tr>(.*?)</tr>", tables[1], re.DOTALL)[1:]
    assert [re.search(r"</svg>([\w-]+)</th>", row)[1] for row in rows] == [
        "onnxruntime",
        "torch-eager",
        "litert-int8",
        "tf-xla",
    ]
    assert "68.0<small>67.5 to 68.5</small>" in rows[0]
    assert "110</td>" in rows[0]  # MB of packages and artifact
    assert "<td>yes</td>" in rows[0]
    assert "<td>yes</td>" not in rows[1]
    assert '<td class="wrong" colspan="7">wrong: off by &lt;0.3&gt;</td>' in rows[2]
    assert '<td class="missing" colspan="7">missing: no tf here</td>' in rows[3]


def test_benchmark_charts_show_each_measured_path(pages) -> None:
    charts = re.findall(r'<svg class="chart".*?</svg>', pages["resnet18-benchmarks.html"].text, re.DOTALL)
    assert len(charts) == 2 * (1 + 2)  # per run: throughput, and latency against memory for two batch sizes
    throughput, *by_batch = charts[:3]
    assert re.findall("<title>(.*?)</title>", throughput) == [
        "onnxruntime, batch 1: 118 images/s",
        "onnxruntime, batch 8: 118 images/s",
        "torch-eager, batch 1: 62.5 images/s",
        "torch-eager, batch 8: 62.5 images/s",
    ]
    for chart, batch in zip(by_batch, (1, 8), strict=True):
        marks = dict(re.findall(r'<circle[^>]*cx="([\d.]+)"[^>]*><title>([\w-]+)', chart))
        assert set(marks.values()) == {"onnxruntime", "torch-eager"}
        assert ">onnxruntime</text>" in chart
        assert ">torch-eager</text>" not in chart  # it is not on the Pareto front
        assert f"batch {batch}" in chart


def test_runtime_facts_have_their_sources(pages) -> None:
    page = html.unescape(pages["benchmarks.html"].text)
    for known in facts.table().values():
        for fact in (known.status, known.license, known.platforms, *known.elsewhere.values()):
            assert fact.says in page
            assert fact.source in page
    assert "MXNet, retired" in page


def test_an_invalid_benchmark_is_an_error_and_writes_nothing(rosetta, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"schema": 1}')
    result = rosetta("site", "-o", "site", "--bench", "bad.json")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("rosetta: bad.json: not a run of `rosetta bench`")
    assert not (tmp_path / "site").exists()


def changed(parity: Path, **values: object) -> str:
    return json.dumps({**json.loads(parity.read_text()), **values})


BAD = {
    "not JSON": (lambda _: "{", "not JSON"),
    "no object": (lambda _: "[1]", "not a parity report: it has no `schema`"),
    "another schema": (lambda path: changed(path, schema=2), "a parity report of schema 2; expected 1"),
    "no results": (lambda _: '{"schema": 1}', "not a complete parity report: it has no `backends`"),
    "results without errors": (
        lambda path: changed(
            path, results=[{k: v for k, v in json.loads(path.read_text())["results"][0].items() if k != "errors"}]
        ),
        "it has no `errors`",
    ),
    "an unknown backend": (lambda path: changed(path, backends={"caffe": {}}), "there is no backend called 'caffe'"),
    "an unknown network": (
        lambda path: changed(path, settings={"batch": None, "seed": 0, "networks": {"lenot": {}}}),
        "there is no network 'lenot'",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_invalid_report_is_a_one_line_error_and_writes_nothing(
    rosetta, tmp_path: Path, parity: Path, kind: str
) -> None:
    make, message = BAD[kind]
    (tmp_path / "bad.json").write_text(make(parity))
    result = rosetta("site", "-o", "site", "--parity", "bad.json")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("rosetta: bad.json: ")
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]


# --- the folder -------------------------------------------------------------------------------------------------------

FILES = {"index.html": "one", "site.css": "two"}


def names(target: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in target.iterdir() if path.name != folder.MANIFEST}


def test_a_site_replaces_an_earlier_one_or_an_empty_folder(tmp_path: Path) -> None:
    target = tmp_path / "site"
    target.mkdir()
    folder.write(target, {**FILES, "gone.html": "old"}, {})
    folder.write(target, FILES, {})
    assert names(target) == FILES
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_with_other_files_is_an_error_and_force_keeps_them(tmp_path: Path) -> None:
    target = tmp_path / "site"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"has other files \(notes.txt\).*--force"):
        folder.write(target, FILES, {})
    folder.write(target, {**FILES, "gone.html": "old"}, {}, force=True)
    folder.write(target, FILES, {}, force=True)
    assert names(target) == {**FILES, "notes.txt": "mine"}
    (target / "other.html").write_text("mine too")
    with pytest.raises(InputError, match=r"other.html is not part of an earlier site"):
        folder.write(target, {**FILES, "other.html": "theirs"}, {}, force=True)
    assert names(target) == {**FILES, "notes.txt": "mine", "other.html": "mine too"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("text", ["{", "[]", '{"files": 3}', '{"files": ["../../etc/passwd", 3]}'])
def test_an_invalid_manifest_is_not_a_site(tmp_path: Path, text: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / folder.MANIFEST).write_text(text)
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(InputError, match="has other files"):
        folder.check(tmp_path / "site")


def test_a_file_or_a_missing_parent_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        folder.check(tmp_path / "file")
    with pytest.raises(InputError, match="there is no folder"):
        folder.check(tmp_path / "absent" / "site")


def test_the_command_prints_the_path_of_the_site(rosetta, tmp_path: Path) -> None:
    result = rosetta("site", "-o", "site")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"site/index.html: 17 pages, \d\.\d MB\n", result.stdout)
    assert "rosetta site -o site --parity parity.json" in rosetta("site", "--help").stdout
