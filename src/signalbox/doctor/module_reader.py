"""Reads one file: its connections, sends and signals, by the names that are written there."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from signalbox.doctor.import_graph import absolute
from signalbox.doctor.source_model import AnyFunction, Connect, Function, ReceiverKind, Send, resolve

OUR_DECORATORS: Final = frozenset({"signalbox.receiver", "signalbox.outbox.registry.receiver"})
RECEIVER_DECORATORS: Final = OUR_DECORATORS | {"django.dispatch.receiver", "django.dispatch.dispatcher.receiver"}
SENDS: Final = frozenset({"send", "send_robust", "asend", "asend_robust"})


class _What(NamedTuple):
    """A receiver."""

    kind: ReceiverKind
    text: str
    target: str = ""
    function: Function | None = None
    node: ast.expr | None = None


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


def parsed(text: str) -> ast.Module | None:
    """Return the syntax of a file; ``None`` if it isn't this Python's: a template, or an older file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a strange escape in somebody's string is not our business
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


class Reader:
    """Reads one file; what it found is in its attributes, by the paths that are written there."""

    def __init__(self, name: str, path: str, text: str, tree: ast.Module) -> None:
        self.name, self.path, self.package = name, path, path.endswith("__init__.py")
        self.connects: list[Connect] = []
        self.disconnects: list[tuple[str, str]] = []
        self.sends: list[tuple[str, Send]] = []
        self.definitions: list[tuple[str, str, int]] = []
        self.mentions: set[str] = set()
        self.functions: list[Function] = []
        self.by_name: dict[str, Function] = {}
        self.stars: list[str] = []
        self.tree = tree
        self.script = "__main__" in text and any(
            isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in self.tree.body
        )
        self.names = self._bindings(self.tree.body, {})
        self._block(self.tree.body, _Scope(names=self.names))

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
            elif isinstance(node, ast.Assign | ast.AnnAssign) and (name := _assigned(node)):
                if isinstance(node.value, ast.Name | ast.Attribute) and (path := resolve(node.value, names, self.name)):
                    if path.partition(".")[0] not in {"self", "cls"}:
                        names[name] = path
                elif function:
                    names[name] = ""  # a local value: no dotted path leads to it
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
        name = _assigned(node)
        alias = name and isinstance(node.value, ast.Name | ast.Attribute) and not _is_send(node.value)
        if alias and not scope.in_class:
            return  # another name for the same thing; an attribute of a class is reached by `self` as well
        made_by = self._path(node.value.func, scope) if isinstance(node.value, ast.Call) else ""
        if name and not scope.function and made_by.endswith("Signal"):
            self.definitions.append((f"{self.name}.{scope.prefix}{name}", made_by, node.lineno))
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
                self.mentions.add(path.rpartition(".")[0] if _is_send(node) else path)
            case ast.Constant(value=str() as text) if "." in text:
                self.mentions.add(text)  # it may be a dotted path that is imported
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
            what = _What("function", target.node_name, target.dotted, target)
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
        return self._what(node, scope)._replace(node=node)

    def _what(self, node: ast.expr, scope: _Scope) -> _What:
        text = ast.unparse(node)
        if isinstance(node, ast.Lambda):
            return _What("lambda", "<lambda>", function=self._new(node, "<lambda>", scope))
        value = scope.values.get(node.id) if isinstance(node, ast.Name) else node
        if isinstance(value, ast.Lambda):
            return _What("lambda", text, function=self._new(value, "<lambda>", scope))
        if isinstance(value, ast.Call):
            if isinstance(value.func, ast.Call) and self._path(value.func.func, scope) == "functools.wraps":
                # It returns its argument.
                return self._what(value.args[0], scope)._replace(text=text) if value.args else _What("other", text)
            path = self._path(value.func, scope)
            return _What("partial" if path == "functools.partial" else "temporary", text, path)
        if isinstance(node, ast.Attribute):
            inner = scope.values.get(node.value.id) if isinstance(node.value, ast.Name) else node.value
            if isinstance(inner, ast.Call):
                return _What("method", text, self._path(inner.func, scope))
            if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"} and scope.function:
                owner = scope.function.qualname.split(".<locals>")[0].rpartition(".")[0]
                method = f"{owner}.{node.attr}"
                return _What("other", text, f"{self.name}.{method}", self.by_name.get(method))
        if isinstance(node, ast.Name):
            local = self.by_name.get(f"{scope.prefix}{node.id}") if scope.function else None
            if local:
                return _What("function", text, local.dotted, local)
        path = self._path(node, scope)
        own = path.removeprefix(f"{self.name}.")
        function = self.by_name.get(own) if own != path else None
        return _What("function" if path else "other", text, path, function)

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
                kind=what.kind,
                receiver=what.text,
                node=what.node,
                target=what.target,
                function=what.function,
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


def _is_send(node: ast.expr) -> bool:
    """Whether it is a signal's bound method: whoever has that sends the signal."""
    return isinstance(node, ast.Attribute) and node.attr in SENDS


def _assigned(node: ast.Assign | ast.AnnAssign) -> str:
    """Return the one name that is assigned to; nothing if there are others, or none."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) and node.value else ""


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
