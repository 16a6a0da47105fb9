"""The same part in every implementation: found from the code, aligned, with the shapes that the reference knows.

A `View` is what there is to show of a network, of a part of one, or of one of the files layers, operators and training.
Its sections hold source, row by row: the lines of a row correspond in all implementations. Its parts are the network's
modules by path, each with its shape and with the lines that make and run it in each implementation.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from common import catalog, reference
from common.backends import BACKENDS
from common.catalog import Network
from common.errors import ConfigError, unknown
from common.view.source import METHODS, Definition, File, Making, Place, Run, exists, file, root

__all__ = [
    "ABSENT",
    "CHANNELS_LAST",
    "FILES",
    "FRAMEWORKS_OWN",
    "Part",
    "Row",
    "Section",
    "Snippet",
    "View",
    "find",
    "in_layout",
    "of_file",
    "of_network",
]

CHANNELS_LAST = ("jax", "tf")
"""The implementations whose images are (N, H, W, C); in the others they are (N, C, H, W)."""

FILES = ("layers", "operators", "training")
"""The files, beside the networks, whose parts can be shown."""

_SHORT_NAMES = {"training.step": "train_step"}

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "moving_mean": "running_mean",
    "var": "running_var",
    "moving_variance": "running_var",
}
"""What Flax and Keras call the weights that a layer makes."""

FRAMEWORKS_OWN = {
    "conv": {"torch": "nn.Conv2d", "mxnet": "nn.Conv2D"},
    "max_pool": {"torch": "nn.MaxPool2d", "mxnet": "nn.MaxPool2D"},
    "avg_pool": {"torch": "nn.AvgPool2d", "tf": "keras.layers.AveragePooling2D", "mxnet": "nn.AvgPool2D"},
    "global_avg_pool": {"torch": "nn.AdaptiveAvgPool2d", "mxnet": "nn.GlobalAvgPool2D"},
    "linear": {"torch": "nn.Linear", "jax": "nnx.Linear", "tf": "keras.layers.Dense", "mxnet": "nn.Dense"},
    "flatten": {"torch": "nn.Flatten", "tf": "keras.layers.Flatten", "mxnet": "nn.Flatten"},
    "relu": {"torch": "nn.ReLU", "tf": "keras.layers.ReLU", "mxnet": "nn.Activation"},
    "sigmoid": {"torch": "nn.Sigmoid", "tf": "keras.layers.Activation", "mxnet": "nn.Activation"},
    "dropout": {"torch": "nn.Dropout", "jax": "nnx.Dropout", "tf": "keras.layers.Dropout", "mxnet": "nn.Dropout"},
}
"""Layers that a framework has in the suite's sense, so that its port needs none of its own."""

_PORTS = tuple(name for name in BACKENDS if name != "numpy")
_NO_TRAINING = "the reference runs forward only; what its ports train by is defined in common/training/optimizers.py"
_OWN_MODULES = "the framework brings its own"


def _all_but(*having: str) -> tuple[str, ...]:
    return tuple(name for name in BACKENDS if name not in having)


ABSENT: Mapping[tuple[str, str], str] = {
    **{
        (f"layers.{layer}", backend): f"{own} already means it, and models use it as it is"
        for layer, names in FRAMEWORKS_OWN.items()
        for backend, own in names.items()
    },
    **{
        (part, backend): reason
        for part, backends, reason in (
            ("layers.module", _PORTS, _OWN_MODULES),
            ("layers.sequential", _PORTS, _OWN_MODULES),
            ("layers.layer", _PORTS, _OWN_MODULES),
            ("layers.shape", _PORTS, "only the reference is run on a shape in place of an array"),
            ("layers.output_size", _PORTS, "the framework computes it"),
            ("layers.add", _PORTS, "arrays are added with +; the reference's may be shapes"),
            ("layers.concatenate", _PORTS, "the framework has a function for it; the reference joins shapes too"),
            ("layers.image_size", ("numpy",), "a network there is run on a shape to learn its features"),
            ("layers.image_size", ("tf", "mxnet"), "the framework learns a layer's input size from its first input"),
            ("layers.block", _all_but("tf"), "only Keras runs the forward pass to build a layer made of layers"),
            ("layers.dtype_policy", _all_but("tf"), "a model is made in, or cast to, the dtype that is asked for"),
            ("layers.undefined_kernels", _all_but("tf"), "no time is lost there on numbers that loading replaces"),
            ("layers.exact_statistics", _all_but("mxnet"), "the momentum keeps the precision of its statistics"),
            *(
                (f"training.{name}", ("numpy",), _NO_TRAINING)
                for name in (
                    "Trainer",
                    "clip_gradients",
                    "gradients",
                    "make_optimizer",
                    "train_step",
                )
            ),
        )
        for backend in backends
    },
}
"""Why an implementation has no source of its own for a part of a file, where it has none."""


