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
from signalbox.doctor.source_model import ConnectCall, Function, Module
from signalbox.doctor.syntax import get_dotted_name

_StatementPath: TypeAlias = tuple[tuple[int, int], ...]
"""Where a statement stands: block and index in it, from the outermost block to its own."""
_NameBindings: TypeAlias = dict[str, list[tuple[_StatementPath, ast.stmt]]]
"""What binds each name at the level of a module, in order."""

_DEBUG_NOTE: Final = (
    "It works as long as DEBUG is on, by accident: Django's check of the signature keeps it in a cache. With DEBUG "
    "off it is collected."
)

_DJANGO_INTERNAL_SIGNALS: Final = frozenset({"setting_changed"})
"""Signals to which Django connects methods of its own passing objects, as of each storage: that one is gone is no news.
A place in a signal's list doesn't tell whose it was."""


@rule(
    1,
    "dead-receiver",
    Severity.ERROR,
    "a weakly connected receiver that has been collected, and where it was connected",
    include_packages=True,
)
def dead_receiver(project: Project) -> Iterator[Fault]:
    """Find receivers that the process has lost, and that no other rule of this family explains."""
    explained = {
        (fault.path, fault.line, fault.signal)
        for find in (shadowed_receiver, short_lived_receiver)
        for fault in find(project)
    }
    reported = Counter(signal for _, _, signal in explained)
    for connect in project.source.connect_calls:
        for signal in connect.signals:
            if (connect.path, connect.line, signal) not in explained and _is_lost(project, connect, signal):
                reported[signal] += 1
                yield Fault(
                    path=connect.path,
                    line=connect.line,
                    signal=signal,
                    receiver=connect.receiver_path,
                    message=f"{connect.receiver_text} never runs."
                    + (f" {_DEBUG_NOTE}" if project.find_connections(connect, signal) else ""),
                    reason="It was connected weakly, nothing else in the process holds it any more, and so it was "
                    "collected.",
                    hint="Keep it under its name in the module, or connect it with weak=False.",
                )
    yield from _find_kept_by_debug_cache(project, explained)
    for signal, count in Counter(c.signal for c in project.runtime.connections if not c.is_alive).items():
        if count > reported[signal] and signal not in _DJANGO_INTERNAL_SIGNALS:
            yield Fault(
                path="",
                line=0,
                signal=signal,
                message=f"{count - reported[signal]} receiver(s) of this signal will never run again.",
                reason="They were connected weakly and have been collected: Django keeps nothing but their places.",
                hint="If they should live on, keep a reference to them, or connect them with weak=False.",
                severity=Severity.WARNING,
            )


def _find_kept_by_debug_cache(project: Project, explained: set[tuple[str, int, str]]) -> Iterator[Fault]:
    """Find what only the cache of DEBUG keeps, of which the source doesn't show where it is connected."""
    known_keys: set[tuple[str, str, int]] = set(project.connect_calls)
    unsure: set[str] = set()
    for connect in project.source.connect_calls:
        made = project.get_factory_product(connect)
        for signal in connect.signals:
            if made:
                known_keys.add((signal, made.path, made.line))
            if (connect.path, connect.line, signal) in explained and not project.find_connections(connect, signal):
                # A partial, an object or a wrapper: which of the connections is its own can't be told.
                unsure.add(signal)
    for connection in project.runtime.connections:
        app = project.runtime.find_app_by_path(connection.path)
        key = (connection.signal, connection.path, connection.line)
        if (
            connection.kept_by_debug_cache
            and connection.signal not in unsure
            and app is not None
            and app.is_project_app
            and key not in known_keys
        ):
            yield Fault(
                path=connection.path,
                line=connection.line,
                signal=connection.signal,
                receiver=connection.receiver,
                message=f"The receiver never runs in production. {_DEBUG_NOTE}",
                reason="It is connected weakly, and nothing but that cache holds it.",
                hint="Keep it under a name in the module, or connect it with weak=False and a dispatch_uid.",
            )


