"""What a file of an implementation says, read from its syntax tree: nothing is imported or run.

A class makes its attributes in its constructor and runs them in its forward pass; both are found by the attribute's
name, be it `self.conv1 = ...`, `setattr(self, "conv1", ...)`, `self.add_module("conv1", ...)` or a pattern such as
`f"conv{j}"`, which matches conv1, conv2 and so on. A list of layers has a plural name: the elements of `self.convs` are
conv1, conv2 and so on.
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

__all__ = ["METHODS", "Definition", "File", "Making", "Place", "Run", "end", "exists", "file", "root"]

METHODS: Mapping[str, str] = {
    "__init__": "__init__",
    "build": "__init__",
    "forward": "forward",
    "__call__": "forward",
    "call": "forward",
    "hybrid_forward": "forward",
    "compute": "forward",
}
"""Methods that mean the same: Keras makes weights in `build`, when it first sees an input, and calls the forward pass
`call`; a Flax module is a callable; Gluon's pass takes the operators of the mode that it runs in as an argument; the
reference's layers have a `forward` that checks what `compute` is then given."""

_NAMING = ("setattr", "add_module", "register_buffer")
"""What makes an attribute whose name is an argument."""

_CONTAINERS = ("List", "ModuleList", "Sequential", "HybridSequential")
"""Classes, in any framework, of a list of layers."""


