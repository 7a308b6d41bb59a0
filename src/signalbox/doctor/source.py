"""What the source says: connections, sends and functions of the installed apps, parsed once into frozen values.

Files are read and parsed; nothing in them is imported or run.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal, TypeAlias

from signalbox import catalog
from signalbox.doctor.runtime import App, real
from signalbox.doctor.syntax import Step, steps

ReceiverKind: TypeAlias = Literal["function", "lambda", "partial", "method", "temporary", "other"]
AnyFunction: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

OUR_DECORATORS: Final = frozenset({"signalbox.receiver", "signalbox.delivery.registry.receiver"})
RECEIVER_DECORATORS: Final = OUR_DECORATORS | {"django.dispatch.receiver", "django.dispatch.dispatcher.receiver"}
SIGNAL_CLASSES: Final = frozenset(
    {"django.dispatch.Signal", "django.dispatch.dispatcher.Signal", "django.db.models.signals.ModelSignal"}
)
SENDS: Final = frozenset({"send", "send_robust", "asend", "asend_robust"})

_LEFT_OUT: Final = frozenset(
    {"__pycache__", "locale", "migrations", "node_modules", "static", "templates", "test", "tests"}
)
_TELLING: Final = ("receiver", "ignal", ".connect(", ".send(", ".send_robust(", ".asend(", ".asend_robust(")
_IMPORTS: Final = re.compile(
    r"^([ \t]*)(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]+))", re.MULTILINE
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Function:
    """One function, method or lambda."""

    module: str
    """Module that it stands in."""
    qualname: str
    """Its name within the module, as ``Handler.on_save`` or ``connect.<locals>.inner``."""
    path: str
    """Absolute path of the file."""
    line: int
    """First line, decorators included: the line that its code object knows."""
    node: AnyFunction
    """Its syntax."""
    outer: Function | None
    """The function that it stands in."""
    bases: tuple[str, ...]
    """Dotted names of the base classes of the class that it is a method of."""
    method: bool
    """Whether it stands directly in a class."""
    decorators: tuple[str, ...]
    """Dotted names of its decorators, but for those that connect it to a signal."""
    names: Mapping[str, str]
    """What the names mean that are imported in it or around it."""

    @property
    def dotted(self) -> str:
        """Dotted name, as ``shop.signals.on_save``."""
        return f"{self.module}.{self.qualname}"

    @property
    def node_name(self) -> str:
        """Its own name, as ``on_save``."""
        return self.qualname.rpartition(".")[2]

    @property
    def parameters(self) -> ast.arguments:
        """Its parameters."""
        return self.node.args

    @property
    def body(self) -> list[ast.stmt]:
        """Its statements; a lambda's expression stands as one."""
        if isinstance(self.node, ast.Lambda):
            return [ast.copy_location(ast.Expr(self.node.body), self.node.body)]
        return self.node.body

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What runs when the function does."""
        return tuple(steps(self.body))

    @property
    def coroutine(self) -> bool:
        """Whether it is defined by ``async def``."""
        return isinstance(self.node, ast.AsyncFunctionDef)

    @property
    def ready(self) -> bool:
        """Whether it is ``ready()`` or ``__init__()`` of an app config."""
        return (
            self.method
            and self.qualname.rpartition(".")[2] in {"ready", "__init__"}
            and any(base.rpartition(".")[2].endswith("Config") for base in self.bases)
        )

    def resolve(self, node: ast.expr) -> str:
        """Return the dotted path that ``node`` names; empty if it names none."""
        return resolve(node, self.names, self.module)


@dataclass(frozen=True, kw_only=True, eq=False)
class Connect:
    """One place where the source connects a receiver: a decorator, or a call of ``connect()``."""

    module: str
    """Module that it stands in."""
    path: str
    """Absolute path of the file."""
    line: int
    """First line of the call."""
    signals: tuple[str, ...]
    """The signals by name."""
    decorator: bool
    """Whether it decorates a function."""
    kind: ReceiverKind
    """What the receiver is: a function by name, a lambda, a partial, a method, a temporary object or something else."""
    receiver: str
    """The receiver as it is written."""
    target: str
    """Dotted path of the receiver, or of what is called to make it; empty if it can't be told."""
    function: Function | None
    """The receiver's definition."""
    sender: ast.expr | None
    """The sender as it is written."""
    sender_path: str
    """Dotted path of the sender, or of what is called to make it; empty if there is none or it can't be told."""
    weak: bool | None
    """Whether it connects weakly; ``None`` if it can't be told."""
    uid: ast.expr | None
    """The ``dispatch_uid`` as it is written."""
    ours: bool
    """Whether it is signalbox's decorator, which takes a model's label as sender of any signal."""
    later: bool
    """Whether signalbox runs the receiver after commit."""
    scope: Function | None
    """The function in which it stands; ``None`` at the level of the module or of a class."""
    conditional: bool
    """Whether it stands in an ``if``, ``try``, ``while`` or ``match``."""
    loop: bool
    """Whether it stands in a loop."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Send:
    """One place where the source sends a signal."""

    module: str
    """Module that it stands in."""
    path: str
    """Absolute path of the file."""
    line: int
    """Line of the call."""
    signal: str
    """The signal by name."""
    method: str
    """``send``, ``send_robust``, ``asend`` or ``asend_robust``."""
    args: frozenset[str] | None
    """Names of the arguments; ``None`` if some are given by ``**``."""
    scope: Function | None
    """The function in which it stands."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Definition:
    """One place where the source makes a signal."""

    module: str
    """Module that it stands in."""
    path: str
    """Absolute path of the file."""
    line: int
    """Line of the assignment."""
    signal: str
    """The signal by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Module:
    """One parsed file."""

    name: str
    """Dotted name."""
    path: str
    """Absolute path of the file."""
    tree: ast.Module
    """Its syntax."""
    script: bool
    """Whether it is written to be run as a program."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """The source of all installed apps."""

    modules: Mapping[str, Module]
    """Parsed modules by dotted name: those that have to do with signals."""
    connects: tuple[Connect, ...]
    """Every connection written."""
    disconnects: frozenset[tuple[str, str]]
    """Signal and last name of the receiver of each ``disconnect()`` written."""
    sends: tuple[Send, ...]
    """Every send written."""
    definitions: tuple[Definition, ...]
    """Every signal made."""
    mentions: frozenset[str]
    """Signals that parsed files hand on as values."""
    functions: Mapping[tuple[str, int], Function]
    """Functions by file and first line."""
    files: Mapping[str, str]
    """Absolute path of each file, parsed or not, by dotted name."""
    texts: Mapping[str, str]
    """Text of each file, by absolute path."""

    @cached_property
    def imports(self) -> Mapping[str, frozenset[str]]:
        """Module to the dotted names that it imports, anywhere in it."""
        return {
            name: _imports(self.texts[path], name, package=path.endswith("__init__.py"))
            for name, path in self.files.items()
        }

    def hands_on(self, signal: str) -> bool:
        """Whether the signal is handed on as a value, so that somebody else may send or hear it.

        Of files that aren't parsed, since nothing in them is sent or connected, those count that import it and name it.
        """
        home, _, word = signal.rpartition(".")
        return signal in self.mentions or any(
            word in self.texts[self.files[name]]
            and any(target == home or target.endswith(f".{word}") for target in targets)
            for name, targets in self.imports.items()
            if name not in self.modules
        )


def read(apps: Iterable[App], aliases: Mapping[str, str], also: Iterable[str] = ()) -> Source:
    """Parse the apps' files.

    Args:
        apps: Whose files to read.
        aliases: Dotted path to name of the signals that the process knows.
        also: Absolute paths of files whose functions are wanted even if nothing in them tells of signals.
    """
    files = dict(_files(apps))
    texts = {path: _text(path) for path in files.values()}
    wanted = set(also)
    readers: dict[str, _Reader] = {}
    for name, path in files.items():
        text = texts[path]
        if path in wanted or any(word in text for word in _TELLING):
            readers[name] = _Reader(name, path, text)
    # A receiver connected by name may stand in a file that doesn't speak of signals.
    for target in {connect.target for reader in readers.values() for connect in reader.connects}:
        name = target.rpartition(".")[0]
        if name in files and name not in readers:
            readers[name] = _Reader(name, files[name], texts[files[name]])
    return _join(readers, files, texts, aliases)


def resolve(node: ast.expr | None, names: Mapping[str, str], module: str) -> str:
    """Return the dotted path that ``node`` names, given what names mean there; empty if it names none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, f"{module}.{node.id}")
    if isinstance(node, ast.Attribute):
        inner = resolve(node.value, names, module)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