def in_layout(shape: Sequence[int], backend: str) -> tuple[int, ...]:
    """(N, C, H, W) -> the same in the backend's layout; a shape of any other rank has no image and stays."""
    if backend in CHANNELS_LAST and len(shape) == 4:
        batch, channels, height, width = shape
        return (batch, height, width, channels)
    return tuple(shape)


@dataclass(frozen=True)
class Snippet:
    """Consecutive lines of a file, as they stand there; `path` is relative to the project."""

    backend: str
    path: str
    first_line: int
    source: str

    @property
    def last_line(self) -> int:
        return self.first_line + self.source.count("\n")


@dataclass(frozen=True)
class Row:
    """Lines that correspond, by implementation; one that has none may have a note of what takes their place.

    `key` says what they do: a method's name, or that of what they make, with {} for a number. `parts` are the paths of
    the parts that they make: those in the first of the section's paths that has any.
    """

    key: str
    cells: Mapping[str, Snippet]
    parts: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A class, a function or a constant in every implementation.

    `names` are its names there. `paths`: which parts of the network are instances of it. `absent`: why an
    implementation has none.
    """

    title: str
    names: Mapping[str, str]
    rows: tuple[Row, ...]
    paths: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)

    def snippets(self, backend: str) -> Iterator[Snippet]:
        """Iterate over one implementation's lines."""
        for row in self.rows:
            if backend in row.cells:
                yield row.cells[backend]


@dataclass(frozen=True)
class Part:
    """A module of a network: its path ("" for the network), the reference's class, its output's shape for one image.

    `kinds`: what each implementation makes it of, as it writes it. `made` and `run`: the statements of its parent that
    make it and that run it; none are there where a sequential parent runs all in order, and where it is a function, and
    not made. `section`: the title of the section that defines it, "" for a layer.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    kinds: Mapping[str, str]
    made: Mapping[str, tuple[Snippet, ...]]
    run: Mapping[str, tuple[Snippet, ...]]
    section: str = ""

    def shape_in(self, backend: str) -> tuple[int, ...]:
        """Return the output's shape in the backend's layout."""
        return in_layout(self.shape, backend)


@dataclass(frozen=True)
class View:
    """What there is to show: sections of source and, of a network, its parts in network order.

    The first section of a network holds the docstrings of its files; of a part, the statements that make and run it.
    """

    title: str
    sections: tuple[Section, ...]
    parts: tuple[Part, ...] = ()

    def part(self, path: str) -> Part | None:
        """Return the part at a path."""
        return next((part for part in self.parts if part.path == path), None)


def find(query: str, **config: object) -> View:
    """Return what `NETWORK[.PART]`, or `layers`, `operators` or `training` with or without a part, stands for.

    `config` overrides the network's configuration. Raises ConfigError, naming the nearest, for what does not exist.
    """
    name, _, part = query.partition(".")
    if name in FILES:
        if config:
            raise ConfigError(f"{name} is a file and has no settings; a configuration goes with a network")
        return of_file(name, part)
    known = {**catalog.FAMILIES, **catalog.NETWORKS}
    if name not in known:
        raise unknown("network or file", name, [*known, *FILES])
    return of_network(catalog.get(name, **config), part)


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Group:
    """Classes that stand at the same paths in the five implementations, and so correspond."""

    definitions: dict[str, list[Definition]]
    paths: list[str]

    @property
    def title(self) -> str:
        """The class's name: the one that most implementations have, the earlier of equals."""
        names = [own[0].name for own in self.definitions.values() if own]
        return max(names, key=names.count)


@dataclass(frozen=True, eq=False)
class _Anatomy:
    """All parts of a network by path, in network order; where each stands in its parent; the classes they are of."""

    roots: dict[str, Definition]
    parts: dict[str, Part]
    places: dict[str, dict[str, Place]]
    groups: list[_Group]