@dataclass(frozen=True, eq=False)
class Making:
    """One statement that makes an attribute, or several by a pattern.

    `value` is the call that does, `enclosing` the statement of the constructor's own level that holds it: the loop
    where there is one. `statements` are those that say what it is: a local name may have been given to it before.
    `container` is the attribute that holds it as an element of a list, "" where it is an attribute itself.
    """

    name: str
    pattern: re.Pattern[str]
    value: ast.expr
    enclosing: ast.stmt
    statements: tuple[ast.stmt, ...]
    container: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """A statement of a forward pass and the attribute, or the function, that it calls.

    `pattern` is None where it runs all attributes. `enclosing`: the statement of the pass's own level that holds it.
    `of_self`: whether it is an attribute; `looped`: whether the statement is repeated, each time for another one.
    `function`: a function or method that is not of the file, as the code writes it.
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
    """A class, a function or a constant of a file: the statements of the file's own level that define it.

    Two are the same if they are the same object; `File.definitions` holds the only one of each.
    """

    file: File
    name: str
    statements: tuple[ast.stmt, ...]

    @property
    def node(self) -> ast.stmt:
        """The statement that binds the name."""
        return self.statements[0]

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    @property
    def is_constant(self) -> bool:
        return not isinstance(self.node, ast.ClassDef | ast.FunctionDef)

    @functools.cached_property
    def base_names(self) -> tuple[str, ...]:
        """The bases as the file writes them: `nn.Sequential`."""
        return tuple(ast.unparse(base) for base in self.node.bases) if isinstance(self.node, ast.ClassDef) else ()

    @functools.cached_property
    def bases(self) -> tuple[Definition, ...]:
        """The bases that are classes of the same package, nearest first, with their own."""
        if not isinstance(self.node, ast.ClassDef):
            return ()
        own = [base for base in map(self.file.resolve, self.node.bases) if base is not None]
        return tuple(dict.fromkeys(each for base in own for each in (base, *base.bases)))

    @functools.cached_property
    def uses(self) -> tuple[Definition, ...]:
        """The definitions of its file, and the constants of its package, that it refers to, in that order.

        Its bases, and what only a type hint names, are not among them.
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
        """The base that runs its attributes in the order in which they are made, "" where a forward pass does."""
        names = [name for each in (self, *self.bases) for name in each.base_names if name.endswith("Sequential")]
        return names[0] if names and self.method("forward") is None else ""

    def method(self, role: str) -> tuple[Definition, ast.FunctionDef] | None:
        """Return the method of a role (a value of METHODS), its own or inherited from a model file, and whose it is."""
        for each in (self, *(base for base in self.bases if base.file.name != "layers")):
            for statement in getattr(each.node, "body", ()):
                if isinstance(statement, ast.FunctionDef) and METHODS.get(statement.name) == role:
                    return each, statement
        return None

    @functools.cached_property
    def makings(self) -> tuple[tuple[Definition, Making], ...]:
        """What the constructor makes, in order, and the class whose constructor that is."""
        found = self.method("__init__")
        if found is None:
            return ()
        owner, method = found
        return tuple((owner, making) for making in _makings(method))

    @functools.cached_property
    def runs(self) -> tuple[tuple[Definition, Run], ...]:
        """What the forward pass runs, in the order in which it is evaluated, and the class whose pass that is."""
        found = self.method("forward")
        if found is None:
            return ()
        owner, method = found
        lists = {making.container for _, making in self.makings if making.container}
        return tuple((owner, run) for statement in method.body for run in _runs(statement, statement, lists, {}))

    def class_attribute(self, name: str) -> tuple[Definition, ast.expr] | None:
        """Return the value that the class, or the nearest of its bases, has for a name, and whose it is."""
        for each in (self, *self.bases):
            for statement in getattr(each.node, "body", ()):
                if name in _targets(statement) and statement.value is not None:
                    return each, statement.value
        return None

    def place(self, name: str) -> Place | None:
        """Return where an attribute of this class is made and run, or None where the code does not say so."""
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
        """Return the place of what is no attribute here but a function: relu2 is the second call of `relu`."""
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
        """Return what a value is an instance of, as the code writes it, and its class if the package has it.

        Of a value that depends on a condition, that is the one which is not the identity.
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
    """Where an attribute of a class stands.

    `kind` is the class, as the code writes it, or the function that it calls instead; `definition` is that of it, if it
    is of the same package. A function is not made. `owner` and `runner` are whose constructor and forward pass it is.
    """

    name: str
    kind: str
    owner: Definition
    making: Making | None
    runner: Definition
    runs: tuple[Run, ...]
    definition: Definition | None


class File:
    """One file of an implementation: its lines, what it defines, and what it imports from its own package."""

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
        """The definitions whose decorator registers them by a string, by that string."""
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
        """What is imported from the same package, by the name here: its module, "" for the package, and its name."""
        found = {}
        for statement in self.tree.body:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                package, _, module = f"{statement.module}.".partition(f"{self.package}.")
                if not package:
                    for alias in statement.names:
                        found[alias.asname or alias.name] = (module.rstrip("."), alias.name)
        return found

    def lookup(self, name: str) -> Definition | None:
        """Return the definition that a name of this file means, if it is of the same package."""
        if name in self.definitions:
            return self.definitions[name]
        # Only now is the other file read: the package itself imports all of them.
        module, original = self._imports.get(name, ("", ""))
        return file(self.backend, module).definitions.get(original) if module else None

    def snippet(self, first: int, last: int) -> Snippet:
        """Return the lines from first to last, counted from 1."""
        return Snippet(self.backend, self.path, first, "\n".join(self.lines[first - 1 : last]))

    def snippet_of(self, statement: ast.stmt) -> Snippet:
        """Return the lines of a statement."""
        return self.snippet(statement.lineno, end(statement))

    def resolve(self, expression: ast.expr) -> Definition | None:
        """Return what a name, or a name of an imported module, means if it is of the same package."""
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
    """Whether an implementation has a file of this name."""
    return _place(backend, name).is_file()


@functools.cache
def file(backend: str, name: str) -> File:
    """Return a file of an implementation, read once."""
    return File(backend, name)


def root(backend: str, family: str) -> Definition:
    """Return the class that an implementation builds the networks of a family from, as its `__init__` says."""
    package = file(backend, "__init__")
    table = package.definitions["_NETWORKS"].node
    if not isinstance(table, ast.Assign | ast.AnnAssign) or not isinstance(table.value, ast.Dict):
        raise TypeError(f"{package.path}: _NETWORKS must be a dictionary written out")
    for key, value in zip(table.value.keys, table.value.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == family:
            found = package.resolve(value)
            if found is not None:
                return found
    raise KeyError(f"{package.path}: _NETWORKS has no {family}")


def end(statement: ast.stmt) -> int:
    """Return the last line of a statement."""
    if statement.end_lineno is None:
        raise TypeError("a statement that was parsed has an end")
    return statement.end_lineno


def _targets(statement: ast.stmt) -> list[str]:
    """Return the names that an assignment binds."""
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        targets = statement.targets if isinstance(statement, ast.Assign) else []  # type: ignore[assignment]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _about(name: str, following: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Iterate over the statements right behind a definition that are about it: its docstring, `name.method()`."""
    for statement in following:
        value = statement.value if isinstance(statement, ast.Expr) else None
        documents = isinstance(value, ast.Constant)
        calls = isinstance(value, ast.Call) and ast.unparse(value.func).startswith(f"{name}.")
        if not documents and not calls:
            return
        yield statement


