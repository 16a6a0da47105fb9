"""Tests of the source comparison: every part is found and aligned, and `rosetta show` prints it."""

from __future__ import annotations

import ast
import html
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support import FACTS, ROOT

from common import catalog, reference, weights
from common.backends.registry import BACKENDS
from common.errors import ConfigError
from common.view.side_by_side import ast_source
from common.view.side_by_side.lookup import FILES, find, of_file
from common.view.side_by_side.model import Section, View
from common.view.side_by_side.names import ABSENT, FRAMEWORKS_OWN
from common.view.side_by_side.render import print_view
from common.view.summary import rows

NETWORKS = [*catalog.NETWORKS, *(name for name in catalog.FAMILIES if name not in catalog.NETWORKS)]
FUNCTIONS = {"nnx.relu", "nnx.sigmoid", "reshape"}
"""Functions that JAX calls where the other frameworks have a layer. A model has no attribute for them."""


def test_every_tap_can_be_shown_in_every_implementation() -> None:
    for name in NETWORKS:
        for tap in reference.describe(catalog.get(name)).taps:
            path = "" if tap == "logits" else tap
            first = find(f"{name}.{path}" if path else name).sections[0]
            assert set(first.names) == set(BACKENDS), f"{name}.{tap}"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_part_is_created_and_called_in_every_implementation(name: str) -> None:
    view = find(name)
    assert {part.path for part in view.parts} == {call.path for call in reference.describe(catalog.get(name)).calls}
    for part in view.parts[1:]:
        attribute = part.path.rpartition(".")[2]
        called = re.sub(r"\d", "", attribute)
        for backend in BACKENDS:
            kind = part.kinds.get(backend)
            assert kind, f"{part.path} is not found in {backend}"
            function = backend == "jax" and kind in FUNCTIONS
            assert bool(part.created.get(backend)) != function, f"{part.path} in {backend}"
            made = "".join(snippet.source for snippet in part.created[backend])
            assert function or re.search(rf"\b(self\.)?{called}(s|\d|\{{\w}})?\b", made), f"{part.path}: {made}"
            for snippet in part.called[backend]:
                written = "reshape" if kind == "reshape" else called
                ran = re.search(rf"\b{written}(s|\d|\{{\w}})?\b|self\.children", snippet.source)
                assert ran, f"{part.path} in {backend}: {snippet.source}"
        # Only a sequential container calls its parts without a statement for each.
        parent = next(s for s in view.sections if s.title == view.part(part.path.rpartition(".")[0]).section)
        passes = {backend for row in parent.rows if row.key == "forward" for backend in row.cells}
        assert passes >= {"jax", "tf"}
        assert {backend for backend in BACKENDS if part.called[backend]} == passes, part.path


@pytest.mark.parametrize("name", [*NETWORKS, *FILES])
def test_snippets_are_lines_of_the_files(name: str) -> None:
    view = find(name)
    snippets = [s for section in view.sections for backend in BACKENDS for s in section.snippets(backend)]
    snippets += [s for part in view.parts for of in (part.created, part.called) for own in of.values() for s in own]
    assert len(snippets) > 20
    for snippet in snippets:
        lines = (ROOT / snippet.path).read_text().splitlines()[snippet.first_line - 1 : snippet.last_line]
        assert lines == snippet.source.split("\n"), f"{snippet.path}:{snippet.first_line}"


@pytest.mark.parametrize("name", [*NETWORKS, *FILES])
def test_a_column_has_complete_classes_and_functions_in_order(name: str) -> None:
    for section in find(name).sections[0 if name in FILES else 1 :]:
        for backend in section.names:
            seen: dict[str, list[int]] = {}
            for snippet in section.snippets(backend):
                seen.setdefault(snippet.path, []).extend(range(snippet.first_line, snippet.last_line + 1))
            for path, numbers in seen.items():
                assert numbers == sorted(set(numbers)), f"{section.title} in {path}"
            whole = {
                line for path in seen for each in section.names[backend].split(", ") for line in lines_of(path, each)
            }
            shown = {(path, number) for path, numbers in seen.items() for number in numbers}
            assert whole, f"{section.title} in {backend}"
            assert whole <= shown, f"{section.title} in {backend} lacks {sorted(whole - shown)}"


