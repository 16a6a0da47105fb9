"""Tests of the dataflow graph against the papers, and of the drawing against the graph, as XML and as geometry."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib
import numpy as np
import pytest
from PIL import ImageFont

from common import catalog, reference
from common.catalog import Config, Network
from common.errors import ConfigError
from common.reference import Description, ExternalNetwork
from common.reference.graph import INPUT, JOINS, OUTPUT, Graph, graph
from common.reference.layers import (
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    Module,
    ReLU,
    Sequential,
    Value,
    add,
    concatenate,
)
from common.view import svg
from common.view.diagram import diagram
from common.view.diagram.diagram import draw

ODD = [
    catalog.get("vgg", arch=[[16, 64], [3, 32]], input_size=[33, 47]),
    catalog.get("vgg", arch=[[1, 8]] * 7, in_channels=3, num_classes=1000),
    catalog.get("anynet", arch=[[2, 32, 16, 1], [5, 64, 16, 2], [12, 128, 16, 1], [2, 256, 16, 0.5]]),
    catalog.get("resnet", arch=[[3, 8], [4, 16], [6, 32], [3, 64]]),
    catalog.get("resnet", arch=[[1, 8]]),
    catalog.get("resnet", arch=[[1, 8]] * 12, num_classes=1),
    catalog.get("densenet", arch=[1]),
    catalog.get("densenet", arch=[6, 12, 24, 16], input_size=[224, 224], in_channels=3),
    catalog.get("resnext"),
]
NETWORKS = [*catalog.NETWORKS.values(), *ODD]
IDS = [*catalog.NETWORKS, *(f"{network.name}-{i}" for i, network in enumerate(ODD))]
over_networks = pytest.mark.parametrize("network", NETWORKS, ids=IDS)
NAMESPACE = "{http://www.w3.org/2000/svg}"


# The graph


def relative(graph: Graph, path: str) -> set[tuple[str, str]]:
    """Return the edges inside a composite, by the names of its parts."""
    return {(source.rpartition(".")[2], target.rpartition(".")[2]) for source, target in graph.inside(path)}


def chain(*names: str) -> set[tuple[str, str]]:
    return set(itertools.pairwise([INPUT, *names, OUTPUT]))


def test_lenet_is_a_chain() -> None:
    names = "conv1 sigmoid1 pool1 conv2 sigmoid2 pool2 flatten fc1 sigmoid3 fc2 sigmoid4 fc3"
    assert relative(graph(catalog.get("lenet")), "") == chain(*names.split())


def test_an_inception_block_has_four_branches_joined_by_concatenation() -> None:
    # Szegedy et al., figure 2(b).
    found = graph(catalog.get("googlenet"))
    blocks = [node.path for node in found.nodes.values() if node.kind == "Inception"]
    assert len(blocks) == 9
    for block in blocks:
        branches = [f"branch{i}" for i in (1, 2, 3, 4)]
        ways = {edge for branch in branches for edge in [(INPUT, branch), (branch, "||")]}
        assert relative(found, block) == ways | {("||", OUTPUT)}
        assert relative(found, f"{block}.branch4") == chain("pool", "conv", "relu")
    join = found.nodes["stage1.block1.||"]
    assert (join.kind, join.shape) == ("concatenate", (256, 12, 12))
    assert ("stage1.block1.branch4.relu", "stage1.block1.||") in found.edges


def test_a_residual_block_adds_its_input_or_a_projection_of_it() -> None:
    # He et al., figures 2 and 3: solid shortcuts are the identity, dotted ones change channels and resolution.
    found = graph(catalog.get("resnet18"))
    body = chain("conv1", "bn1", "relu1", "conv2", "bn2", "+", "relu2")
    shortcuts = {}
    for node in found.nodes.values():
        if node.kind == "Residual":
            edges = relative(found, node.path)
            assert edges > body
            shortcuts[node.path] = edges - body
    projected = {(INPUT, "shortcut"), ("shortcut", "+")}
    assert [path for path, way in shortcuts.items() if way == projected] == [f"stage{i}.block1" for i in (2, 3, 4)]
    assert sum(way == {(INPUT, "+")} for way in shortcuts.values()) == 5
    assert relative(found, "stage2.block1.shortcut") == chain("conv")


def test_a_dense_layer_concatenates_its_input_and_output() -> None:
    # Huang et al., equation 2.
    found = graph(catalog.get("densenet"))
    assert relative(found, "stage2.block3") == chain("bn", "relu", "conv", "||") | {(INPUT, "||")}
    into = [source for source, target in found.edges if target == "stage1.block2.||"]
    assert into == ["stage1.block1.||", "stage1.block2.conv"]
    assert relative(found, "stage1") == chain("block1", "block2", "block3", "block4")


def test_anynet_is_a_stem_its_stages_and_a_head() -> None:
    # Radosavovic et al., figure 3.
    found = graph(ODD[2])
    assert relative(found, "") == chain("stem", "stage1", "stage2", "stage3", "stage4", "head")
    assert relative(found, "stage2") == chain(*(f"block{i}" for i in range(1, 6)))
    assert (INPUT, "shortcut") in relative(found, "stage3.block1")
    assert (INPUT, "+") in relative(found, "stage3.block2")


@over_networks
def test_every_call_is_a_node_with_its_shape_and_every_layer_has_one_input(network: Network) -> None:
    found = graph(network)
    called = {call.path: call.shape[1:] for call in reference.describe(network).calls}
    joins = {node.path for node in found.nodes.values() if node.kind in JOINS}
    assert {path: node.shape for path, node in found.nodes.items() if path in called} == called
    assert found.nodes.keys() == called.keys() | joins | {INPUT, OUTPUT}
    arriving = Counter(target for _, target in found.edges)
    assert all(arriving[join] >= 2 for join in joins)
    layers = {path for path, node in found.nodes.items() if node.is_layer}
    assert {target for target, count in arriving.items() if count == 1} == layers | {OUTPUT}
    for source, target in found.edges:
        if target in layers:
            assert found.nodes[source].shape == found.nodes[target].given


class Fire(Module):
    """Squeeze, two concatenated branches, a shortcut around both, relu, and a shortcut around relu."""

    def __init__(self, channels: int) -> None:
        self.squeeze = Conv2d(channels, 4, 1)
        self.expand1 = Conv2d(4, channels - 2, 1)
        self.expand3 = Conv2d(4, 2, 3, padding=1)
        self.relu = ReLU()

    def forward(self, x: Value) -> Value:
        y = self.squeeze(x)
        y = add(x, concatenate([self.expand1(y), self.expand3(y)]))
        return add(self.relu(y), y)


class FireNet(Sequential):
    """A network that is not in the catalog, with two blocks."""

    def __init__(self, num_classes: int, in_channels: int, input_size: tuple[int, int]) -> None:
        self.conv = Conv2d(in_channels, 8, 3, padding=1)
        self.fire1 = Fire(8)
        self.fire2 = Fire(8)
        self.pool = GlobalAvgPool2d()
        self.flatten = Flatten()
        self.fc = Linear(8, num_classes)


@pytest.fixture
def firenet(monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setitem(reference._NETWORKS, "firenet", FireNet)  # type: ignore[index]
    return Network("firenet", "firenet", Config(), "nobody, never", "", 0.1)


def test_joins_belong_to_their_block_and_have_unique_names(firenet: Network) -> None:
    found = graph(firenet)
    assert relative(found, "") == chain("conv", "fire1", "fire2", "pool", "flatten", "fc")
    assert relative(found, "fire2") == {
        (INPUT, "squeeze"),
        (INPUT, "+"),
        ("squeeze", "expand1"),
        ("squeeze", "expand3"),
        ("expand1", "||"),
        ("expand3", "||"),
        ("||", "+"),
        ("+", "relu"),
        ("+", "+2"),
        ("relu", "+2"),
        ("+2", OUTPUT),
    }


def test_a_network_that_cannot_be_drawn_is_an_error() -> None:
    with pytest.raises(ConfigError, match="too small"):
        draw(catalog.get("vgg11", input_size=[8, 8]))
    with pytest.raises(ConfigError, match="the connections between its layers are unknown"):
        draw(ExternalNetwork("mine", (3, 8, 8), Description({}, {}, (), (), ())))


# The drawing as XML


def parse(network: Network) -> ET.Element:
    return ET.fromstring(draw(network))


def parts(root: ET.Element) -> list[ET.Element]:
    return [element for element in root.iter() if "data-path" in element.attrib]


@over_networks
def test_every_path_is_drawn_once_with_its_shape(network: Network) -> None:
    root, found = parse(network), graph(network)
    drawn = Counter(path for part in parts(root) for path in part.get("data-path", "").split())
    assert set(drawn.values()) == {1}
    assert drawn.keys() <= found.nodes.keys()
    assert reference.describe(network).taps.keys() <= drawn.keys()
    assert {node.path for node in found.nodes.values() if node.is_layer} <= drawn.keys()
    for part in parts(root):
        # A stack has the shape of its last node, and a detail drawing the shapes of the first block.
        shapes = {svg.spoken(found.nodes[path].shape) for path in part.get("data-path", "").split()}
        assert part.get("aria-label", "").rpartition(", ")[2] in shapes


@over_networks
def test_labels_of_arrows_are_shapes_of_the_reference(network: Network) -> None:
    root, found = parse(network), graph(network)
    shapes = {node.shape for node in found.nodes.values()} | {node.given for node in found.nodes.values()}
    written = {svg.sizes(shape) for shape in shapes}
    carried = 0
    for element in root.iter(f"{NAMESPACE}text"):
        pieces = {piece.get("class"): piece.text or "" for piece in element}
        if not pieces or not pieces["nchw"][0].isdigit():
            continue
        assert len(pieces) == 2
        before, after = (re.split(" → ", pieces[layout]) for layout in ("nchw", "nhwc"))
        assert set(before) <= written
        for nchw, nhwc in zip(before, after, strict=True):
            channels, *image = nchw.split("×")
            assert nhwc.split("×") == [*image, channels]
        carried += len(before) == 1
    assert carried >= 3


@over_networks
def test_parts_can_be_focused_and_have_labels(network: Network) -> None:
    root = parse(network)
    assert root[0].tag == f"{NAMESPACE}title"
    assert network.name in (root[0].text or "")
    assert root[1].tag == f"{NAMESPACE}desc"
    assert root[1].text
    for part in parts(root):
        assert part.get("tabindex") == "0"
        assert part.get("role") == ("group" if part.findall(".//*[@data-path]") else "img")
        path = part.get("data-path", "").split()[0]
        assert re.match(rf"{re.escape(path)}( and \d+ more)?: \w", part.get("aria-label", ""))
    details = [element for element in root.iter() if "data-detail" in element.attrib]
    blocks = [path for detail in details for path in detail.get("data-detail", "").split()]
    assert len(blocks) == len(set(blocks))
    # Ids would be repeated on a page with two drawings.
    assert not [element for element in root.iter() if "id" in element.attrib]
    assert not [element for element in root.iter() if element.tag.rpartition("}")[2] in ("script", "image", "use")]


def test_equal_blocks_are_drawn_once_and_counted() -> None:
    headings = [
        element.text
        for element in parse(catalog.get("resnet18")).iter(f"{NAMESPACE}text")
        if "heading" in element.get("class", "")
    ]
    assert headings == ["Stem", "Residual A × 5", "Residual B × 3", "Head"]
    stacked = [part.get("data-path", "") for part in parts(parse(ODD[3]))]
    assert "stage3.block2 stage3.block3 stage3.block4 stage3.block5 stage3.block6" in stacked


def test_equal_layers_are_stacked_only_in_deep_chains() -> None:
    deep = [part.get("data-path", "").split() for part in parts(parse(ODD[0]))]
    assert [f"stage1.conv{i}" for i in range(1, 17)] in deep
    assert ["stage3.conv2", "stage4.conv2", "stage5.conv2"] in [
        part.get("data-path", "").split() for part in parts(parse(catalog.get("vgg11")))
    ]


def test_an_identity_shortcut_is_labeled() -> None:
    for detail in (element for element in parse(catalog.get("resnet18")).iter() if "data-detail" in element.attrib):
        words = [text.text for text in detail.iter(f"{NAMESPACE}text")]
        assert ("identity" in words) == ("Residual A × 5" in words)
        assert ("conv 1×1" in words) == ("Residual B × 3" in words)


def test_blocks_of_one_kind_list_their_groups_if_they_differ() -> None:
    def group_texts(network: Network) -> list[str]:
        return [text.text or "" for text in parse(network).iter(f"{NAMESPACE}text") if "groups" in (text.text or "")]

    # 32 and 80 channels in groups of 16; in ResNeXt-50 (32x4d) there are 32 groups throughout.
    assert group_texts(catalog.get("regnetx32")) == [
        *("2 groups", "stage1.block1, 2 groups", "stage2.block1, 5 groups"),
        *("2 groups", "stage1.block2–4, 2 groups", "stage2.block2–6, 5 groups"),
    ]
    assert set(group_texts(catalog.get("resnext"))) == {"32 groups"}


def test_box_sizes_follow_resolution_and_channels() -> None:
    def boxes(network: Network) -> dict[str, Area]:
        return {part.get("data-path", ""): box_area(part[0], "") for part in parts(parse(network))}

    tall = boxes(catalog.get("alexnet"))
    heights = [tall[path].bottom - tall[path].top for path in (INPUT, "conv1", "pool1", "pool2", "pool3", "fc1")]
    assert heights == sorted(set(heights), reverse=True)
    wide, narrow = boxes(catalog.get("vgg11")), boxes(catalog.get("vgg11_small"))
    assert all(
        wide[f"stage{i}"].right - wide[f"stage{i}"].left > narrow[f"stage{i}"].right - narrow[f"stage{i}"].left
        for i in range(1, 6)
    )


@over_networks
def test_the_drawing_is_small_and_fast(network: Network) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        drawn = draw(network)
        seconds.append(time.perf_counter() - start)
    assert len(drawn.encode()) < 60_000
    assert min(seconds) < 0.1


# The drawing as geometry


@dataclass(frozen=True)
class Area:
    """A rectangle and a description of its element."""

    left: float
    top: float
    right: float
    bottom: float
    what: str

    def holds(self, other: Area) -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )

    def meets(self, other: Area, slack: float = 0.15) -> bool:
        """True if they overlap by more than the rounding of coordinates."""
        return (
            self.left < other.right - slack
            and other.left < self.right - slack
            and self.top < other.bottom - slack
            and other.top < self.bottom - slack
        )


_FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
# DejaVu Sans is as wide as any font that browsers use for sans-serif. At size 100, rounding to pixels does not matter.
_REGULAR = ImageFont.truetype(_FONTS / "DejaVuSans.ttf", 100)
_BOLD = ImageFont.truetype(_FONTS / "DejaVuSans-Bold.ttf", 100)


def text_area(element: ET.Element) -> Area:
    size, style = float(element.get("font-size", "")), element.get("class", "")
    lines = [piece.text or "" for piece in element] or [element.text or ""]
    width = max((_REGULAR if "note" in style else _BOLD).getlength(line) for line in lines) / 100 * size
    x, y = float(element.get("x", "")), float(element.get("y", ""))
    left = x if "left" in style else x - width / 2
    return Area(left, y - 0.76 * size, left + width, y + 0.24 * size, lines[0])


def box_area(element: ET.Element, what: str) -> Area:
    get = {name: float(value) for name, value in element.attrib.items() if name not in ("class", "points")}
    if element.tag == f"{NAMESPACE}circle":
        return Area(get["cx"] - get["r"], get["cy"] - get["r"], get["cx"] + get["r"], get["cy"] + get["r"], what)
    if element.tag == f"{NAMESPACE}polygon":
        points = [tuple(map(float, point.split(","))) for point in element.get("points", "").split()]
        (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*points, strict=True))
        return Area(left, top, right, bottom, what)
    return Area(get["x"], get["y"], get["x"] + get["width"], get["y"] + get["height"], what)


def line_areas(element: ET.Element) -> Iterator[Area]:
    """Iterate over the segments of a line, without its arrowhead."""
    points = [tuple(map(float, point.split())) for point in element.get("d", "").split("m")[0][1:].split("L")]
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        assert x1 == x2 or y1 == y2, "lines are horizontal or vertical"
        yield Area(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), element.get("d", ""))


@dataclass
class Picture:
    """All areas of a drawing. `sheets` are the ones behind boxes; `held` are texts with the box around them."""

    view: Area
    boxes: list[Area]
    sheets: list[Area]
    frames: list[Area]
    texts: list[Area]
    held: list[tuple[Area, Area]]
    lines: list[Area]


def picture(root: ET.Element) -> Picture:
    width, height = map(float, root.get("viewBox", "").split()[2:])
    result = Picture(Area(0, 0, width, height, "view"), [], [], [], [], [], [])
    for element in root.iter():
        what = element.get("aria-label", element.tag)
        *sheets, front = [box for box in element if "box" in box.get("class", "")] or [None]
        if front is not None:
            area = box_area(front, what)
            (result.frames if "frame" in front.get("class", "") else result.boxes).append(area)
            result.sheets += [box_area(sheet, what) for sheet in sheets]
            result.held += [(text_area(text), area) for text in element.findall(f"{NAMESPACE}text")]
        result.texts += [text_area(text) for text in element if text.tag == f"{NAMESPACE}text"]
        if element.get("class") != "join":
            result.lines += [area for line in element if line.get("class") == "line" for area in line_areas(line)]
    return result


def check_geometry(root: ET.Element) -> None:
    areas = picture(root)
    for area in [*areas.boxes, *areas.sheets, *areas.frames, *areas.texts, *areas.lines]:
        assert areas.view.holds(area), f"{area} is outside the drawing"
    for one, other in itertools.chain(
        itertools.combinations(areas.boxes, 2),
        itertools.combinations(areas.texts, 2),
        itertools.combinations(areas.frames, 2),
    ):
        assert not one.meets(other), f"{one} and {other} overlap"
    for text, box in areas.held:
        room = Area(box.left + 4, box.top + 1, box.right - 4, box.bottom - 1, box.what)
        assert room.holds(text), f"{text} is clipped by {box}"
    inside = {text for text, _ in areas.held}
    for text, box in itertools.product(areas.texts, [*areas.boxes, *areas.sheets]):
        assert text in inside or not text.meets(box), f"{text} lies over {box}"
    for frame, area in itertools.product(areas.frames, [*areas.boxes, *areas.sheets, *areas.texts]):
        assert frame.holds(area) or not frame.meets(area), f"{area} lies over the edge of {frame}"
    for line in areas.lines:
        for area in [*areas.boxes, *areas.texts]:
            thick = Area(line.left - 0.5, line.top - 0.5, line.right + 0.5, line.bottom + 0.5, line.what)
            assert not thick.meets(area, slack=0.8), f"the line {line} runs through {area}"


@over_networks
def test_nothing_overlaps_is_clipped_or_lies_outside(network: Network) -> None:
    check_geometry(parse(network))


def test_a_network_outside_the_catalog_is_drawn(firenet: Network) -> None:
    root = parse(firenet)
    check_geometry(root)
    (detail,) = [element for element in root.iter() if "data-detail" in element.attrib]
    joins = [join.get("aria-label", "") for join in detail.iter() if join.get("class") == "join"]
    assert joins == ["concatenated: 8 x 28 x 28", "added: 8 x 28 x 28", "added: 8 x 28 x 28"]
    assert [text.text for text in detail.iter(f"{NAMESPACE}text")].count("identity") == 2


def test_the_geometry_check_finds_misplaced_text() -> None:
    for attribute, value, message in [("x", "9999", "outside|clipped"), ("font-size", "30", "overlap|clipped|over")]:
        root = parse(catalog.get("resnet18"))
        text = next(element for element in root.iter(f"{NAMESPACE}text") if element.text == "conv1")
        text.set(attribute, value)
        with pytest.raises(AssertionError, match=message):
            check_geometry(root)


@over_networks
def test_text_is_large_enough_and_within_its_estimated_width(network: Network) -> None:
    for element in parse(network).iter(f"{NAMESPACE}text"):
        assert float(element.get("font-size", "")) >= 11
        area, style = text_area(element), element.get("class", "").removesuffix(" left")
        assert area.right - area.left <= svg.text_width(area.what, style)


# Colors


def linear(color: str) -> np.ndarray:
    """Convert sRGB to linear red, green and blue."""
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
SIGHT = {
    "usual": np.eye(3),
    # Machado, Oliveira and Fernandes, 2009, table 1, severity 1.
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(color: str, sight: str) -> np.ndarray:
    """Convert to CIE L*a*b*, where a distance of about 2 is just noticeable."""
    xyz = TO_XYZ @ np.clip(np.asarray(SIGHT[sight]) @ linear(color), 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def luminance(color: str) -> float:
    """Return the relative luminance of WCAG 2, 1.4.3."""
    return float(TO_XYZ[1] @ linear(color))


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


over_schemes = pytest.mark.parametrize("colors", [diagram.LIGHT, diagram.DARK], ids=["light", "dark"])


@over_schemes
def test_text_and_marks_have_enough_contrast(colors: dict[str, str]) -> None:
    for name, color in colors.items():
        if name not in ("ink", "mark"):
            assert contrast(colors["ink"], color) >= 4.5, name
    assert contrast(colors["mark"], colors["paper"]) >= 3


@over_schemes
@pytest.mark.parametrize("sight", SIGHT)
def test_colors_of_layer_kinds_differ_with_color_blindness(colors: dict[str, str], sight: str) -> None:
    for one, other in itertools.combinations(["conv", "pool", "norm", "dense"], 2):
        assert np.linalg.norm(lab(colors[one], sight) - lab(colors[other], sight)) >= 15, (one, other)


def test_css_variables_set_every_color_and_the_layout() -> None:
    for name, color in (*diagram.LIGHT.items(), *diagram.DARK.items()):
        assert f"var(--{name}, {color})" in diagram.STYLE
        assert f"var(--_{name})" in diagram.STYLE
    assert "[data-layout=nhwc] .nchw { display: none; }" in diagram.STYLE