def _pattern(expression: ast.expr) -> re.Pattern[str] | None:
    """Return what names a string, or one with numbers filled in, may be: `f"block{j}"` is block1, block2, ..."""
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        return re.compile(re.escape(expression.value))
    if isinstance(expression, ast.JoinedStr):
        parts = (re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\d+" for part in expression.values)
        return re.compile("".join(parts))
    return None


def _written(expression: ast.expr) -> str:
    """Return a name as a string, with {} for each number that is filled in."""
    if isinstance(expression, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in expression.values)
    return str(expression.value) if isinstance(expression, ast.Constant) else ast.unparse(expression)


def _simple(body: list[ast.stmt], enclosing: ast.stmt | None = None) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """Iterate over the statements that hold no others, each with the statement of the outermost level it is in."""
    for statement in body:
        outer = enclosing or statement
        inner = [*getattr(statement, "body", ()), *getattr(statement, "orelse", ())]
        if inner:
            yield from _simple(inner, outer)
        else:
            yield statement, outer


def _makings(method: ast.FunctionDef) -> Iterator[Making]:
    """Iterate over the attributes that a constructor makes."""
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
    """Iterate over the expressions that make the elements of a list, each with whether it makes several."""
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
    """Iterate over the elements of a list as `_assigned` does, if the attribute is plural and the value a list."""
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
    """Iterate over the attributes of `self` that a statement sets: an expression of the name, and the value.

    The elements of a list count as attributes; the last of the three is the list's name, "" for an attribute.
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
        if ast.unparse(call.func).rpartition(".")[2] in _NAMING:
            name, value = call.args[-2:]
            yield name, value, ""
        match call:
            case ast.Call(ast.Attribute(ast.Attribute(ast.Name("self"), container), "append"), [value]):
                yield _element_name(container, None), value, container


def _loop_names(target: ast.expr, iterated: ast.expr) -> Iterator[tuple[str, str]]:
    """Iterate over the names that a loop binds to elements of lists, each with the list's name."""
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
    """Iterate over what a statement, and those in it, call, in the order of evaluation.

    `lists` are the attributes that are lists; `elements` the names that loops bind to elements, with the list's name.
    """
    inner = [*getattr(statement, "body", ()), *getattr(statement, "orelse", ())]
    loops = isinstance(statement, ast.For | ast.While)
    if isinstance(statement, ast.For) and ast.unparse(statement.iter) == "self.children()":
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
    """Return the name of the attribute of `self` that is called; None where it is none."""
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
    """Return the name of a function or method, and `Run.function`; flattening goes by the name of its layer."""
    match called:
        case ast.Name(name):
            return ast.Constant(name), ""
        case ast.Attribute(_, "reshape"):
            return ast.Constant("flatten"), "reshape"
        case ast.Attribute(_, name):
            return ast.Constant(name), ast.unparse(called)
    return None, ""


def _evaluated(node: ast.AST) -> Iterator[ast.Call]:
    """Iterate over the calls in a statement in the order in which Python makes them: arguments first."""
    for child in ast.iter_child_nodes(node):
        yield from _evaluated(child)
    if isinstance(node, ast.Call):
        yield node


def _without_hints(node: ast.AST) -> Iterator[ast.AST]:
    """Iterate over a node and all below it but for type hints and bases."""
    yield node
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns", "bases"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _without_hints(child)
