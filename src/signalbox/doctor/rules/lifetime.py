"""Receivers that were collected, or whose function loses its name."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Final, TypeAlias

from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.rules.short_lived_receivers import DEBUG_NOTE, short_lived_receiver
from signalbox.doctor.source_model import ConnectCall, Function, Module
from signalbox.doctor.syntax import is_weak_connect

_StatementPath: TypeAlias = tuple[tuple[int, int], ...]
"""The position of a statement: block and index, from the outermost block to its own."""
_NameBindings: TypeAlias = dict[str, list[tuple[_StatementPath, ast.stmt]]]
"""The statements that bind each name at module level, in order."""

_DJANGO_INTERNAL_SIGNALS: Final = frozenset({"setting_changed"})
"""Signals with receivers of Django on temporary objects, such as storages. They are often collected."""


@rule(
    1,
    "dead-receiver",
    Severity.ERROR,
    "a weakly connected receiver that has been collected, and where it was connected",
    include_packages=True,
)
def dead_receiver(project: Project) -> Iterator[Fault]:
    """Find collected receivers that neither D002 nor D003 explains."""
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
                    + (f" {DEBUG_NOTE}" if project.find_connections(connect, signal) else ""),
                    reason="It was connected weakly. No other reference to it is left in the process, so it was "
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
                reason="They were connected weakly and have been collected. Django keeps only their list entries.",
                hint="Keep a reference to them, or connect them with weak=False.",
                severity=Severity.WARNING,
            )


def _find_kept_by_debug_cache(project: Project, explained: set[tuple[str, int, str]]) -> Iterator[Fault]:
    """Find receivers that only the cache of ``DEBUG`` keeps alive and whose connecting call is unknown."""
    known_keys: set[tuple[str, str, int]] = set(project.connect_calls)
    unsure: set[str] = set()
    for connect in project.source.connect_calls:
        made = project.get_factory_product(connect)
        for signal in connect.signals:
            if made:
                known_keys.add((signal, made.path, made.line))
            if (connect.path, connect.line, signal) in explained and not project.find_connections(connect, signal):
                # A partial, an object or a wrapper: its connection is unknown.
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
                message=f"The receiver never runs in production. {DEBUG_NOTE}",
                reason="It is connected weakly, and only that cache refers to it.",
                hint="Keep it under a name in the module, or connect it with weak=False and a dispatch_uid.",
            )


def _is_lost(project: Project, connect: ConnectCall, signal: str) -> bool:
    """Return True if a loaded module connected its own function and the process has neither any more."""
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
    return project.is_up_to_date(function) and not project.is_kept_alive(connect, signal)


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
                # In a loop, the last function is alive and has the same line as the collected ones. Functions that
                # run after commit stay alive in a reference cycle until the next collection.
                if connect.in_loop or connect.after_commit or not project.is_kept_alive(connect, signal):
                    yield _build_shadowed_fault(project, connect, signal, rebinding_line)


def _build_shadowed_fault(project: Project, connect: ConnectCall, signal: str, rebinding_line: int) -> Fault:
    if rebinding_line == connect.line or connect.in_loop:
        reason = (
            f"Each iteration binds the name {connect.receiver_text} again. All functions except the last one are "
            "collected."
        )
    else:
        reason = (
            f"The name {connect.receiver_text} is bound again in line {rebinding_line}. The signal holds the function "
            "weakly, and its name was the last reference to it."
        )
    return Fault(
        path=connect.path,
        line=connect.line,
        signal=signal,
        receiver=connect.receiver_path,
        message=f"This {connect.receiver_text} never runs in production. {DEBUG_NOTE}"
        if project.runtime.debug
        else f"This {connect.receiver_text} never runs. With DEBUG on it would run by accident, as Django keeps it in "
        "a cache then.",
        reason=reason,
        hint="Give each function its own name.",
    )


def _find_rebinding_line(
    module: Module, name_bindings: _NameBindings, connect: ConnectCall, function: Function
) -> int | None:
    """Return the line that binds the function's name again; ``None`` if the function stays referenced."""
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
        # Only a binding after both the function and its connect() removes the reference.
        if follows and (connect.is_decorator or node.lineno > connect.line):
            if isinstance(node, ast.Delete):
                return None  # D001 reports this
            return None if _is_used(module, name, function.node.end_lineno or 0, node, connect) else node.lineno
    return None


def _get_defining_block(module: Module, function: Function) -> list[ast.stmt]:
    """Return the block of the module or class that defines the function."""
    body = module.tree.body
    for name in function.qualname.split(".")[:-1]:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name), [])
    return body


def _collect_bindings(body: list[ast.stmt]) -> _NameBindings:
    """Return the statements that bind each name at the level of a module or class, in order."""
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
    """Yield the names that a target binds or deletes; none for ``order.total = 1``."""
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id


def _is_used(module: Module, name: str, start: int, end: ast.stmt, connect: ConnectCall) -> bool:
    """Return True if code that may keep the function uses its name before the name is bound again."""
    for node in ast.walk(module.tree):
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Name)
                and child.id == name
                and isinstance(child.ctx, ast.Load)
                and start < child.lineno <= (end.end_lineno or end.lineno)
                and not (isinstance(node, ast.Call) and (node.func is child or is_weak_connect(node)))
            ):
                return True
    return False