def lines_of(path: str, name: str) -> set[tuple[str, int]]:
    """Return the lines of a class, a function or a constant by its name."""
    for statement in ast.parse((ROOT / path).read_text()).body:
        targets = [*getattr(statement, "targets", ()), getattr(statement, "target", None)]
        names = {getattr(statement, "name", None), *(getattr(target, "id", None) for target in targets)}
        if name in names:
            return {(path, line) for line in range(statement.lineno, statement.end_lineno + 1)}
    return set()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_class_of_a_network_has_its_counterparts(name: str) -> None:
    classes = [section for section in find(name).sections if section.paths]
    assert classes
    for section in classes:
        assert set(section.names) == set(BACKENDS), f"{section.title}: {dict(section.names)}"


@pytest.mark.parametrize("name", NETWORKS)
def test_statements_that_create_an_attribute_are_in_one_row(name: str) -> None:
    view = find(name)
    rows = [row for section in view.sections for row in section.rows if row.parts]
    for row in rows:
        parts = [view.part(path) for path in row.parts]
        expected = {b for b in BACKENDS if not all(b == "jax" and part.kinds[b] in FUNCTIONS for part in parts)}
        assert set(row.cells) == expected, f"{row.key}: {set(row.cells)}"
        for snippet in row.cells.values():
            for part in parts:
                if snippet.backend == "jax" and part.kinds["jax"] in FUNCTIONS:
                    continue
                stem = re.sub(r"\d", "", part.path.rpartition(".")[2])
                assert re.search(rf"\b{stem}", snippet.source), f"{snippet.path}:{snippet.first_line}: {part.path}"
    # Every part is in a row, its own or that of another instance of the class.
    shown, there = (
        {re.sub(r"\d", "", path.rpartition(".")[2]) for path in paths}
        for paths in ([path for row in rows for path in row.parts], [part.path for part in view.parts[1:]])
    )
    assert shown == there


def test_steps_of_the_forward_pass_are_aligned_by_the_attributes_that_all_call() -> None:
    def steps(query: str) -> list[tuple[str, set[str]]]:
        rows = [row for section in find(query).sections[1:] for row in section.rows if row.key.startswith("forward: ")]
        return [(row.key.removeprefix("forward: "), set(row.cells)) for row in rows]

    both = {"jax", "tf"}
    # JAX flattens inside the next step.
    assert steps("lenet") == [
        *(("pool1", both), ("pool2", both), ("flatten", {"tf"})),
        *(("fc1", both), ("fc2", both), ("fc3", both)),
    ]
    assert steps("resnet18.stage1.block1") == [(name, set(BACKENDS)) for name in ("bn1", "bn2", "shortcut")]
    # torch's dense block is a container, which has no forward pass of its own.
    written = set(BACKENDS) - {"torch"}
    assert steps("densenet.stage1")[:2] == [("block{}", written), ("return", written)]


@pytest.mark.parametrize("name", FILES)
def test_a_part_of_a_file_is_in_every_implementation_or_has_a_reason(name: str) -> None:
    absent = set()
    for section in of_file(name).sections:
        assert set(section.absent) == set(BACKENDS) - set(section.names), f"{section.title}: {dict(section.names)}"
        absent |= {(section.title, backend) for backend in section.absent}
    assert absent == {key for key in ABSENT if key[0].startswith(f"{name}.")}


def test_every_public_name_of_a_file_is_shown() -> None:
    for name in FILES:
        for backend in BACKENDS:
            if ast_source.exists(backend, name):
                shown = {each for s in of_file(name).sections for each in s.names.get(backend, "").split(", ")}
                tree = ast.parse((ROOT / ast_source.file(backend, name).path).read_text())
                public = set(ast_source.file(backend, name).public)
                defined = {each.name for each in tree.body if isinstance(each, ast.ClassDef | ast.FunctionDef)}
                assert public & defined <= shown, backend


def test_models_use_the_frameworks_own_layers_that_the_table_lists() -> None:
    used: dict[str, dict[str, set[str]]] = {}
    for name in NETWORKS:
        for part in find(name).parts:
            layer = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", part.kind.removesuffix("1d").removesuffix("2d")).lower()
            for backend, kind in part.kinds.items():
                used.setdefault(layer, {}).setdefault(backend, set()).add(kind)
    for layer, names in FRAMEWORKS_OWN.items():
        for backend, own in names.items():
            assert used[layer][backend] == {own}, f"{layer} in {backend}"


@pytest.mark.parametrize("name", FACTS)
def test_shapes_match_the_facts_in_each_layout(name: str) -> None:
    view, description = find(name), reference.describe(catalog.get(name))
    summary = rows(description.calls, description, "Sequential")
    assert len(summary) == len(FACTS[name]["summary"])
    for row, (_, shape) in zip(summary, FACTS[name]["summary"], strict=True):
        part = view.part(row.path)
        last = [shape[0], *shape[2:], shape[1]] if len(shape) == 4 else shape
        for backend in BACKENDS:
            assert list(part.shape_in(backend)) == (last if backend in ("jax", "tf") else shape), row.path