def of_network(network: Network, path: str = "") -> View:
    """Return the view of a network, or of the part at `path`.

    Raises ConfigError, naming the nearest, where there is no such part.
    """
    whole = _anatomy(network)
    if path not in whole.parts:
        raise _no_part(network, path, list(whole.parts))
    sections = [_statements(network, path, whole.places[path]) if path else _docstrings(network, whole.roots)]
    alone = {each for group in whole.groups for own in group.definitions.values() for each in own}
    for group in whole.groups:
        within = [each for each in group.paths if _is_within(each, path)]
        if within:
            sections += _sections(group.title, group.definitions, alone | _classes_of("layers"), within, whole.parts)
    layer = _display("layers", whole.parts[path].kind)
    if not whole.parts[path].section and layer in _file_parts("layers"):
        sections += of_file("layers", layer).sections
    title = f"{network.name}.{path}" if path else network.name
    return View(title, tuple(sections), tuple(part for each, part in whole.parts.items() if _is_within(each, path)))


@functools.lru_cache(maxsize=64)
def _anatomy(network: Network) -> _Anatomy:
    """Follow every path of a network through the code of every implementation."""
    calls = {call.path: call for call in reference.describe(network).calls}
    paths = ["", *_in_network_order("", [path for path in calls if path])]
    roots = {name: root(name, network.family) for name in BACKENDS}
    places: dict[str, dict[str, Place]] = {"": {}}
    classes: dict[str, dict[str, Definition]] = {"": roots}
    for path in paths[1:]:
        parent, _, attribute = path.rpartition(".")
        found = {name: owner.place(attribute) for name, owner in classes[parent].items() if owner.is_class}
        places[path] = {name: place for name, place in found.items() if place is not None}
        classes[path] = {name: place.definition for name, place in places[path].items() if place.definition}
    groups = _groups(paths, classes)
    titles = {path: group.title for group in groups for path in group.paths}
    kinds = {path: {name: place.kind for name, place in places[path].items()} for path in paths[1:]}
    kinds[""] = {name: definition.name for name, definition in roots.items()}
    parts = {
        path: Part(
            path,
            calls[path].own,
            calls[path].shape,
            kinds[path],
            {name: tuple(_made(place)) for name, place in places[path].items()},
            {name: tuple(_run(place)) for name, place in places[path].items()},
            titles.get(path, ""),
        )
        for path in paths
    }
    return _Anatomy(roots, parts, places, groups)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _is_within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def _in_network_order(parent: str, paths: Sequence[str]) -> Iterator[str]:
    """Iterate over the paths below a parent, each before its own parts; those given may begin with the parts."""
    depth = len(parent) + 1 if parent else 0
    below = [path for path in paths if _is_within(path, parent) and path != parent]
    for name in dict.fromkeys(path[depth:].partition(".")[0] for path in below):
        path = f"{parent}.{name}" if parent else name
        yield path
        yield from _in_network_order(path, below)


def _no_part(network: Network, path: str, paths: Sequence[str]) -> ConfigError:
    """Return the error that names the first step of a path which leads nowhere, and the nearest that do not."""
    around, missing = "", path
    for step in path.split("."):
        missing = f"{around}.{step}".lstrip(".")
        if missing not in paths:
            break
        around = missing
    whole = f"{network.name}.{around}".rstrip(".")
    inner = [each.rpartition(".")[2] for each in paths if each and _parent(each) == around]
    if not inner:
        return ConfigError(f"{whole} is one layer and has no part '{missing.rpartition('.')[2]}'")
    return unknown(f"part of {whole}", missing.rpartition(".")[2], inner)


def _groups(paths: Iterable[str], classes: Mapping[str, Mapping[str, Definition]]) -> list[_Group]:
    """Return the classes that model files define, those at the same paths together, in network order."""
    groups: list[_Group] = []
    of: dict[Definition, _Group] = {}
    for path in paths:
        found = classes[path]
        if all(definition.file.name == "layers" for definition in found.values()):
            continue
        group = next((of[definition] for definition in found.values() if definition in of), None)
        if group is None:
            group = _Group({name: [] for name in BACKENDS}, [])
            groups.append(group)
        group.paths.append(path)
        for name, definition in found.items():
            of[definition] = group
            if definition not in group.definitions[name]:
                group.definitions[name].append(definition)
    return groups


def _made(place: Place) -> Iterator[Snippet]:
    for statement in place.making.statements if place.making else ():
        yield _snippet(place.owner.file, statement.lineno, _end(statement))


def _run(place: Place) -> Iterator[Snippet]:
    for statement in dict.fromkeys(run.statement for run in place.runs):
        yield _snippet(place.runner.file, statement.lineno, _end(statement))