def _is_lost(project: Project, connect: ConnectCall, signal: str) -> bool:
    """Whether the module has run, connected a function of its own, and the process has neither any more."""
    function = connect.function
    if (
        function is None
        or function.module != connect.module
        or connect.enclosing_function is not None
        or connect.weak is not True
        or connect.is_conditional
        or function.has_unknown_decorator
        or function.is_method
        or (signal, function.name) in project.source.disconnected
        or (signal, "*") in project.source.disconnected
        or not project.is_loaded(connect.module)
        or project.runtime.module_functions.get(function.dotted_name) == (function.path, function.line)
    ):
        return False
    return _is_up_to_date(project, function) and not project.is_kept_alive(connect, signal)


def _is_up_to_date(project: Project, function: Function) -> bool:
    """Whether the process runs the file as it is now: each function that its module holds stands in the source."""
    prefix = f"{function.module}."
    return all(
        (path, line) in project.source.functions
        for name, (path, line) in project.runtime.module_functions.items()
        if name.startswith(prefix) and path == function.path
    )


@rule(
    2,
    "shadowed-receiver",
    Severity.ERROR,
    "a decorated or connected function whose name is bound again later in the module: dead with DEBUG off",
    include_packages=True,
)
def shadowed_receiver(project: Project) -> Iterator[Fault]:
    """Find functions that lose their only name."""
    bindings: dict[str, _NameBindings] = {}
    for connect in project.source.connect_calls:
        function = connect.function
        if (
            connect.enclosing_function is None
            and connect.weak is True
            and connect.kind == "function"
            and function is not None
            and function.enclosing_function is None
            and not function.has_unknown_decorator
            and function.module == connect.module
        ):
            module = project.get_module(connect.module)
            block = function.dotted_name.rpartition(".")[0]
            if module and block not in bindings:
                bindings[block] = _collect_bindings(_get_defining_block(module, function))
            rebinding_line = _find_rebinding_line(module, bindings[block], connect, function) if module else None
            if rebinding_line is None:
                continue
            for signal in connect.signals:
                # In a loop the last one lives, and shares its line with those that don't. What signalbox runs after
                # commit lives in a circle with its function, until that is collected.
                if connect.in_loop or connect.after_commit or not project.is_kept_alive(connect, signal):
                    yield _build_shadowed_fault(project, connect, signal, rebinding_line)


def _build_shadowed_fault(project: Project, connect: ConnectCall, signal: str, rebinding_line: int) -> Fault:
    if rebinding_line == connect.line or connect.in_loop:
        reason = (
            f"Each turn of the loop binds the name {connect.receiver_text} again; all functions but the last are "
            "collected."
        )
    else:
        reason = (
            f"The name {connect.receiver_text} is bound again in line {rebinding_line}. The signal holds the function "
            "weakly, so that with its name it loses the last thing that kept it."
        )
    return Fault(
        path=connect.path,
        line=connect.line,
        signal=signal,
        receiver=connect.receiver_path,
        message=f"This {connect.receiver_text} never runs in production. {_DEBUG_NOTE}"
        if project.runtime.debug
        else f"This {connect.receiver_text} never runs. With DEBUG on it would, by accident: Django keeps it in a "
        "cache then.",
        reason=reason,
        hint="Give each function a name of its own.",
    )


def _find_rebinding_line(
    module: Module, name_bindings: _NameBindings, connect: ConnectCall, function: Function
) -> int | None:
    """Return the line in which the function surely loses its name; ``None`` if it keeps it, or is held elsewhere."""
    name = function.name
    bindings = name_bindings.get(name, [])
    own_chain = next((chain for chain, node in bindings if node is function.node), None)
    if own_chain is None:
        return None
    if connect.in_loop and connect.is_decorator and not connect.is_conditional:
        return connect.line
    for chain, node in bindings:
        block, index = chain[-1]
        follows = any(block == own_block and index > own_index for own_block, own_index in own_chain)
        # Between the function and its connect() the name meant the same; what comes after both takes it away.
        if follows and (connect.is_decorator or node.lineno > connect.line):
            if isinstance(node, ast.Delete):
                return None  # the rule of dead receivers tells it better
            return None if _is_used(module, name, function.node.end_lineno or 0, node, connect) else node.lineno
    return None