def test_a_name_pattern_matches_only_its_own_attributes() -> None:
    network = ast_source.root("torch", "resnet")
    assert network.place("stage12").kind == "ResNetStage"
    assert network.place("stages1") is None
    assert network.place("stage") is None
    stage = network.place("stage1").definition
    first, tenth = stage.place("block1"), stage.place("block10")
    assert first.making.name == "block1"
    assert tenth.making.name == "block{}"
    assert stage.place("conv1") is None


def test_elements_of_a_list_are_found_by_the_singular_of_its_name() -> None:
    source = """
class Net:
    def __init__(self):
        self.stages = nnx.List([First(), *(Stage(i) for i in range(3))])
        self.transitions = []
        for i in range(3):
            self.transitions.append(Transition(i))
        self.blocks = nn.Sequential(*[Block(i) for i in range(2)])
        self.heads = make_heads()

    def __call__(self, x):
        for stage, transition in zip(self.stages, self.transitions):
            x = transition(stage(x))
        for i, block in enumerate(self.blocks):
            x = nnx.relu(block(x))
        return self.heads(self.blocks(self.stages[0](x)))
"""
    network = ast_source.Definition(ast_source.file("torch", "resnet"), "Net", tuple(ast.parse(source).body))
    lines = source.splitlines()

    def created_and_called(name: str) -> tuple[str, list[str]] | None:
        place = network.place(name)
        return place and (place.kind, [lines[run.statement.lineno - 1].strip() for run in place.runs])

    loop, last = "x = transition(stage(x))", "return self.heads(self.blocks(self.stages[0](x)))"
    assert created_and_called("stage1") == ("First", [loop, last])
    assert created_and_called("stage2") == ("Stage", [loop])
    assert created_and_called("transition3") == ("Transition", [loop])
    assert created_and_called("block1") == ("Block", ["x = nnx.relu(block(x))", last])
    assert created_and_called("heads") == ("make_heads", [last])
    assert created_and_called("relu1") == ("nnx.relu", ["x = nnx.relu(block(x))"])
    assert created_and_called("head1") is None
    assert created_and_called("blocks") is None


def test_a_function_is_found_where_it_is_called() -> None:
    block = ast_source.root("jax", "resnext").place("stage1").definition.place("block1").definition
    lines = [
        ast_source.file("jax", "resnext").lines[block.place(f"relu{i}").runs[0].statement.lineno - 1] for i in (1, 2, 3)
    ]
    assert [re.search(r"conv\d|shortcut", line).group() for line in lines] == ["conv1", "conv2", "shortcut"]
    assert block.place("relu4") is None
    assert block.place("sigmoid1") is None


def test_batch_normalization_from_scratch_is_shown_from_its_own_file() -> None:
    layer, scratch = find("bn_lenet").part("bn3"), find("bn_lenet_scratch").part("bn3")
    assert {b: layer.kinds[b].rpartition(".")[2] for b in BACKENDS} == {
        "numpy": "BatchNorm1d",
        "torch": "BatchNorm1d",
        "jax": "BatchNorm",
        "tf": "BatchNormalization",
        "mxnet": "BatchNorm",
    }
    section = next(s for s in find("bn_lenet_scratch").sections if s.title == scratch.section)
    files = {backend: {Path(s.path).name for s in section.snippets(backend)} for backend in BACKENDS}
    assert files == {b: {"layers.py" if b == "numpy" else "batch_norm.py"} for b in BACKENDS}
    titles = [section.title for section in find("bn_lenet_scratch").sections]
    # MXNet's operator is found by the string that it is registered under.
    assert {"batch_norm", "_ChooseStatistics"} <= set(titles)
    assert "_ChooseStatistics" not in [section.title for section in find("bn_lenet").sections]


def test_a_training_step_is_shown_with_its_helpers() -> None:
    view = find("training.step")
    assert view == find("training.train_step")
    called = {s.title: set(s.names) for s in view.sections}
    assert called["training.train_step"] == set(BACKENDS) - {"numpy"}
    assert called["_loss"] == {"jax", "tf"}
    assert called["_cross_entropy"] == {"mxnet"}
    assert called["clip_gradients"] == {"torch", "tf", "mxnet"}
    jax = next(view.sections[0].snippets("jax")).source
    assert jax.startswith("# A step reuses the memory")
    assert "@functools.partial(jax.jit" in jax
    mxnet = next(next(s for s in view.sections if s.title == "_cross_entropy").snippets("mxnet")).source
    assert mxnet.endswith("_cross_entropy.hybridize()")


