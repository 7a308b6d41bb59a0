"""Receivers that are gone, or will be: dead, shadowed, short-lived."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Final, TypeAlias

from signalbox.doctor import app_ready
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.source_model import Connect, Function, Module
from signalbox.doctor.syntax import dotted

_Chain: TypeAlias = tuple[tuple[int, int], ...]
"""Where a statement stands: block and index in it, from the outermost block to its own."""
_Bindings: TypeAlias = dict[str, list[tuple[_Chain, ast.stmt]]]
"""What binds each name at the level of a module, in order."""

_DEBUG_TELL: Final = (
    "It works as long as DEBUG is on, by accident: Django's check of the signature keeps it in a cache. With DEBUG "
    "off it is collected."
)

_DJANGOS_OWN: Final = frozenset({"setting_changed"})
"""Signals to which Django connects methods of its own passing objects, as of each storage: that one is gone is no news.
A place in a signal's list doesn't tell whose it was."""


@rule(
    1,
    "dead-receiver",
    Severity.ERROR,
    "a weakly connected receiver that has been collected, and where it was connected",
    packages=True,
)
def dead(project: Project) -> Iterator[Fault]:
    """Find receivers that the process has lost, and that no other rule of this family explains."""
    explained = {(fault.path, fault.line, fault.signal) for find in (shadowed, short_lived) for fault in find(project)}
    told = Counter(signal for _, _, signal in explained)
    for connect in project.source.connects:
        for signal in connect.signals:
            if (connect.path, connect.line, signal) not in explained and _lost(project, connect, signal):
                told[signal] += 1
                yield Fault(
                    path=connect.path,
                    line=connect.line,
                    signal=signal,
                    receiver=connect.target,
                    happens=f"{connect.receiver} never runs."
                    + (f" {_DEBUG_TELL}" if project.connections(connect, signal) else ""),
                    why="It was connected weakly, nothing else in the process holds it any more, and so it was "
                    "collected.",
                    remedy="Keep it under its name in the module, or connect it with weak=False.",
                )
    yield from _kept_by_accident(project, explained)
    for signal, count in Counter(c.signal for c in project.runtime.connections if not c.alive).items():
        if count > told[signal] and signal not in _DJANGOS_OWN:
            yield Fault(
                path="",
                line=0,
                signal=signal,
                happens=f"{count - told[signal]} receiver(s) of this signal will never run again.",
                why="They were connected weakly and have been collected: Django keeps nothing but their places.",
                remedy="If they should live on, keep a reference to them, or connect them with weak=False.",
                severity=Severity.WARNING,
            )


def _kept_by_accident(project: Project, explained: set[tuple[str, int, str]]) -> Iterator[Fault]:
    """Find what only the cache of DEBUG keeps, of which the source doesn't show where it is connected."""
    sites: set[tuple[str, str, int]] = set(project.sites)
    unsure: set[str] = set()
    for connect in project.source.connects:
        made = project.made(connect)
        for signal in connect.signals:
            if made:
                sites.add((signal, made.path, made.line))
            if (connect.path, connect.line, signal) in explained and not project.connections(connect, signal):
                # A partial, an object or a wrapper: which of the connections is its own can't be told.
                unsure.add(signal)
    for connection in project.runtime.connections:
        app = project.runtime.app_of(connection.path)
        place = (connection.signal, connection.path, connection.line)
        if (
            connection.accidental
            and connection.signal not in unsure
            and app is not None
            and app.own
            and place not in sites
        ):
            yield Fault(
                path=connection.path,
                line=connection.line,
                signal=connection.signal,
                receiver=connection.receiver,
                happens=f"The receiver never runs in production. {_DEBUG_TELL}",
                why="It is connected weakly, and nothing but that cache holds it.",
                remedy="Keep it under a name in the module, or connect it with weak=False and a dispatch_uid.",
            )