def _docstrings(network: Network, classes: Mapping[str, Definition]) -> Section:
    cells = {}
    for name, definition in classes.items():
        first = definition.file.tree.body[0]
        cells[name] = _snippet(definition.file, first.lineno, _end(first))
    return Section(network.name, {name: cell.path for name, cell in cells.items()}, (Row("docstring", cells),))


def _statements(network: Network, path: str, places: Mapping[str, Place]) -> Section:
    """Return the statements that make a part and those that run it, with the loops that they are in."""
    rows: list[Row] = []
    made = {
        name: _snippet(place.owner.file, place.making.enclosing.lineno, _end(place.making.enclosing))
        for name, place in places.items()
        if place.making
    }
    notes = {
        name: f"{place.kind} is a function, called where it is needed"
        for name, place in places.items()
        if not place.making
    }
    rows.append(Row("made", made, (), notes))
    runs = {name: list(dict.fromkeys(run.enclosing for run in place.runs)) for name, place in places.items()}
    for i in range(max(map(len, runs.values()), default=0)):
        cells = {
            name: _snippet(places[name].runner.file, own[i].lineno, _end(own[i]))
            for name, own in runs.items()
            if i < len(own)
        }
        notes = {name: _in_order(place.runner) for name, place in places.items() if place.runner.runs_in_order}
        rows.append(Row("run", cells, (), notes if i == 0 else {}))
    names = {name: f"{place.kind} in {place.owner.name}" for name, place in places.items()}
    return Section(f"{network.name}.{path}", names, tuple(rows), (path,))


def _in_order(definition: Definition) -> str:
    base = next(name for each in (definition, *definition.bases) for name in each.base_names if "Sequential" in name)
    return f"{base} runs its attributes in order"


# --- files ------------------------------------------------------------------------------------------------------------


def of_file(name: str, part: str = "") -> View:
    """Return the view of layers, operators or training, or of one part of it.

    Raises ConfigError, naming the nearest, where there is no such part.
    """
    parts = _file_parts(name)
    if not part:
        return View(name, tuple(section for each in parts for section in of_file(name, each).sections[:1]))
    wanted = _normal(_SHORT_NAMES.get(f"{name}.{part}", part))
    title = next((each for each in parts if _normal(each) == wanted), None)
    if title is None:
        raise unknown(f"part of {name}", part, parts)
    return View(f"{name}.{title}", tuple(_sections(f"{name}.{title}", parts[title], _classes_of(name))))


@functools.cache
def _file_parts(name: str) -> dict[str, dict[str, list[Definition]]]:
    """Return the public classes and functions of a file by what they are called here, each in every implementation."""
    parts: dict[str, dict[str, list[Definition]]] = {}
    titles: dict[str, str] = {}
    for backend in BACKENDS:
        if exists(backend, name):
            for definition in (file(backend, name).definitions[each] for each in file(backend, name).public):
                if not definition.is_constant:
                    title = titles.setdefault(_normal(definition.name), _display(name, definition.name))
                    parts.setdefault(title, {each: [] for each in BACKENDS})[backend].append(definition)
    return parts


def _classes_of(name: str) -> set[Definition]:
    """Return the public classes of a file, which have sections of their own."""
    parts = _file_parts(name).values()
    return {each for own in parts for given in own.values() for each in given if each.is_class}


def _normal(name: str) -> str:
    """Return what the names of the same thing have in common: BatchNorm2d and BatchNormalization are batchnorm."""
    # Keras spells it out; some frameworks tell 1d from 2d, some do not, and JAX has functions for classes.
    return re.sub(r"[12]d$", "", name.lower().replace("_", "")).replace("normalization", "norm")


def _display(file_name: str, name: str) -> str:
    """Return what a definition is called here: layers go by no framework's name, MaxPool2d is max_pool."""
    if file_name != "layers":
        return name
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", re.sub(r"[12][dD]$", "", name)).lower()


# --- sections ---------------------------------------------------------------------------------------------------------


def _sections(
    title: str,
    definitions: Mapping[str, Sequence[Definition]],
    alone: set[Definition],
    paths: Sequence[str] = (),
    all_paths: Iterable[str] = (),
) -> Iterator[Section]:
    """Iterate over the section of classes or functions that correspond, and those of what they use in their files.

    `alone`: what has a section of its own, and is no part of this one.
    """
    own = {name: [each for one in given for each in _lineage(one, alone)] for name, given in definitions.items()}
    yield _section(title, own, definitions, paths, all_paths)
    done = {each for given in own.values() for each in given}
    queue = {name: list(dict.fromkeys(given)) for name, given in own.items()}
    helpers: dict[str, dict[str, list[Definition]]] = {}
    for name, waiting in queue.items():
        for definition in waiting:
            for used in definition.uses:
                if used not in done and used not in alone:
                    done.add(used)
                    waiting.append(used)
                    helpers.setdefault(used.name, {each: [] for each in BACKENDS})[name].append(used)
    for name, given in helpers.items():
        yield _section(name, given, given)