# Files


def _files(apps: Iterable[App]) -> Iterator[tuple[str, str]]:
    apps = list(apps)
    roots = {app.path for app in apps}
    for app in apps:
        yield from _walk(app.path, app.module, roots - {app.path})


def _walk(path: str, module: str, others: set[str]) -> Iterator[tuple[str, str]]:
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:  # an app in a zip file, or gone: nothing to read
        return
    for entry in entries:
        name, dot, ending = entry.name.partition(".")
        if not name.isidentifier():
            continue
        if not dot and entry.is_dir():
            inside = _real(entry)
            # A folder with a manage.py is a project of its own.
            if name not in _LEFT_OUT and inside not in others and not os.path.exists(os.path.join(inside, "manage.py")):
                yield from _walk(inside, f"{module}.{name}", others)
        elif ending == "py" and not name.startswith("test_") and name not in {"conftest", "tests"}:
            yield (module if name == "__init__" else f"{module}.{name}"), _real(entry)


def _real(entry: os.DirEntry[str]) -> str:
    """Return the path without symbolic links; that of the folder has none."""
    return real(entry.path) if entry.is_symlink() else entry.path


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # gone since it was listed
        return ""


def _imports(text: str, module: str, *, package: bool) -> frozenset[str]:
    """Return the dotted names that ``text`` imports, by a look at its lines alone."""
    found: set[str] = set()
    for match in _IMPORTS.finditer(text):
        _, origin, names, plain = match.groups()
        if plain:
            found.update(part.split(" as ")[0].strip() for part in plain.partition("#")[0].split(","))
        else:
            base = absolute(origin.lstrip("."), len(origin) - len(origin.lstrip(".")), module, package=package)
            found.add(base)
            listed = re.sub(r"#[^\n]*", "", names).strip("() \t\n")
            found.update(f"{base}.{part.split(' as ')[0].strip()}" for part in listed.split(",") if part.strip())
    return frozenset(found)


