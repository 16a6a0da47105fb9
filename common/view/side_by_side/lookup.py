"""The same part in every implementation: found from the code, aligned, with the shapes that the reference knows.

A `View` is what there is to show of a network, of a part of one, or of one of the files layers, operators and training.
Its sections hold source, row by row: the lines of a row correspond in all implementations. Its parts are the network's
modules by path, each with its shape and with the lines that make and run it in each implementation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common import catalog, reference
from common.backends.registry import BACKENDS
from common.catalog import Network
from common.errors import ConfigError, unknown
from common.view.side_by_side.alignment import order_note, sections_of
from common.view.side_by_side.ast_source import Definition, Place, exists, file, root
from common.view.side_by_side.model import CHANNELS_LAST, Part, Row, Section, Snippet, View, in_layout
from common.view.side_by_side.names import ABSENT, FRAMEWORKS_OWN, display, normal

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

FILES = ("layers", "operators", "training")
"""The files, beside the networks, whose parts can be shown."""

_SHORT_NAMES = {"training.step": "train_step"}


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
            sections += sections_of(group.title, group.definitions, alone | _classes_of("layers"), within, whole.parts)
    layer = display("layers", whole.parts[path].kind)
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
        yield place.owner.file.snippet_of(statement)


def _run(place: Place) -> Iterator[Snippet]:
    for statement in dict.fromkeys(run.statement for run in place.runs):
        yield place.runner.file.snippet_of(statement)


def _docstrings(network: Network, classes: Mapping[str, Definition]) -> Section:
    cells = {}
    for name, definition in classes.items():
        cells[name] = definition.file.snippet_of(definition.file.tree.body[0])
    return Section(network.name, {name: cell.path for name, cell in cells.items()}, (Row("docstring", cells),))


def _statements(network: Network, path: str, places: Mapping[str, Place]) -> Section:
    """Return the statements that make a part and those that run it, with the loops that they are in."""
    rows: list[Row] = []
    made = {name: place.owner.file.snippet_of(place.making.enclosing) for name, place in places.items() if place.making}
    notes = {
        name: f"{place.kind} is a function, called where it is needed"
        for name, place in places.items()
        if not place.making
    }
    rows.append(Row("made", made, (), notes))
    runs = {name: list(dict.fromkeys(run.enclosing for run in place.runs)) for name, place in places.items()}
    for i in range(max(map(len, runs.values()), default=0)):
        cells = {name: places[name].runner.file.snippet_of(own[i]) for name, own in runs.items() if i < len(own)}
        notes = {name: order_note(place.runner) for name, place in places.items() if place.runner.container}
        rows.append(Row("run", cells, (), notes if i == 0 else {}))
    names = {name: f"{place.kind} in {place.owner.name}" for name, place in places.items()}
    return Section(f"{network.name}.{path}", names, tuple(rows), (path,))


def of_file(name: str, part: str = "") -> View:
    """Return the view of layers, operators or training, or of one part of it.

    Raises ConfigError, naming the nearest, where there is no such part.
    """
    parts = _file_parts(name)
    if not part:
        return View(name, tuple(section for each in parts for section in of_file(name, each).sections[:1]))
    wanted = normal(_SHORT_NAMES.get(f"{name}.{part}", part))
    title = next((each for each in parts if normal(each) == wanted), None)
    if title is None:
        raise unknown(f"part of {name}", part, parts)
    return View(f"{name}.{title}", tuple(sections_of(f"{name}.{title}", parts[title], _classes_of(name))))


@functools.cache
def _file_parts(name: str) -> dict[str, dict[str, list[Definition]]]:
    """Return the public classes and functions of a file by what they are called here, each in every implementation."""
    parts: dict[str, dict[str, list[Definition]]] = {}
    titles: dict[str, str] = {}
    for backend in BACKENDS:
        if exists(backend, name):
            for definition in (file(backend, name).definitions[each] for each in file(backend, name).public):
                if not definition.is_constant:
                    title = titles.setdefault(normal(definition.name), display(name, definition.name))
                    parts.setdefault(title, {each: [] for each in BACKENDS})[backend].append(definition)
    return parts


def _classes_of(name: str) -> set[Definition]:
    """Return the public classes of a file, which have sections of their own."""
    parts = _file_parts(name).values()
    return {each for own in parts for given in own.values() for each in given if each.is_class}
