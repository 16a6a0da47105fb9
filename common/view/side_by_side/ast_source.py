"""Reads the source of the implementations as syntax trees, without importing or running them.

Finds where the constructor of a class creates an attribute and where its forward pass calls it. An attribute is
recognized by its name in `self.conv1 = ...`, `setattr(self, "conv1", ...)`, `self.add_module("conv1", ...)`,
`self.register_child(..., "conv1")`, or by a pattern such as `f"conv{j}"`, which matches conv1, conv2 and so on. A list
of layers has a plural name: the elements of `self.convs` are conv1, conv2 and so on.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from common.backends import environments, registry
from common.view.side_by_side.model import Snippet

__all__ = ["METHODS", "Definition", "File", "Making", "Place", "Run", "end", "exists", "file", "root", "start"]

METHODS: Mapping[str, str] = {
    "__init__": "__init__",
    "build": "__init__",
    "forward": "forward",
    "__call__": "forward",
    "call": "forward",
    "hybrid_forward": "forward",
    "compute": "forward",
}
"""Role of each method: constructors and forward passes have different names in the frameworks.

Keras creates weights in `build`, on the first input. Layers of the reference compute in `compute`; their `forward`
checks the input first."""

_NAMING = ("setattr", "add_module", "register_buffer", "register_child")
"""Functions that create an attribute whose name is an argument."""

_CONTAINERS = ("List", "ModuleList", "Sequential", "HybridSequential")
"""Classes, in any framework, of a list of layers."""


@dataclass(frozen=True, eq=False)
class Making:
    """A statement that creates one attribute, or several whose names match a pattern.

    `value` is the assigned expression. `enclosing` is the top-level statement of the constructor that contains it,
    such as a loop. `statements` are the statement itself and, before it, the assignment of a local name that it uses.
    `container` is the name of the list that it is an element of, "" if it is an attribute itself.
    """

    name: str
    pattern: re.Pattern[str]
    value: ast.expr
    enclosing: ast.stmt
    statements: tuple[ast.stmt, ...]
    container: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """A statement of a forward pass, and the attribute or function that it calls.

    `pattern` is None if it calls all attributes. `enclosing`: the top-level statement of the forward pass around
    it. `of_self`: whether it calls an attribute and not a function. `looped`: whether it is inside a loop.
    `function`: a function or method from outside the file, as written in the code.
    """

    name: str
    pattern: re.Pattern[str] | None
    statement: ast.stmt
    enclosing: ast.stmt
    of_self: bool
    looped: bool
    function: str = ""


@dataclass(frozen=True, eq=False)
class Definition:
    """A class, a function or a constant of a file: the top-level statements that define it.

    Definitions are compared by identity; `File.definitions` holds one object for each.
    """

    file: File
    name: str
    statements: tuple[ast.stmt, ...]

    @property
    def node(self) -> ast.stmt:
        """The statement that defines the name."""
        return self.statements[0]

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    @property
    def is_constant(self) -> bool:
        return not isinstance(self.node, ast.ClassDef | ast.FunctionDef)

    @functools.cached_property
    def base_names(self) -> tuple[str, ...]:
        """The bases as written in the file: `nn.Sequential`."""
        return tuple(ast.unparse(base) for base in self.node.bases) if isinstance(self.node, ast.ClassDef) else ()

    @functools.cached_property
    def bases(self) -> tuple[Definition, ...]:
        """The base classes in the same package, direct and indirect, nearest first."""
        if not isinstance(self.node, ast.ClassDef):
            return ()
        own = [base for base in map(self.file.resolve, self.node.bases) if base is not None]
        return tuple(dict.fromkeys(each for base in own for each in (base, *base.bases)))

    @functools.cached_property
    def uses(self) -> tuple[Definition, ...]:
        """Definitions of the same file and constants of the same package that it refers to, in order of use.

        Base classes and names that occur only in type hints are left out.
        """
        found: dict[Definition, None] = {}
        for statement in self.statements:
            for node in _without_hints(statement):
                used = None
                if isinstance(node, ast.Name):
                    used = self.file.lookup(node.id)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    used = self.file.registered.get(node.value)
                if used is not None and used is not self and (used.file is self.file or used.is_constant):
                    found[used] = None
        return tuple(found)

    @property
    def container(self) -> str:
        """The sequential base class whose forward pass is inherited, or "" if the class defines its own."""
        names = [name for each in (self, *self.bases) for name in each.base_names if name.endswith("Sequential")]
        # The last is the framework's own, where the package derives one from it.
        return names[-1] if names and self.method("forward") is None else ""

    def method(self, role: str) -> tuple[Definition, ast.FunctionDef] | None:
        """Return the method of a role (a value of METHODS) and the class that defines it, or None.

        Methods inherited from the file layers are ignored.
        """
        for each in (self, *(base for base in self.bases if base.file.name != "layers")):
            for statement in getattr(each.node, "body", ()):
                if isinstance(statement, ast.FunctionDef) and METHODS.get(statement.name) == role:
                    return each, statement
        return None

    @functools.cached_property
    def makings(self) -> tuple[tuple[Definition, Making], ...]:
        """The attributes that the constructor creates, in order, with the class that defines the constructor."""
        found = self.method("__init__")
        if found is None:
            return ()
        owner, method = found
        return tuple((owner, making) for making in _makings(method))

    @functools.cached_property
    def runs(self) -> tuple[tuple[Definition, Run], ...]:
        """The calls of the forward pass, in order of evaluation, with the class that defines the forward pass."""
        found = self.method("forward")
        if found is None:
            return ()
        owner, method = found
        lists = {making.container for _, making in self.makings if making.container}
        return tuple((owner, run) for statement in method.body for run in _runs(statement, statement, lists, {}))

    def class_attribute(self, name: str) -> tuple[Definition, ast.expr] | None:
        """Return the value of a class attribute and the class that defines it, or None."""
        for each in (self, *self.bases):
            for statement in getattr(each.node, "body", ()):
                if name in _targets(statement) and statement.value is not None:
                    return each, statement.value
        return None

    def place(self, name: str) -> Place | None:
        """Return where an attribute of this class is created and called, or None if it is not found."""
        made = [(owner, making) for owner, making in self.makings if making.pattern.fullmatch(name)]
        if not made:
            return self._called_function(name)
        owner, making = made[0]
        kind, what = self._class_of(owner, making.value)
        runs = [run for _, run in self.runs if run.of_self and (run.pattern is None or run.pattern.fullmatch(name))]
        return Place(name, kind, owner, making, self._runner(), tuple(runs), what)

    def _runner(self) -> Definition:
        found = self.method("forward")
        return self if found is None else found[0]

    def _called_function(self, name: str) -> Place | None:
        """Return the place of a layer that is a function call: relu2 is the second call of `relu`."""
        stem, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]  # it matches any string
        runs = [run for _, run in self.runs if run.name == stem and not run.of_self]
        index = int(number or 1) - 1
        run = runs[0] if runs and runs[0].looped else runs[index] if index < len(runs) else None
        if run is None:
            return None
        what = None if run.function else self.file.lookup(stem)
        if not run.function and (what is None or what.is_class):
            return None
        return Place(name, run.function or stem, self._runner(), None, self._runner(), (run,), what)

    def _class_of(self, owner: Definition, value: ast.expr) -> tuple[str, Definition | None]:
        """Return the class of a value, as written in the code, and its definition if it is in the package.

        Of a conditional expression, the first alternative counts: the second is the identity.
        """
        if isinstance(value, ast.IfExp):
            return self._class_of(owner, value.body)
        called = value.func if isinstance(value, ast.Call) else value
        if isinstance(called, ast.Attribute) and ast.unparse(called.value) == "self":
            found = self.class_attribute(called.attr)
            if found is not None:
                owner, called = found
        return ast.unparse(called), owner.file.resolve(called)


@dataclass(frozen=True, eq=False)
class Place:
    """Where an attribute of a class is created and called.

    `kind` is its class, or the function called instead, as written in the code; `definition` is the definition of that
    if it is in the same package. `making` is None for a function. `owner` and `runner` are the classes that define the
    constructor and the forward pass.
    """

    name: str
    kind: str
    owner: Definition
    making: Making | None
    runner: Definition
    runs: tuple[Run, ...]
    definition: Definition | None


class File:
    """One file of an implementation: its lines, its definitions, and its imports from the same package."""

    def __init__(self, backend: str, name: str) -> None:
        self.backend = backend
        self.name = name
        self.package = registry.get(backend).package
        place = _place(backend, name)
        self.path = place.relative_to(environments.PROJECT).as_posix()
        text = place.read_text(encoding="utf-8")
        self.lines = text.splitlines()
        self.tree = ast.parse(text, self.path)
        self.definitions = dict(self._definitions())

    def _definitions(self) -> Iterator[tuple[str, Definition]]:
        body = self.tree.body
        for i, statement in enumerate(body):
            names = [statement.name] if isinstance(statement, ast.ClassDef | ast.FunctionDef) else _targets(statement)
            rest = body[i + 1 :]
            for name in names:
                yield name, Definition(self, name, (statement, *_about(name, rest)))

    @functools.cached_property
    def public(self) -> tuple[str, ...]:
        """The names in `__all__`."""
        found = self.definitions.get("__all__")
        return tuple(ast.literal_eval(found.node.value)) if found and isinstance(found.node, ast.Assign) else ()

    @functools.cached_property
    def registered(self) -> Mapping[str, Definition]:
        """Definitions with a decorator that registers them under a string, by that string."""
        return {
            argument.value: definition
            for definition in self.definitions.values()
            for decorator in getattr(definition.node, "decorator_list", ())
            if isinstance(decorator, ast.Call)
            for argument in decorator.args
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        }

    @functools.cached_property
    def _imports(self) -> Mapping[str, tuple[str, str]]:
        """Imports from the same package: (module, original name) by local name. The module "" is the package itself."""
        found = {}
        for statement in self.tree.body:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                package, _, module = f"{statement.module}.".partition(f"{self.package}.")
                if not package:
                    for alias in statement.names:
                        found[alias.asname or alias.name] = (module.rstrip("."), alias.name)
        return found

    def lookup(self, name: str) -> Definition | None:
        """Return the definition of a name used in this file, if it is in the same package."""
        if name in self.definitions:
            return self.definitions[name]
        # Other files are read on demand: the package's `__init__` imports all of them.
        module, original = self._imports.get(name, ("", ""))
        return file(self.backend, module).definitions.get(original) if module else None

    def snippet(self, first: int, last: int) -> Snippet:
        """Return the lines from `first` to `last`, inclusive, counted from 1."""
        return Snippet(self.backend, self.path, first, "\n".join(self.lines[first - 1 : last]))

    def snippet_of(self, statement: ast.stmt) -> Snippet:
        """Return the lines of a statement."""
        return self.snippet(statement.lineno, end(statement))

    def resolve(self, expression: ast.expr) -> Definition | None:
        """Return the definition of `name` or `module.name`, if it is in the same package."""
        if isinstance(expression, ast.Name):
            return self.lookup(expression.id)
        if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
            module, name = self._imports.get(expression.value.id, ("", ""))
            if name and not module:
                return file(self.backend, name).definitions.get(expression.attr)
        return None


def _place(backend: str, name: str) -> Path:
    return environments.PROJECT.joinpath(*registry.get(backend).package.split("."), f"{name}.py")


def exists(backend: str, name: str) -> bool:
    """True if an implementation has a file of this name."""
    return _place(backend, name).is_file()


@functools.cache
def file(backend: str, name: str) -> File:
    """Return a file of an implementation. Each file is read once."""
    return File(backend, name)


def root(backend: str, family: str) -> Definition:
    """Return the class of a network family, from the table `_NETWORKS` in the `__init__` of an implementation."""
    package = file(backend, "__init__")
    table = package.definitions["_NETWORKS"].node
    if not isinstance(table, ast.Assign | ast.AnnAssign) or not isinstance(table.value, ast.Dict):
        raise TypeError(f"{package.path}: _NETWORKS must be a dictionary literal")
    for key, value in zip(table.value.keys, table.value.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == family:
            found = package.resolve(value)
            if found is not None:
                return found
    raise KeyError(f"{package.path}: _NETWORKS has no {family}")


def start(statement: ast.stmt) -> int:
    """Return the first line of a statement, with its decorators."""
    return min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", ()))])


def end(statement: ast.stmt) -> int:
    """Return the last line of a statement."""
    if statement.end_lineno is None:
        raise TypeError("the statement has no line numbers: get it from ast.parse")
    return statement.end_lineno


def _targets(statement: ast.stmt) -> list[str]:
    """Return the names that an assignment defines."""
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        targets = statement.targets if isinstance(statement, ast.Assign) else []  # type: ignore[assignment]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _about(name: str, following: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Iterate over the statements after a definition that belong to it: its docstring, `name.method()`."""
    for statement in following:
        value = statement.value if isinstance(statement, ast.Expr) else None
        documents = isinstance(value, ast.Constant)
        calls = isinstance(value, ast.Call) and ast.unparse(value.func).startswith(f"{name}.")
        if not documents and not calls:
            return
        yield statement