def absolute(name: str, level: int, module: str, *, package: bool) -> str:
    """Return the absolute name of an import of ``name`` with ``level`` dots in ``module``."""
    if not level:
        return name
    parts = module.split(".")
    kept = parts[: len(parts) - level + (1 if package else 0)]
    return ".".join([*kept, name] if name else kept)


# One file


_What: TypeAlias = tuple[ReceiverKind, str, str, Function | None]
"""A receiver: what it is, how it is written, where its name leads, its definition."""


@dataclass(frozen=True)
class _Scope:
    """Where the reader is."""

    function: Function | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """What names mean: dotted paths of imports, definitions and simple assignments."""
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that stand for several signals, as the variable of a loop over them."""
    values: Mapping[str, ast.expr] = field(default_factory=dict)
    """What was assigned to the local names of a function."""
    prefix: str = ""
    bases: tuple[str, ...] = ()
    in_class: bool = False
    conditional: bool = False
    loop: bool = False


class _Reader:
    """Reads one file."""

    def __init__(self, name: str, path: str, text: str) -> None:
        self.name, self.path, self.package = name, path, path.endswith("__init__.py")
        self.connects: list[Connect] = []
        self.disconnects: list[tuple[str, str]] = []
        self.sends: list[tuple[str, Send]] = []
        self.definitions: list[tuple[str, str, int]] = []
        self.mentions: set[str] = set()
        self.functions: list[Function] = []
        self.by_name: dict[str, Function] = {}
        self.stars: list[str] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a strange escape in somebody's string is not our business
                self.tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):  # not this Python's syntax: a template, or an older file
            self.tree = ast.Module(body=[], type_ignores=[])
        self.script = "__main__" in text and any(
            isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in self.tree.body
        )
        self._block(self.tree.body, _Scope(names=self._bindings(self.tree.body, {})))

    # Names

    def _bindings(self, body: list[ast.stmt], around: Mapping[str, str], function: bool = False) -> dict[str, str]:
        """Return what names mean in a block: imports and simple aliases, however deep in its ``if`` and ``try``."""
        names = dict(around)
        for node in _same_scope(body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    names[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                base = absolute(node.module or "", node.level, self.name, package=self.package)
                for alias in node.names:
                    if alias.name == "*":
                        self.stars.append(base)
                    else:
                        names[alias.asname or alias.name] = f"{base}.{alias.name}"
            elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                if isinstance(node.value, ast.Name | ast.Attribute) and (path := resolve(node.value, names, self.name)):
                    if path.partition(".")[0] not in {"self", "cls"}:
                        names[node.targets[0].id] = path
                elif function:
                    names[node.targets[0].id] = ""  # a local value: no dotted path leads to it
            elif function and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names[node.name] = ""
        return names

    # Statements

    def _block(self, body: list[ast.stmt], scope: _Scope) -> None:
        for node in body:
            self._statement(node, scope)

    def _statement(self, node: ast.stmt, scope: _Scope) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node, scope)
            case ast.ClassDef():
                self._class(node, scope)
            case ast.If() | ast.While():
                self._expression(node.test, scope)
                inner = replace(scope, conditional=True, loop=scope.loop or isinstance(node, ast.While))
                self._block(node.body, inner)
                self._block(node.orelse, inner)
            case ast.For() | ast.AsyncFor():
                self._expression(node.iter, scope)
                self._block(node.body, replace(scope, loop=True, lists=self._loop(node, scope)))
                self._block(node.orelse, scope)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self._expression(item.context_expr, scope)
                self._block(node.body, scope)
            case ast.Try() | ast.TryStar():
                inner = replace(scope, conditional=True)
                for block in (node.body, *(handler.body for handler in node.handlers), node.orelse, node.finalbody):
                    self._block(block, inner)
            case ast.Match():
                self._expression(node.subject, scope)
                for case in node.cases:
                    self._block(case.body, replace(scope, conditional=True))
            case ast.Assign() | ast.AnnAssign():
                self._assignment(node, scope)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self._expression(child, scope)

    def _assignment(self, node: ast.Assign | ast.AnnAssign, scope: _Scope) -> None:
        if node.value is None:
            return
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        name = targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""
        if name and isinstance(node.value, ast.Name | ast.Attribute):
            return  # another name for the same thing
        at_top = not scope.function and not scope.in_class
        made_by = self._path(node.value.func, scope) if isinstance(node.value, ast.Call) else ""
        if name and at_top and made_by.endswith("Signal"):
            self.definitions.append((f"{self.name}.{name}", made_by, node.lineno))
        self._expression(node.value, scope)

    def _loop(self, node: ast.For | ast.AsyncFor, scope: _Scope) -> dict[str, tuple[str, ...]]:
        """Return what the variable of a loop over signals stands for."""
        lists = dict(scope.lists)
        items = node.iter.elts if isinstance(node.iter, ast.Tuple | ast.List) else []
        if isinstance(node.target, ast.Name) and items:
            lists[node.target.id] = tuple(filter(None, (self._path(item, scope) for item in items)))
        return lists

    def _class(self, node: ast.ClassDef, scope: _Scope) -> None:
        for expression in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self._expression(expression, scope)
        bases = tuple(filter(None, (self._path(base, scope) for base in node.bases)))
        self._block(
            node.body,
            replace(scope, prefix=f"{scope.prefix}{node.name}.", bases=bases or ("object",), in_class=True),
        )

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: _Scope) -> None:
        connecting, others = [], []
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            path = self._path(called, scope)
            if isinstance(decorator, ast.Call) and path in RECEIVER_DECORATORS:
                connecting.append(decorator)
            elif isinstance(called, ast.Attribute) and called.attr == "connect":
                others.append("")
                self._expression(decorator, scope)
            else:
                others.append(path or ast.unparse(called))
                self._expression(decorator, scope)
        function = self._new(node, node.name, scope, tuple(others))
        for decorator in connecting:
            self._decoration(decorator, function, scope)
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self._expression(default, scope)
        self._inside(function, scope)

    def _new(self, node: AnyFunction, name: str, scope: _Scope, decorators: tuple[str, ...] = ()) -> Function:
        first = (
            node.decorator_list[0].lineno if not isinstance(node, ast.Lambda) and node.decorator_list else node.lineno
        )
        around = {**scope.names, **dict.fromkeys(_parameter_names(node.args), "")}
        body = [] if isinstance(node, ast.Lambda) else node.body
        function = Function(
            module=self.name,
            qualname=f"{scope.prefix}{name}",
            path=self.path,
            line=first,
            node=node,
            outer=scope.function,
            bases=scope.bases if scope.in_class else (),
            method=scope.in_class,
            decorators=decorators,
            names=self._bindings(body, around, function=True),
        )
        self.functions.append(function)
        self.by_name[function.qualname] = function
        return function

    def _inside(self, function: Function, scope: _Scope) -> None:
        values = {
            node.targets[0].id: node.value
            for node in _same_scope(function.body)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        inner = _Scope(
            function=function,
            names=function.names,
            lists=scope.lists,
            values=values,
            prefix=f"{function.qualname}.<locals>.",
        )
        self._block(function.body, inner)

    # Expressions

    def _expression(self, node: ast.expr, scope: _Scope) -> None:
        match node:
            case ast.Call():
                self._call(node, scope)
            case ast.Lambda():
                self._inside(self._new(node, "<lambda>", scope), scope)
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()) if path := self._path(node, scope):
                self.mentions.add(path)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self._expression(child, scope)
                    elif isinstance(child, ast.keyword | ast.comprehension):
                        for part in ast.iter_child_nodes(child):
                            if isinstance(part, ast.expr):
                                self._expression(part, scope)

    def _call(self, node: ast.Call, scope: _Scope) -> None:
        called = node.func
        if isinstance(called, ast.Call) and self._path(called.func, scope) in RECEIVER_DECORATORS and node.args:
            self._decoration(called, node.args[0], scope)  # receiver(signal)(function)
            return
        if isinstance(called, ast.Attribute):
            signals = self._signals(called.value, scope)
            if signals and called.attr in {"connect", "disconnect", *SENDS}:
                if called.attr == "connect":
                    self._connect(node, signals, scope)
                elif called.attr == "disconnect":
                    receiver = _argument(node, 0, "receiver")
                    last = receiver.attr if isinstance(receiver, ast.Attribute) else getattr(receiver, "id", "*")
                    self.disconnects.extend((signal, last) for signal in signals)
                else:
                    self.sends.extend((signal, self._send(node, called.attr, scope)) for signal in signals)
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    self._expression(argument, scope)
                return
            self._expression(called, scope)
        elif not isinstance(called, ast.Name):
            self._expression(called, scope)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self._expression(argument, scope)

    def _send(self, node: ast.Call, method: str, scope: _Scope) -> Send:
        named = frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
        return Send(
            module=self.name,
            path=self.path,
            line=node.lineno,
            signal="",
            method=method,
            args=None if any(keyword.arg is None for keyword in node.keywords) else named - {"sender"},
            scope=scope.function,
        )

    def _path(self, node: ast.expr | None, scope: _Scope) -> str:
        return resolve(node, scope.names, self.name)

    def _signals(self, node: ast.expr | None, scope: _Scope) -> tuple[str, ...]:
        """Return the dotted paths of the signals that ``node`` may stand for; what is no signal falls out later."""
        if isinstance(node, ast.List | ast.Tuple):
            return tuple(path for item in node.elts for path in self._signals(item, scope))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return (node.value,)  # signalbox's decorator takes a signal's name
        if isinstance(node, ast.Name) and node.id in scope.lists:
            return scope.lists[node.id]
        path = self._path(node, scope)
        return (path,) if path else ()

    # Connections

    def _decoration(self, decorator: ast.Call, target: Function | ast.expr, scope: _Scope) -> None:
        signals = self._signals(_argument(decorator, 0, "signal"), scope)
        options = {keyword.arg: keyword.value for keyword in decorator.keywords}
        if isinstance(target, Function):
            what: _What = ("function", target.node_name, target.dotted, target)
        else:
            what = self._receiver(target, scope)
        later = _chosen(options, "durable") or _chosen(options, "after_commit")
        ours = self._path(decorator.func, scope) in OUR_DECORATORS
        self._add(decorator, signals, scope, what, options, decorator=True, ours=ours, later=later)

    def _connect(self, node: ast.Call, signals: tuple[str, ...], scope: _Scope) -> None:
        target = _argument(node, 0, "receiver")
        if target is None:
            return
        what = self._receiver(target, scope)
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        for position, name in ((1, "sender"), (2, "weak"), (3, "dispatch_uid")):
            if len(node.args) > position and not isinstance(node.args[position], ast.Starred):
                options[name] = node.args[position]
        self._add(node, signals, scope, what, options, decorator=False, ours=False, later=False)

    def _receiver(self, node: ast.expr, scope: _Scope) -> _What:
        text = ast.unparse(node)
        if isinstance(node, ast.Lambda):
            return "lambda", "<lambda>", "", self._new(node, "<lambda>", scope)
        value = scope.values.get(node.id) if isinstance(node, ast.Name) else node
        if isinstance(value, ast.Lambda):
            return "lambda", text, "", self._new(value, "<lambda>", scope)
        if isinstance(value, ast.Call):
            path = self._path(value.func, scope)
            return ("partial" if path == "functools.partial" else "temporary"), text, path, None
        if isinstance(node, ast.Attribute):
            inner = scope.values.get(node.value.id) if isinstance(node.value, ast.Name) else node.value
            if isinstance(inner, ast.Call):
                return "method", text, self._path(inner.func, scope), None
            if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"} and scope.function:
                owner = scope.function.qualname.split(".<locals>")[0].rpartition(".")[0]
                return "other", text, f"{self.name}.{owner}.{node.attr}", self.by_name.get(f"{owner}.{node.attr}")
        if isinstance(node, ast.Name):
            local = self.by_name.get(f"{scope.prefix}{node.id}") if scope.function else None
            if local:
                return "function", text, local.dotted, local
        path = self._path(node, scope)
        own = path.removeprefix(f"{self.name}.")
        return ("function" if path else "other"), text, path, self.by_name.get(own) if own != path else None

    def _add(
        self,
        node: ast.Call,
        signals: tuple[str, ...],
        scope: _Scope,
        what: _What,
        options: Mapping[str | None, ast.expr],
        *,
        decorator: bool,
        ours: bool,
        later: bool,
    ) -> None:
        kind, receiver, target, function = what
        sender = options.get("sender")
        if isinstance(sender, ast.Constant) and sender.value is None:
            sender = None
        unknown = None in options or _chosen(options, "durable")  # a durable receiver is not connected at all
        weak = None if unknown else _truth(options["weak"]) if "weak" in options else True
        self.connects.append(
            Connect(
                module=self.name,
                path=self.path,
                line=node.lineno,
                signals=signals,
                decorator=decorator,
                kind=kind,
                receiver=receiver,
                target=target,
                function=function,
                sender=sender,
                sender_path=self._path(sender.func if isinstance(sender, ast.Call) else sender, scope),
                weak=weak,
                uid=options.get("dispatch_uid"),
                ours=ours,
                later=later,
                scope=scope.function,
                conditional=scope.conditional,
                loop=scope.loop,
            )
        )


def _same_scope(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a scope, however deep, but none of inner functions and classes."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from _same_scope(getattr(node, name, ()))
        for handler in getattr(node, "handlers", ()):
            yield from _same_scope(handler.body)
        for case in getattr(node, "cases", ()):
            yield from _same_scope(case.body)


def _parameter_names(arguments: ast.arguments) -> Iterator[str]:
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            yield argument.arg


def _argument(node: ast.Call, position: int, name: str) -> ast.expr | None:
    if len(node.args) > position:
        return node.args[position]
    return next((keyword.value for keyword in node.keywords if keyword.arg == name), None)


def _chosen(options: Mapping[str | None, ast.expr], name: str) -> bool:
    """Whether the option is given, and not plainly false."""
    return name in options and _truth(options[name]) is not False


def _truth(node: ast.expr | None) -> bool | None:
    return bool(node.value) if isinstance(node, ast.Constant) else None


# All files


def _join(
    readers: Mapping[str, _Reader], files: Mapping[str, str], texts: Mapping[str, str], aliases: Mapping[str, str]
) -> Source:
    names = {**aliases, **{name: name for name in catalog.BUILTIN}}
    definitions = []
    for reader in readers.values():
        for path, made_by, line in reader.definitions:
            # Of an imported module the process knows what is a signal; another's may be of any library.
            if path not in aliases and made_by not in SIGNAL_CLASSES:
                continue
            signal = names.setdefault(path, path)
            definitions.append(Definition(module=reader.name, path=reader.path, line=line, signal=signal))
    functions = {function.dotted: function for reader in readers.values() for function in reader.functions}

    def known(paths: Iterable[str], reader: _Reader) -> Iterator[str]:
        for path in paths:
            last = path.removeprefix(f"{reader.name}.")
            candidates = (path, *(f"{star}.{last}" for star in reader.stars))
            yield from {names[candidate] for candidate in candidates if candidate in names}

    connects: list[Connect] = []
    disconnects: set[tuple[str, str]] = set()
    sends: list[Send] = []
    mentioned: set[str] = set()
    for reader in readers.values():
        for written in reader.connects:
            signals = tuple(dict.fromkeys(known(written.signals, reader)))
            if signals:
                named = functions.get(written.target) if written.kind in {"function", "other"} else None
                function = written.function or named
                connects.append(replace(written, signals=signals, function=function))
        disconnects.update((signal, last) for path, last in reader.disconnects for signal in known([path], reader))
        for path, send in reader.sends:
            sends.extend(replace(send, signal=signal) for signal in known([path], reader))
        mentioned.update(known(reader.mentions, reader))
    return Source(
        modules={
            name: Module(name=name, path=reader.path, tree=reader.tree, script=reader.script)
            for name, reader in readers.items()
        },
        connects=tuple(connects),
        disconnects=frozenset(disconnects),
        sends=tuple(sends),
        definitions=tuple(definitions),
        mentions=frozenset(mentioned),
        functions={(f.path, f.line): f for reader in readers.values() for f in reader.functions},
        files=files,
        texts=texts,
    )