def _lineage(definition: Definition, alone: set[Definition]) -> list[Definition]:
    """Return a definition behind those of its bases that stand in the same file and have no section of their own."""
    inherited = [
        base
        for base in reversed(definition.bases)
        if base.file is definition.file
        and base not in alone
        and (base.name.startswith("_") or base.file.name != "layers")
    ]
    return [*inherited, definition]


def _section(
    title: str,
    definitions: Mapping[str, Sequence[Definition]],
    named: Mapping[str, Sequence[Definition]],
    paths: Sequence[str] = (),
    all_paths: Iterable[str] = (),
) -> Section:
    columns = {
        name: [piece for definition in _in_file_order(own) for piece in _pieces(definition)]
        for name, own in definitions.items()
        if own
    }
    in_order = {name: _in_order(own[-1]) for name, own in definitions.items() if own and own[-1].runs_in_order}
    rows = []
    for key, aligned in _align(columns):
        rows.append(
            Row(
                key,
                {name: piece.snippet for name, piece in aligned.items()},
                _made_by(aligned.values(), paths, all_paths),
                {name: note for name, note in in_order.items() if key == "forward" and name not in aligned},
            )
        )
    return Section(
        title,
        {name: ", ".join(dict.fromkeys(each.name for each in own)) for name, own in named.items() if own},
        tuple(rows),
        tuple(paths),
        {name: ABSENT[title, name] for name in BACKENDS if (title, name) in ABSENT and not definitions.get(name)},
    )