def _pattern(expression: ast.expr) -> re.Pattern[str] | None:
    """Return a pattern of the names that an expression can give: `f"block{j}"` gives block1, block2, ..."""
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        return re.compile(re.escape(expression.value))
    if isinstance(expression, ast.JoinedStr):
        parts = (re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\d+" for part in expression.values)
        return re.compile("".join(parts))
    return None


def _written(expression: ast.expr) -> str:
    """Return a name expression as a string, with {} for each inserted number."""
    if isinstance(expression, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in expression.values)
    return str(expression.value) if isinstance(expression, ast.Constant) else ast.unparse(expression)


def _simple(body: list[ast.stmt], enclosing: ast.stmt | None = None) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """Iterate over the innermost statements, each with the outermost statement that contains it."""
    for statement in body:
        outer = enclosing or statement
        inner = [*getattr(statement, "body", ()), *getattr(statement, "orelse", ())]
        if inner:
            yield from _simple(inner, outer)
        else:
            yield statement, outer


def _makings(method: ast.FunctionDef) -> Iterator[Making]:
    """Iterate over the attributes that a constructor creates."""
    local: dict[str, tuple[ast.stmt, ast.expr]] = {}
    for statement, enclosing in _simple(method.body):
        for name in _targets(statement):
            local[name] = (statement, statement.value)  # type: ignore[attr-defined]  # it is an assignment
        for written, value, container in _assigned(statement):
            pattern = _pattern(written)
            if pattern is None:
                continue
            statements = [statement]
            given = value
            if isinstance(value, ast.Name) and value.id in local:
                before, given = local[value.id]
                statements.insert(0, before)
            yield Making(_written(written), pattern, given, enclosing, tuple(statements), container)


def _element_name(container: str, index: int | None) -> ast.expr:
    """Return the name of a list's element: element 0 of `stages` is stage1; without an index, a pattern for any."""
    stem = container.removesuffix("s")
    return ast.JoinedStr([ast.Constant(stem), ast.Name("i")]) if index is None else ast.Constant(f"{stem}{index + 1}")


def _elements(value: ast.expr) -> Iterator[tuple[ast.expr, bool]]:
    """Iterate over the expressions of a list's elements: (expression, whether it gives several elements)."""
    match value:
        case ast.List(elements) | ast.Tuple(elements):
            for element in elements:
                yield from _elements(element)
        case ast.ListComp(element) | ast.GeneratorExp(element):
            yield element, True
        case ast.Starred(starred):
            yield from ((element, True) for element, _ in _elements(starred))
        case _:
            yield value, False


def _list_elements(container: str, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr, str]]:
    """Iterate over the elements of a list as `_assigned` does, if its name is plural and the value is a list."""
    given = [value]
    if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in _CONTAINERS:
        given = value.args
    elif not isinstance(value, ast.List | ast.ListComp):
        return
    index: int | None = 0
    for element, several in (each for one in given for each in _elements(one)) if container.endswith("s") else ():
        index = None if several else index
        yield _element_name(container, index), element, container
        index = None if index is None else index + 1


