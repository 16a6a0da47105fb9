"""Finds the source of a network, of a part of one, or of a shared file in every implementation, aligned in rows.

Classes are matched by following each path of the reference network (`stage2.block1.conv1`) through the syntax trees
of all implementations. Nothing is imported or run.
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
from common.view.side_by_side.model import Part, Row, Section, Snippet, View
from common.view.side_by_side.names import display, normal

__all__ = ["FILES", "find", "of_file", "of_network"]

FILES = ("layers", "operators", "training")
"""Files whose parts can be shown, besides the networks."""

_SHORT_NAMES = {"training.step": "train_step"}


def find(query: str, **config: object) -> View:
    """Return the view of `NETWORK[.PART]` or `FILE[.PART]`, where FILE is one of `FILES`.

    `config` overrides the network's configuration. Raises ConfigError for an unknown name, with the nearest names.
    """
    name, _, part = query.partition(".")
    if name in FILES:
        if config:
            raise ConfigError(f"{name} is a file, not a network: omit the configuration")
        return of_file(name, part)
    known = {**catalog.FAMILIES, **catalog.NETWORKS}
    if name not in known:
        raise unknown("network or file", name, [*known, *FILES])
    return of_network(catalog.get(name, **config), part)


@dataclass(eq=False)
class _Group:
    """Corresponding classes of the implementations: instances of them are at the same paths."""

    definitions: dict[str, list[Definition]]
    paths: list[str]

    @property
    def title(self) -> str:
        """The most common name of the class among the implementations."""
        names = [own[0].name for own in self.definitions.values() if own]
        return max(names, key=names.count)


@dataclass(frozen=True, eq=False)
class _Anatomy:
    """The parts of a network by path in network order, their places in the source, and their classes in groups."""

    roots: dict[str, Definition]
    parts: dict[str, Part]
    places: dict[str, dict[str, Place]]
    groups: list[_Group]


def of_network(network: Network, path: str = "") -> View:
    """Return the view of a network, or of the part at `path`.

    Raises ConfigError for an unknown part, with the nearest names.
    """
    whole = _anatomy(network)
    if path not in whole.parts:
        raise _unknown_part(network, path, list(whole.parts))
    sections = [_statements(network, path, whole.places[path]) if path else _docstrings(network, whole.roots)]
    separate = {each for group in whole.groups for own in group.definitions.values() for each in own}
    separate |= _classes_of("layers")
    for group in whole.groups:
        within = [each for each in group.paths if _is_within(each, path)]
        if within:
            sections += sections_of(group.title, group.definitions, separate, within, whole.parts)
    layer = display("layers", whole.parts[path].kind)
    if not whole.parts[path].section and layer in _file_parts("layers"):
        sections += of_file("layers", layer).sections
    title = f"{network.name}.{path}" if path else network.name
    return View(title, tuple(sections), tuple(part for each, part in whole.parts.items() if _is_within(each, path)))


@functools.lru_cache(maxsize=64)
def _anatomy(network: Network) -> _Anatomy:
    """Follow every path of a network through the source of every implementation."""
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
            {name: tuple(_created(place)) for name, place in places[path].items()},
            {name: tuple(_called(place)) for name, place in places[path].items()},
            titles.get(path, ""),
        )
        for path in paths
    }
    return _Anatomy(roots, parts, places, groups)


def _is_within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def _in_network_order(parent: str, paths: Sequence[str]) -> Iterator[str]:
    """Iterate over the paths below a parent, each before its own parts, from paths in any nesting order."""
    depth = len(parent) + 1 if parent else 0
    below = [path for path in paths if _is_within(path, parent) and path != parent]
    for name in dict.fromkeys(path[depth:].partition(".")[0] for path in below):
        path = f"{parent}.{name}" if parent else name
        yield path
        yield from _in_network_order(path, below)


def _unknown_part(network: Network, path: str, paths: Sequence[str]) -> ConfigError:
    """Return the error for the first name of a path that does not exist, with the nearest names."""
    parent, missing = "", path
    for missing in path.split("."):
        inner = f"{parent}.{missing}".lstrip(".")
        if inner not in paths:
            break
        parent = inner
    owner = f"{network.name}.{parent}".rstrip(".")
    children = [each.rpartition(".")[2] for each in paths if each and each.rpartition(".")[0] == parent]
    if not children:
        return ConfigError(f"{owner} is one layer and has no part '{missing}'")
    return unknown(f"part of {owner}", missing, children)


def _groups(paths: Iterable[str], classes: Mapping[str, Mapping[str, Definition]]) -> list[_Group]:
    """Group the classes that model files define by the paths of their instances, in network order."""
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


def _created(place: Place) -> Iterator[Snippet]:
    for statement in place.making.statements if place.making else ():
        yield place.owner.file.snippet_of(statement)


def _called(place: Place) -> Iterator[Snippet]:
    for statement in dict.fromkeys(run.statement for run in place.runs):
        yield place.runner.file.snippet_of(statement)


def _docstrings(network: Network, classes: Mapping[str, Definition]) -> Section:
    cells = {}
    for name, definition in classes.items():
        cells[name] = definition.file.snippet_of(definition.file.tree.body[0])
    return Section(network.name, {name: cell.path for name, cell in cells.items()}, (Row("docstring", cells),))


def _statements(network: Network, path: str, places: Mapping[str, Place]) -> Section:
    """Return a section of the statements that create and that call a part, with the loops around them."""
    rows: list[Row] = []
    created = {
        name: place.owner.file.snippet_of(place.making.enclosing) for name, place in places.items() if place.making
    }
    notes = {
        name: f"{place.kind} is a function, not an attribute" for name, place in places.items() if not place.making
    }
    rows.append(Row("created", created, (), notes))
    runs = {name: list(dict.fromkeys(run.enclosing for run in place.runs)) for name, place in places.items()}
    for i in range(max(map(len, runs.values()), default=0)):
        cells = {name: places[name].runner.file.snippet_of(own[i]) for name, own in runs.items() if i < len(own)}
        notes = {name: order_note(place.runner) for name, place in places.items() if place.runner.container}
        rows.append(Row("called", cells, (), notes if i == 0 else {}))
    names = {name: f"{place.kind} in {place.owner.name}" for name, place in places.items()}
    return Section(f"{network.name}.{path}", names, tuple(rows), (path,))


def of_file(name: str, part: str = "") -> View:
    """Return the view of one of `FILES`, or of one part of it.

    Raises ConfigError for an unknown part, with the nearest names.
    """
    parts = _file_parts(name)
    if not part:
        return View(name, tuple(section for each in parts for section in of_file(name, each).sections[:1]))
    key = normal(_SHORT_NAMES.get(f"{name}.{part}", part))
    title = next((each for each in parts if normal(each) == key), None)
    if title is None:
        raise unknown(f"part of {name}", part, parts)
    return View(f"{name}.{title}", tuple(sections_of(f"{name}.{title}", parts[title], _classes_of(name))))


@functools.cache
def _file_parts(name: str) -> dict[str, dict[str, list[Definition]]]:
    """Return the public classes and functions of a file by displayed name, with their definitions by implementation."""
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
    """Return the public classes of a file. They have their own sections."""
    parts = _file_parts(name).values()
    return {each for own in parts for given in own.values() for each in given if each.is_class}