def _lost(project: Project, connect: Connect, signal: str) -> bool:
    """Whether the module has run, connected a function of its own, and the process has neither any more."""
    function = connect.function
    if (
        function is None
        or function.module != connect.module
        or connect.scope is not None
        or connect.weak is not True
        or connect.conditional
        or function.opaque
        or function.method
        or (signal, function.node_name) in project.source.disconnects
        or (signal, "*") in project.source.disconnects
        or not project.loaded(connect.module)
        or project.runtime.bound.get(function.dotted) == (function.path, function.line)
    ):
        return False
    return _up_to_date(project, function) and not project.held(connect, signal)


def _up_to_date(project: Project, function: Function) -> bool:
    """Whether the process runs the file as it is now: each function that its module holds stands in the source."""
    prefix = f"{function.module}."
    return all(
        (path, line) in project.source.functions
        for name, (path, line) in project.runtime.bound.items()
        if name.startswith(prefix) and path == function.path
    )


@rule(
    2,
    "shadowed-receiver",
    Severity.ERROR,
    "a decorated or connected function whose name is bound again later in the module: dead with DEBUG off",
    packages=True,
)
def shadowed(project: Project) -> Iterator[Fault]:
    """Find functions that lose their only name."""
    bindings: dict[str, _Bindings] = {}
    for connect in project.source.connects:
        function = connect.function
        if (
            connect.scope is None
            and connect.weak is True
            and connect.kind == "function"
            and function is not None
            and function.outer is None
            and not function.opaque
            and function.module == connect.module
        ):
            module = project.module(connect.module)
            block = function.dotted.rpartition(".")[0]
            if module and block not in bindings:
                bindings[block] = _bindings(_body(module, function))
            again = _bound_again(module, bindings[block], connect, function) if module else None
            if again is None:
                continue
            for signal in connect.signals:
                # In a loop the last one lives, and shares its line with those that don't. What signalbox runs after
                # commit lives in a circle with its function, until that is collected.
                if connect.loop or connect.later or not project.held(connect, signal):
                    yield _shadowed(project, connect, signal, again)


def _shadowed(project: Project, connect: Connect, signal: str, again: int) -> Fault:
    if again == connect.line or connect.loop:
        why = (
            f"Each turn of the loop binds the name {connect.receiver} again; all functions but the last are collected."
        )
    else:
        why = (
            f"The name {connect.receiver} is bound again in line {again}. The signal holds the function weakly, so "
            "that with its name it loses the last thing that kept it."
        )
    return Fault(
        path=connect.path,
        line=connect.line,
        signal=signal,
        receiver=connect.target,
        happens=f"This {connect.receiver} never runs in production. {_DEBUG_TELL}"
        if project.runtime.debug
        else f"This {connect.receiver} never runs. With DEBUG on it would, by accident: Django keeps it in a cache "
        "then.",
        why=why,
        remedy="Give each function a name of its own.",
    )


def _bound_again(module: Module, bound: _Bindings, connect: Connect, function: Function) -> int | None:
    """Return the line in which the function surely loses its name; ``None`` if it keeps it, or is held elsewhere."""
    name = function.node_name
    bindings = bound.get(name, [])
    own = next((chain for chain, node in bindings if node is function.node), None)
    if own is None:
        return None
    if connect.loop and connect.decorator and not connect.conditional:
        return connect.line
    for chain, node in bindings:
        block, index = chain[-1]
        after = any(block == its and index > at for its, at in own)
        # Between the function and its connect() the name meant the same; what comes after both takes it away.
        if after and (connect.decorator or node.lineno > connect.line):
            if isinstance(node, ast.Delete):
                return None  # the rule of dead receivers tells it better
            return None if _used(module, name, function.node.end_lineno or 0, node, connect) else node.lineno
    return None


def _body(module: Module, function: Function) -> list[ast.stmt]:
    """Return the block of the module or class that the function is defined in, however deep."""
    body = module.tree.body
    for name in function.qualname.split(".")[:-1]:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name), [])
    return body