def _made_by(pieces: Iterable[_Piece], owners: Iterable[str], paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of what pieces make, in the first of the owners in which they make anything."""
    for owner in owners:
        inside = [path for path in paths if path and _parent(path) == owner]
        made = tuple(path for path in inside if any(piece.makes(path.rpartition(".")[2]) for piece in pieces))
        if made:
            return made
    return ()


def _in_file_order(definitions: Iterable[Definition]) -> list[Definition]:
    """Return definitions of one implementation, each once, as a reader of its files comes by them."""
    return sorted(dict.fromkeys(definitions), key=lambda each: (each.file.name, each.node.lineno))


@dataclass(frozen=True)
class _Piece:
    """Lines that have one purpose: `role`, and of a statement what it makes or runs, the last of `names` foremost.

    `others`: the attributes that are made elsewhere, and so not by a pattern here.
    """

    role: str
    snippet: Snippet
    names: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()
    others: frozenset[str] = frozenset()

    def makes(self, name: str) -> bool:
        """Whether these lines make the attribute `name`."""
        return name not in self.others and any(pattern.fullmatch(name) for pattern in self.patterns)

    def key(self, common: set[str]) -> str:
        """Return what tells these lines from others: the last name that is among the common ones, or else the last."""
        names = [name for name in self.names if name in common] or self.names
        return f"{self.role}: {names[-1]}" if names else self.role


def _pieces(definition: Definition) -> Iterator[_Piece]:
    """Cut a definition into pieces which together are all of its lines, with the comments above it."""
    source, node = definition.file, definition.node
    line = _begin(source, node)

    def cut(role: str, last: int, *names: str, makes: Sequence[Making] = ()) -> _Piece:
        nonlocal line
        others = {making.name for _, making in definition.makings} - set(names)
        patterns = tuple(making.pattern for making in makes)
        piece = _Piece(role, _snippet(source, line, last), names, patterns, frozenset(others))
        line = last + 1
        return piece

    if isinstance(node, ast.FunctionDef):
        yield cut("def", _head_end(source, node))
        yield cut("body", _end(node))
    elif not isinstance(node, ast.ClassDef):
        yield cut(definition.name, _end(definition.statements[-1]))
    else:
        yield cut("class", _head_end(source, node))
        for statement, following in itertools.zip_longest(node.body, node.body[1:]):
            if isinstance(statement, ast.FunctionDef):
                yield from _method_pieces(definition, statement, cut)
            elif not _is_docstring(statement):
                yield cut(_purpose(statement), _end(following if _is_docstring(following) else statement))


def _method_pieces(definition: Definition, method: ast.FunctionDef, cut: Callable[..., _Piece]) -> Iterator[_Piece]:
    """Cut a method: its head, and its body, statement by statement where that can be aligned."""
    role = METHODS.get(method.name, method.name)
    head = _head_end(definition.file, method)
    yield cut(role, head)
    steps = [statement for statement in method.body if _end(statement) > head]
    if role == "__init__":
        for step in steps:
            makes = [making for _, making in definition.makings if making.enclosing is step]
            names = [_LEAVES.get(making.name, making.name) for making in makes]
            yield cut(role, _end(step), *(reversed(names) if names else [_purpose(step)]), makes=makes)
    elif role == "forward":
        for step in steps:
            runs = [run for _, run in definition.runs if run.of_self and run.enclosing is step]
            names = [name for run in runs for name in _run_names(definition, run)]
            yield cut(role, _end(step), *(names or [_purpose(step)]))
    elif steps:
        yield cut(f"{role}: body", _end(method))


def _run_names(definition: Definition, run: Run) -> list[str]:
    """Return the names of the attributes that a step of the forward pass runs; a loop over all runs each."""
    return [making.name for _, making in definition.makings] if run.pattern is None else [run.name]


def _purpose(statement: ast.stmt) -> str:
    """Return what statements that correspond have in common: what they assign to or call, or else their kind."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return ast.unparse(statement.targets[0] if isinstance(statement, ast.Assign) else statement.target)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return ast.unparse(statement.value.func)
    return type(statement).__name__.lower()


def _align(columns: Mapping[str, Sequence[_Piece]]) -> Iterator[tuple[str, dict[str, _Piece]]]:
    """Iterate over rows of pieces with the same key, which comes with them; every column keeps its order."""
    common = {role: _common(columns, role) for role in ("__init__", "forward")}
    rows: list[tuple[str, dict[str, _Piece]]] = []
    for name, pieces in columns.items():
        keys = [piece.key(common.get(piece.role, set())) for piece in pieces]
        merged: list[tuple[str, dict[str, _Piece]]] = []
        for row, i in _merge([key for key, _ in rows], keys):
            key, cells = rows[row] if row is not None else (keys[i or 0], {})
            merged.append((key, cells if i is None else {**cells, name: pieces[i]}))
        rows = merged
    yield from rows


def _common(columns: Mapping[str, Sequence[_Piece]], role: str) -> set[str]:
    """Return the names that the pieces of a role have in every column that has more than its head."""
    named = [{name for piece in pieces if piece.role == role for name in piece.names} for pieces in columns.values()]
    return set.intersection(*filter(None, named)) if any(named) else set()


def _merge(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[int | None, int | None]]:
    """Iterate over the places of two sequences, those of a longest common subsequence together."""
    # length[i][j]: that of what left[i:] and right[j:] have in common.
    length = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, j in itertools.product(reversed(range(len(left))), reversed(range(len(right)))):
        both = 1 + length[i + 1][j + 1] if left[i] == right[j] else 0
        length[i][j] = max(both, length[i + 1][j], length[i][j + 1])
    i = j = 0
    while i < len(left) or j < len(right):
        if i < len(left) and j < len(right) and left[i] == right[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif j == len(right) or (i < len(left) and length[i + 1][j] >= length[i][j + 1]):
            yield i, None
            i += 1
        else:
            yield None, j
            j += 1


def _snippet(source: File, first: int, last: int) -> Snippet:
    return Snippet(source.backend, source.path, first, "\n".join(source.lines[first - 1 : last]))


def _end(statement: ast.stmt) -> int:
    if statement.end_lineno is None:
        raise TypeError("a statement that was parsed has an end")
    return statement.end_lineno


def _is_docstring(statement: ast.stmt | None) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _begin(source: File, statement: ast.stmt) -> int:
    """Return the line at which a definition begins, with its decorators and the comment right above it."""
    line = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", ()))])
    while line > 1 and source.lines[line - 2].startswith("#"):
        line -= 1
    return line


def _head_end(source: File, node: ast.ClassDef | ast.FunctionDef) -> int:
    """Return the last line of a definition's signature and docstring."""
    first = node.body[0]
    if _is_docstring(first):
        return _end(first)
    line = min([first.lineno, *(each.lineno for each in getattr(first, "decorator_list", ()))]) - 1
    while not source.lines[line - 1].strip() or source.lines[line - 1].lstrip().startswith("#"):
        line -= 1
    return line