def _get_defining_block(module: Module, function: Function) -> list[ast.stmt]:
    """Return the block of the module or class that the function is defined in, however deep."""
    body = module.tree.body
    for name in function.qualname.split(".")[:-1]:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name), [])
    return body


def _collect_bindings(body: list[ast.stmt]) -> _NameBindings:
    """Return what binds each name at the level of a module or class, in order."""
    bindings: _NameBindings = {}

    def walk(body: list[ast.stmt], chain: _StatementPath) -> None:
        for index, node in enumerate(body):
            position = (*chain, (id(body), index))
            for name in _iter_bound_names(node):
                bindings.setdefault(name, []).append((position, node))
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for field in ("body", "orelse", "finalbody"):
                    walk(getattr(node, field, []), position)
                for handler in getattr(node, "handlers", []):
                    walk(handler.body, position)

    walk(body, ())
    return bindings


def _iter_bound_names(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Import() | ast.ImportFrom():
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        case ast.Assign() | ast.Delete():
            yield from (name for target in node.targets for name in _iter_target_names(target))
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
            yield name
        case ast.For():
            yield from _iter_target_names(node.target)
        case ast.With():
            yield from (
                name for item in node.items if item.optional_vars for name in _iter_target_names(item.optional_vars)
            )


def _iter_target_names(target: ast.expr) -> Iterator[str]:
    """Yield the names that a target binds or deletes; in ``order.total = 1`` there is none."""
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id


def _is_used(module: Module, name: str, start: int, end: ast.stmt, connect: ConnectCall) -> bool:
    """Whether the name is handed to anything that may keep the function before it is bound again."""
    for node in ast.walk(module.tree):
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Name)
                and child.id == name
                and isinstance(child.ctx, ast.Load)
                and start < child.lineno <= (end.end_lineno or end.lineno)
                and not (isinstance(node, ast.Call) and (node.func is child or _is_weak_connect(node)))
            ):
                return True
    return False


def _is_weak_connect(node: ast.Call) -> bool:
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
    include_packages=True,
)
def short_lived_receiver(project: Project) -> Iterator[Fault]:
    """Find receivers that nothing holds once their statement, or the function around it, is done."""
    executed = app_ready.find_executed_functions(project)
    for connect in project.source.connect_calls:
        description = _describe_temporary(project, connect, executed) if connect.weak is True else None
        if description is None:
            continue
        for signal in connect.signals:
            if not project.is_kept_alive(connect, signal) and not _is_alive(project, connect, signal):
                yield Fault(
                    path=connect.path,
                    line=connect.line,
                    signal=signal,
                    receiver=connect.function.dotted_name if connect.function else connect.receiver_text,
                    message=f"The receiver is collected at once and never runs. {_DEBUG_NOTE}"
                    if connect.kind not in {"method", "other"}
                    else "The receiver is collected at once and never runs, whatever DEBUG says.",
                    reason=f"connect() holds it weakly, and nothing else holds {description}.",
                    hint="Connect a function of the module, or say weak=False and give a dispatch_uid.",
                )


def _is_alive(project: Project, connect: ConnectCall, signal: str) -> bool:
    """Whether an object of the class lives as a receiver: it may have seen to that itself, in its ``__init__()``."""
    expected = connect.receiver_path
    if connect.kind == "method":
        expected += f".{connect.receiver_text.rpartition('.')[2]}"
    return connect.kind in {"method", "temporary", "other"} and any(
        c.signal == signal and c.receiver == expected and not c.kept_by_debug_cache for c in project.runtime.connections
    )