def _bindings(body: list[ast.stmt]) -> _Bindings:
    """Return what binds each name at the level of a module or class, in order."""
    found: _Bindings = {}

    def walk(body: list[ast.stmt], chain: _Chain) -> None:
        for index, node in enumerate(body):
            here = (*chain, (id(body), index))
            for name in _names(node):
                found.setdefault(name, []).append((here, node))
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for field in ("body", "orelse", "finalbody"):
                    walk(getattr(node, field, []), here)
                for handler in getattr(node, "handlers", []):
                    walk(handler.body, here)

    walk(body, ())
    return found


def _names(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Import() | ast.ImportFrom():
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        case ast.Assign() | ast.Delete():
            yield from (name for target in node.targets for name in _bound_in(target))
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
            yield name
        case ast.For():
            yield from _bound_in(node.target)
        case ast.With():
            yield from (name for item in node.items if item.optional_vars for name in _bound_in(item.optional_vars))


def _bound_in(target: ast.expr) -> Iterator[str]:
    """Yield the names that a target binds or deletes; in ``order.total = 1`` there is none."""
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id


def _used(module: Module, name: str, start: int, until: ast.stmt, connect: Connect) -> bool:
    """Whether the name is handed to anything that may keep the function before it is bound again."""
    for node in ast.walk(module.tree):
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Name)
                and child.id == name
                and isinstance(child.ctx, ast.Load)
                and start < child.lineno <= (until.end_lineno or until.lineno)
                and not (isinstance(node, ast.Call) and (node.func is child or _is_connect(node)))
            ):
                return True
    return False


def _is_connect(node: ast.Call) -> bool:
    """Whether it is a weak ``connect()``, or a ``disconnect()``: neither keeps its argument."""
    weak = next((keyword.value for keyword in node.keywords if keyword.arg == "weak"), None)
    return (
        isinstance(node.func, ast.Attribute)
        and node.func.attr in {"connect", "disconnect"}
        and (weak is None or (isinstance(weak, ast.Constant) and bool(weak.value)))
    )


@rule(
    3,
    "short-lived-receiver",
    Severity.ERROR,
    "a lambda, nested function, partial or method of a temporary object connected weakly",
    packages=True,
)
def short_lived(project: Project) -> Iterator[Fault]:
    """Find receivers that nothing holds once their statement, or the function around it, is done."""
    started = app_ready.ran(project)
    for connect in project.source.connects:
        what = _temporary(project, connect, started) if connect.weak is True else None
        if what is None:
            continue
        for signal in connect.signals:
            if not project.held(connect, signal) and not _lives(project, connect, signal):
                yield Fault(
                    path=connect.path,
                    line=connect.line,
                    signal=signal,
                    receiver=connect.function.dotted if connect.function else connect.receiver,
                    happens=f"The receiver is collected at once and never runs. {_DEBUG_TELL}"
                    if connect.kind not in {"method", "other"}
                    else "The receiver is collected at once and never runs, whatever DEBUG says.",
                    why=f"connect() holds it weakly, and nothing else holds {what}.",
                    remedy="Connect a function of the module, or say weak=False and give a dispatch_uid.",
                )


def _lives(project: Project, connect: Connect, signal: str) -> bool:
    """Whether an object of the class lives as a receiver: it may have seen to that itself, in its ``__init__()``."""
    expected = connect.target
    if connect.kind == "method":
        expected += f".{connect.receiver.rpartition('.')[2]}"
    return connect.kind in {"method", "temporary", "other"} and any(
        c.signal == signal and c.receiver == expected and not c.accidental for c in project.runtime.connections
    )