def _assigned(statement: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr, str]]:
    """Iterate over the attributes of `self` that a statement sets: (expression of the name, value, list).

    Elements of a list count as attributes. `list` is the name of the list, "" for an attribute itself.
    """
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            pairs = [(target, statement.value)]
            if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                pairs = list(zip(target.elts, statement.value.elts, strict=True))
            for each, value in pairs:
                if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self":
                    yield from list(_list_elements(each.attr, value)) or [(ast.Constant(each.attr), value, "")]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        function = ast.unparse(call.func).rpartition(".")[2]
        if function in _NAMING:
            # Gluon's register_child takes the block before its name.
            name, value = call.args[::-1] if function == "register_child" else call.args[-2:]
            yield name, value, ""
        match call:
            case ast.Call(ast.Attribute(ast.Attribute(ast.Name("self"), container), "append"), [value]):
                yield _element_name(container, None), value, container


def _loop_names(target: ast.expr, iterated: ast.expr) -> Iterator[tuple[str, str]]:
    """Iterate over the loop variables that hold elements of lists: (variable, list)."""
    match target, iterated:
        case ast.Name(name), ast.Attribute(ast.Name("self"), container):
            yield name, container
        case ast.Tuple([_, each]), ast.Call(ast.Name("enumerate"), [inner, *_]):
            yield from _loop_names(each, inner)
        case ast.Tuple(targets), ast.Call(ast.Name("zip"), arguments):
            for each, inner in zip(targets, arguments, strict=True):
                yield from _loop_names(each, inner)