def _describe_temporary(project: Project, connect: ConnectCall, executed: frozenset[Function]) -> str | None:
    """Return what the receiver is, in words, if nothing keeps it."""
    function = connect.function
    match connect.kind:
        case "lambda":
            return "the lambda" if _is_only_connected(connect) else None
        case "partial":
            return "the partial" if _is_only_connected(connect) else None
        case "method":
            owner = connect.receiver_path.rpartition(".")[2]
            return (
                f"the {owner} that the method belongs to"
                if owner[:1].isupper() and _is_only_connected(connect)
                else None
            )
        case "temporary":
            owner = connect.receiver_path.rpartition(".")[2]
            if project.get_factory_product(connect):
                return f"the function that {owner}() makes" if _is_only_connected(connect) else None
            return f"the {owner} made here" if owner[:1].isupper() and _is_only_connected(connect) else None
        case "other" if _connects_own_method(project, connect, executed):
            owner = connect.receiver_path.rpartition(".")[0].rpartition(".")[2]
            return f"the {owner} that the method belongs to"
        case "function" if (
            function
            and function.enclosing_function
            and function.enclosing_function is connect.enclosing_function
            and not function.has_unknown_decorator
        ):
            return (
                f"the function {connect.receiver_text} once {function.enclosing_function.name}() returns"
                if _is_only_connected(connect)
                else None
            )
        case _:
            return None


def _connects_own_method(project: Project, connect: ConnectCall, executed: frozenset[Function]) -> bool:
    """Whether an object has surely connected its own method, and the process doesn't have that any more."""
    function, scope = connect.function, connect.enclosing_function
    return (
        function is not None
        and function.is_method
        and not function.decorators
        and connect.receiver_text.startswith("self.")
        and scope in executed
        and not connect.is_conditional
        and not connect.in_loop
        and connect.dispatch_uid is None
        and app_ready.is_always_called(scope, connect.line)
        and not any((signal, function.name) in project.source.disconnected for signal in connect.signals)
        and not any((signal, "*") in project.source.disconnected for signal in connect.signals)
        and _is_up_to_date(project, function)
        and _is_sender_loaded(project, connect)
    )


def _is_sender_loaded(project: Project, connect: ConnectCall) -> bool:
    """Whether Django didn't wait for the sender, a model by its label, when the connection was made."""
    if isinstance(connect.sender_node, ast.Constant):
        return str(connect.sender_node.value).lower() in project.runtime.models
    return not connect.sender_path.endswith("AUTH_USER_MODEL")


def _is_only_connected(connect: ConnectCall) -> bool:
    """Whether nothing but connect() gets hold of the receiver, and the function around it is done after that."""
    owner = (
        connect.receiver_node.value
        if connect.kind == "method" and isinstance(connect.receiver_node, ast.Attribute)
        else connect.receiver_node
    )
    if isinstance(owner, ast.Call | ast.Lambda):
        return True  # made in the call itself: nothing else can hold it
    if isinstance(owner, ast.Name):
        name = owner.id
    elif connect.function and owner is None:
        name = connect.function.name
    else:
        return False
    scope = connect.enclosing_function
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
            if _is_weak_connect(node):
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
    return not _makes_later_calls(scope, connect)


def _makes_later_calls(scope: Function, connect: ConnectCall) -> bool:
    """Whether the function goes on to call other things while its local names still hold the receiver."""
    for statement in scope.body:
        if statement.lineno <= connect.line <= (statement.end_lineno or 0):
            continue
        if statement.lineno > connect.line and not isinstance(
            statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
        ):
            for node in ast.walk(statement):
                if isinstance(node, ast.Call):
                    called_name = get_dotted_name(node.func).rpartition(".")[2]
                    if (
                        called_name not in {"connect", "debug", "info", "partial", "wraps"}
                        and not called_name[:1].isupper()
                    ):
                        return True
    return False