def _temporary(project: Project, connect: Connect, started: frozenset[Function]) -> str | None:
    """Return what the receiver is, in words, if nothing keeps it."""
    function = connect.function
    match connect.kind:
        case "lambda":
            return "the lambda" if _only_connected(connect) else None
        case "partial":
            return "the partial" if _only_connected(connect) else None
        case "method":
            owner = connect.target.rpartition(".")[2]
            return (
                f"the {owner} that the method belongs to" if owner[:1].isupper() and _only_connected(connect) else None
            )
        case "temporary":
            owner = connect.target.rpartition(".")[2]
            if project.made(connect):
                return f"the function that {owner}() makes" if _only_connected(connect) else None
            return f"the {owner} made here" if owner[:1].isupper() and _only_connected(connect) else None
        case "other" if _connected_itself(project, connect, started):
            owner = connect.target.rpartition(".")[0].rpartition(".")[2]
            return f"the {owner} that the method belongs to"
        case "function" if function and function.outer and function.outer is connect.scope and not function.opaque:
            return (
                f"the function {connect.receiver} once {function.outer.node_name}() returns"
                if _only_connected(connect)
                else None
            )
        case _:
            return None


def _connected_itself(project: Project, connect: Connect, started: frozenset[Function]) -> bool:
    """Whether an object has surely connected its own method, and the process doesn't have that any more."""
    function, scope = connect.function, connect.scope
    return (
        function is not None
        and function.method
        and not function.decorators
        and connect.receiver.startswith("self.")
        and scope in started
        and not connect.conditional
        and not connect.loop
        and connect.uid is None
        and app_ready.surely(scope, connect.line)
        and not any((signal, function.node_name) in project.source.disconnects for signal in connect.signals)
        and not any((signal, "*") in project.source.disconnects for signal in connect.signals)
        and _up_to_date(project, function)
        and _is_sender_there(project, connect)
    )


def _is_sender_there(project: Project, connect: Connect) -> bool:
    """Whether Django didn't wait for the sender, a model by its label, when the connection was made."""
    if isinstance(connect.sender, ast.Constant):
        return str(connect.sender.value).lower() in project.runtime.models
    return not connect.sender_path.endswith("AUTH_USER_MODEL")


def _only_connected(connect: Connect) -> bool:
    """Whether nothing but connect() gets hold of the receiver, and the function around it is done after that."""
    owner = connect.node.value if connect.kind == "method" and isinstance(connect.node, ast.Attribute) else connect.node
    if isinstance(owner, ast.Call | ast.Lambda):
        return True  # made in the call itself: nothing else can hold it
    if isinstance(owner, ast.Name):
        name = owner.id
    elif connect.function and owner is None:
        name = connect.function.node_name
    else:
        return False
    scope = connect.scope
    if scope is None:
        return False  # a name of the module holds it
    used_by_calls: set[ast.AST] = set()
    for node in ast.walk(scope.node):
        if isinstance(node, ast.Yield | ast.YieldFrom | ast.Await | ast.Global | ast.Nonlocal):
            return False
        if isinstance(node, ast.Call):
            used_by_calls.add(node.func)
            if isinstance(node.func, ast.Attribute) and node.func.attr == "disconnect":
                return False
            if _is_connect(node):
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    used_by_calls.update(ast.walk(argument))
    for node in ast.walk(scope.node):
        if (
            isinstance(node, ast.Name)
            and node.id == name
            and isinstance(node.ctx, ast.Load)
            and node not in used_by_calls
        ):
            return False
    return not _works_on(scope, connect)


def _works_on(scope: Function, connect: Connect) -> bool:
    """Whether the function goes on to call other things while its local names still hold the receiver."""
    for statement in scope.body:
        if statement.lineno <= connect.line <= (statement.end_lineno or 0):
            continue
        if statement.lineno > connect.line and not isinstance(
            statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
        ):
            for node in ast.walk(statement):
                if isinstance(node, ast.Call):
                    last = dotted(node.func).rpartition(".")[2]
                    if last not in {"connect", "debug", "info", "partial", "wraps"} and not last[:1].isupper():
                        return True
    return False