@pytest.mark.parametrize("query", ["layers.batch_norm", "layers.BatchNorm2d", "layers.BatchNormalization"])
def test_a_layer_is_found_by_any_of_its_names(query: str) -> None:
    assert find(query).sections[0].names["tf"] == "BatchNormalization"


def test_a_part_is_shown_with_its_own_classes_only() -> None:
    view = find("regnetx32.stage1")
    assert [section.title for section in view.sections] == [
        "regnetx32.stage1",
        "ResNeXtStage",
        "ResNeXtBlock",
        "NormedProjection",
    ]
    assert all(part.path.startswith("stage1") for part in view.parts)
    assert all(path.startswith("stage1") for section in view.sections for path in section.paths)
    view = find("googlenet.stage1.block1.branch3")
    assert [section.title for section in view.sections[1:]] == ["Branch"]
    assert view.part("stage1.block1.branch3.conv2").shape_in("tf") == (1, 12, 12, 32)
    assert [section.title for section in find("lenet.conv1").sections[:2]] == ["lenet.conv1", "layers.conv"]


def test_an_unknown_part_is_an_error_with_the_known_names() -> None:
    with pytest.raises(
        ConfigError, match=r"no part of densenet\.stage1 'q'; choose from block1, block2, block3, block4$"
    ):
        find("densenet.stage1.q.conv")
    with pytest.raises(ConfigError, match=r"no part of densenet 'stag1'; did you mean stage1"):
        find("densenet.stag1.block1")
    with pytest.raises(ConfigError, match=r"lenet\.conv1 is one layer and has no part 'weight'"):
        find("lenet.conv1.weight")


# --- terminal output --------------------------------------------------------------------------------------------------


def printed(view: View, width: int | None, backends: tuple[str, ...] = tuple(BACKENDS), terminal: bool = False) -> str:
    out = io.StringIO()
    color = {"force_terminal": True, "color_system": "standard"} if terminal else {}
    print_view(view, backends, Console(file=out, width=width or 300, highlight=False, markup=False, **color), width)
    return out.getvalue()


def heads(text: str) -> list[list[str]]:
    """Return the implementations named in each heading line above the code."""
    found = []
    for line in text.splitlines():
        names = [cell.split()[0] for cell in line.split(" │ ") if re.match(r"\w+ +[\w/]+\.py\b", cell)]
        found += [names] if names else []
    return found


@pytest.mark.parametrize(("width", "columns"), [(60, 1), (80, 1), (140, 2), (220, 3), (270, 4), (340, 5)])
def test_as_many_columns_as_fit_are_side_by_side(width: int, columns: int) -> None:
    for query in ("resnet18", "layers.batch_norm", "layers.linear", "training.step"):
        text = printed(find(query), width)
        assert max(map(len, text.splitlines())) <= width
    assert max(map(len, heads(printed(find("resnet18"), width)))) == columns
    assert [name for line in heads(printed(find("lenet"), width)) for name in line] == list(BACKENDS)


def test_columns_of_short_code_are_narrow() -> None:
    assert heads(printed(find("lenet.fc2"), 140, ("tf", "torch", "mxnet")))[0] == ["tf", "torch", "mxnet"]


def code(text: str, column: int = 0) -> str:
    """Return the code in a column, without line numbers and whitespace."""
    cells = [line.split("│")[column] for line in text.splitlines() if not line.startswith("── ") and "│" in line]
    return "".join("".join(re.sub(r"→ \(.*$", "", re.sub(r"^ *\d+ ?", "", cell)).split()) for cell in cells)


def test_wrapped_lines_are_complete() -> None:
    section: Section = find("resnet18.stage2.block1").sections[1]
    text = printed(View("x", (section,), find("resnet18.stage2.block1").parts), 131, ("torch", "jax"))
    for i, backend in enumerate(("torch", "jax")):
        expected = "".join("".join(snippet.source.split()) for snippet in section.snippets(backend))
        assert code(text, i).partition("(1,")[2].partition(")")[2] == expected


def test_lines_have_their_number_and_shape(rosetta) -> None:
    lines = rosetta("show", "lenet", "--backends", "jax,torch").stdout.splitlines()
    made = [line for line in lines if "self.conv1 = " in line]
    files = {"jax": "(1, 28, 28, 6)", "torch": "(1, 6, 28, 28)"}
    for line, (backend, shape) in zip(made, files.items(), strict=True):
        number, rest = line.split(maxsplit=1)
        own = (ROOT / f"{backend}_impl/lenet.py").read_text().splitlines()[int(number) - 1].strip()
        assert rest == f"{own}  → {shape}"