def _runs(
    statement: ast.stmt, enclosing: ast.stmt, lists: Set[str], elements: Mapping[str, str], looped: bool = False
) -> Iterator[Run]:
    """Iterate over the calls in a statement and its inner statements, in order of evaluation.

    `lists`: names of the attributes that are lists. `elements`: loop variables, with the list that they iterate over.
    """
    inner = [*getattr(statement, "body", ()), *getattr(statement, "orelse", ())]
    loops = isinstance(statement, ast.For | ast.While)
    if isinstance(statement, ast.For) and ast.unparse(statement.iter) in ("self.children()", "self._children.values()"):
        yield Run("*", None, statement, enclosing, of_self=True, looped=True)
        return
    if isinstance(statement, ast.For):
        elements = {**elements, **dict(_loop_names(statement.target, statement.iter))}
    for each in inner:
        yield from _runs(each, enclosing, lists, elements, looped or loops)
    for call in () if inner else _evaluated(statement):
        attribute = _attribute(call.func, lists, elements)
        name, function = (attribute, "") if attribute is not None else _function(call.func)
        pattern = None if name is None else _pattern(name)
        if name is not None and pattern is not None:
            yield Run(_written(name), pattern, statement, enclosing, attribute is not None, looped, function)


def _attribute(called: ast.expr, lists: Set[str], elements: Mapping[str, str]) -> ast.expr | None:
    """Return the name of the attribute of `self` that is called, or None if it is something else."""
    match called:
        case ast.Call(ast.Name("getattr"), [_, written]):
            return written
        case ast.Attribute(ast.Name("self"), name):
            return _element_name(name, None) if name in lists else ast.Constant(name)
        case ast.Subscript(ast.Attribute(ast.Name("self"), name), index) if name in lists:
            return _element_name(name, index.value if isinstance(index, ast.Constant) else None)  # type: ignore[arg-type]
        case ast.Name(name) if name in elements:
            return _element_name(elements[name], None)
    return None


def _function(called: ast.expr) -> tuple[ast.expr | None, str]:
    """Return the name of a called function or method, and `Run.function`. A reshape has the name flatten."""
    match called:
        case ast.Name(name):
            return ast.Constant(name), ""
        case ast.Attribute(_, "reshape"):
            return ast.Constant("flatten"), "reshape"
        case ast.Attribute(_, name):
            return ast.Constant(name), ast.unparse(called)
    return None, ""


def _evaluated(node: ast.AST) -> Iterator[ast.Call]:
    """Iterate over the calls in a statement in order of evaluation: arguments first."""
    for child in ast.iter_child_nodes(node):
        yield from _evaluated(child)
    if isinstance(node, ast.Call):
        yield node


def _without_hints(node: ast.AST) -> Iterator[ast.AST]:
    """Iterate over a node and its descendants, without type hints and base classes."""
    yield node
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns", "bases"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _without_hints(child)