def test_equal_blocks_share_one_line_of_shape(rosetta) -> None:
    config = '{"arch": [[4, 16], [2, 8]], "in_channels": 3}'
    text = rosetta("show", "resnet.stage1", "--backends", "tf", "--config", config).stdout
    assert "block2-block4 → (1, 24, 24, 16)" in text
    assert "stage2" not in text


def test_only_a_terminal_gets_colors(rosetta) -> None:
    result = rosetta("show", "lenet")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert all(len(line) == 1 for line in heads(result.stdout))
    assert heads(rosetta("show", "lenet", COLUMNS="140").stdout)[0] == ["numpy", "torch"]
    assert "\x1b[" in printed(find("lenet"), 80, terminal=True)
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed(find("lenet"), 140, terminal=True))
    assert plain == printed(find("lenet"), 140)


@pytest.mark.parametrize("name", FILES)
def test_a_file_starts_with_a_list_of_its_parts(rosetta, name: str) -> None:
    lines = rosetta("show", name).stdout.splitlines()
    titles = [line.split()[0] for line in lines[2 : lines.index("")]]
    assert titles == [line.split()[1] for line in lines if line.startswith("── ")]
    assert titles == [section.title for section in of_file(name).sections]


def test_the_examples_of_the_help_work(rosetta) -> None:
    examples = re.findall(r"^ +(rosetta show .+)$", rosetta("show", "--help").stdout, re.MULTILINE)
    assert len(examples) == 7
    for example in examples:
        result = rosetta(*shlex.split(example)[1:])
        assert (result.returncode, result.stderr) == (0, ""), example
        assert result.stdout.startswith(shlex.split(example)[2].replace("training.step", "training.train_step"))


def test_the_picture_of_the_readme_shows_what_is_printed() -> None:
    assert "docs/show.svg" in (ROOT / "README.md").read_text()
    picture = (ROOT / "docs" / "show.svg").read_text(encoding="utf-8")
    shown = html.unescape("".join(re.findall(r"<text [^>]*>(.*?)</text>", picture)))
    text = printed(find("densenet.transition1"), 158, ("torch", "jax"))
    command = "python benchmarks/show_picture.py densenet.transition1 -o docs/show.svg"
    assert "".join(text.split()) in "".join(shown.split()), f"docs/show.svg is out of date: run {command}"


def test_show_imports_no_framework_and_no_plotting_library() -> None:
    code = "import sys\nfrom common.cli.main import main\nmain(['show', 'lenet'])\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.splitlines()[-1].split()}
    assert not loaded & {"torch", "jax", "flax", "tensorflow", "keras", "mxnet"}
    assert not loaded & {"matplotlib", "jinja2", "requests", "PIL", "pygments"}


# --- comparison with the models ---------------------------------------------------------------------------------------

SMALL = {
    "lenet": {},
    "alexnet": {"input_size": [67, 99]},
    "vgg": {"arch": [[1, 8], [2, 16]], "input_size": [13, 18]},
    "nin": {"input_size": [83, 99]},
    "googlenet": {},
    "bn_lenet": {},
    "bn_lenet_scratch": {},
    "resnet": {"arch": [[2, 8], [1, 16]]},
    "resnext": {"arch": [[2, 8, 4, 1.0], [1, 16, 8, 0.5]]},
    "densenet": {"arch": [2, 1], "growth_rate": 4, "num_channels": 8},
    "anynet": {},
}


@pytest.mark.port
@pytest.mark.parametrize("name", SMALL)
def test_attributes_found_in_the_source_match_the_model(backend, backend_name: str, name: str) -> None:
    network = catalog.get(name, **SMALL[name])
    model = backend.build(network, "float32")
    backend.load(model, weights.initialize(network))  # without weights a model of Gluon has no shapes
    calls = {call.path: call for call in backend.summary(model) if call.path and call.own}
    found = {part.path: part for part in find(name, **SMALL[name]).parts}
    # A block without a projection may have an Identity shortcut, which the reference does not have.
    identities = {path for path, call in calls.items() if call.own == "Identity"}
    made = {path for path, part in found.items() if path and part.created[backend_name]}
    assert found[""].kinds[backend_name] == type(model).__name__
    assert made == set(calls) - identities
    for path in made:
        assert found[path].kinds[backend_name].rpartition(".")[2] == calls[path].own, path
        assert list(found[path].shape_in(backend_name)) == list(calls[path].shape), path
