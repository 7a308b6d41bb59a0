"""Connections that are made twice, never or too late."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from signalbox.doctor.findings import Severity
from signalbox.doctor.import_order import ImportOrder
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.runtime_model import Connection
from signalbox.doctor.source_model import ConnectCall

_CONVENTIONAL_MODULES: Final = frozenset({"admin", "asgi", "celery", "cron", "jobs", "routing", "tasks", "wsgi"})
"""Modules that servers, workers and the admin import by name from each app."""


@rule(
    4,
    "connected-twice",
    Severity.WARNING,
    "the same function, or the same file under two module names, connected more than once to one signal",
    include_packages=True,
)
def connected_twice(project: Project) -> Iterator[Fault]:
    """Find receivers that run twice for one send, and connections without effect."""
    reported: set[tuple[str, str, int]] = set()
    for key, connections in project.live_connections.items():
        kept = [connection for connection in connections if not connection.kept_by_debug_cache]
        if len(kept) > 1:
            fault = _check_double_import(project, kept) or _check_double_connection(project, kept)
            if fault:
                reported.add(key)
                yield fault
    for key, connect_calls in project.connect_calls.items():
        if key not in reported:
            yield from _find_redundant(project, key[0], list(connect_calls))


def _check_double_import(project: Project, connections: list[Connection]) -> Fault | None:
    first = connections[0]
    other = next((c for c in connections if c.module != first.module and c.identity != first.identity), None)
    # Methods that subclasses in other modules inherit, and wrapped functions, have the same __module__.
    if other is None or not {first.module, other.module} <= project.runtime.modules:
        return None
    if first.receiver.removeprefix(first.module) != other.receiver.removeprefix(other.module):
        return None
    return Fault(
        path=first.path,
        line=first.line,
        signal=first.signal,
        receiver=first.receiver,
        message="The receiver runs twice for each send.",
        reason=f"Its file is imported under two names, {first.module} and {other.module}. Python runs it once for "
        "each name, and Django sees two different functions.",
        hint="Import the module everywhere by the name that its app has in INSTALLED_APPS.",
    )


def _check_double_connection(project: Project, connections: list[Connection]) -> Fault | None:
    by_object: defaultdict[tuple[int, ...], list[Connection]] = defaultdict(list)
    for connection in connections:
        by_object[connection.identity].append(connection)
    for duplicates in by_object.values():
        for second in duplicates[1:]:
            first = next((c for c in duplicates if c is not second and _do_overlap(c, second)), None)
            if first is None:
                continue
            connect_calls = project.connect_calls.get((second.signal, second.path, second.line), ())
            connect_call = max(connect_calls, key=lambda call: (call.path, call.line), default=None)
            other = first if first.sender_key else second
            affected_sends = (
                "for each send" if first.sender_key == second.sender_key else f"for each send of {other.sender.name}"
            )
            return Fault(
                path=connect_call.path if connect_call else second.path,
                line=connect_call.line if connect_call else second.line,
                signal=second.signal,
                receiver=second.receiver,
                message=f"The receiver runs twice {affected_sends}.",
                reason="It is connected twice, with "
                + ("different dispatch_uids" if first.sender_key == second.sender_key else "a sender and without one")
                + ", and Django treats these as two receivers.",
                hint="Connect it once.",
            )
    return None


def _do_overlap(one: Connection, other: Connection) -> bool:
    """Return True if one send reaches both connections."""
    return one.sender_key == other.sender_key or 0 in {one.sender_key, other.sender_key}


def _find_redundant(project: Project, signal: str, connect_calls: list[ConnectCall]) -> Iterator[Fault]:
    seen: dict[tuple[str, ...], ConnectCall] = {}
    for connect_call in sorted(connect_calls, key=lambda connect_call: (connect_call.path, connect_call.line)):
        function = connect_call.function
        if (
            connect_call.after_commit
            or connect_call.is_conditional
            or connect_call.in_loop
            or function is None
            or (signal, function.name) in project.source.disconnected
        ):
            continue
        if not (connect_call.enclosing_function is None or connect_call.enclosing_function.is_app_config_hook):
            continue
        key = (
            connect_call.receiver_path,
            ""
            if connect_call.sender_node is None
            else connect_call.sender_path or ast.unparse(connect_call.sender_node),
            "" if connect_call.dispatch_uid is None else ast.unparse(connect_call.dispatch_uid),
        )
        first = seen.setdefault(key, connect_call)
        if first is not connect_call:
            yield Fault(
                path=connect_call.path,
                line=connect_call.line,
                signal=signal,
                receiver=connect_call.receiver_path,
                message="This second connection of the receiver has no effect.",
                reason=f"It is already connected in line {first.line} of {first.module}. Django keeps one connection "
                "for a receiver and a sender. With another dispatch_uid or sender it would run twice.",
                hint="Remove one of the two.",
                severity=Severity.INFO,
            )


# Never imported


@rule(
    5,
    "never-imported",
    Severity.ERROR,
    "an app's module with receivers that is not imported when setup() ends",
)
def never_imported(project: Project) -> Iterator[Fault]:
    """Find modules with receivers that are not imported."""
    missing: dict[str, list[ConnectCall]] = defaultdict(list)
    for connect in project.source.connect_calls:
        is_unloaded = connect.enclosing_function is None and not project.is_loaded(connect.module)
        if is_unloaded and _is_importable(project, connect.module) and not _is_migrate_only(connect):
            missing[connect.module].append(connect)
    imported_later = ImportOrder(project=project).find_reachable(_get_late_import_roots(project)) if missing else set()
    for name, connects in missing.items():
        first = connects[0]
        app = project.runtime.find_app_by_path(first.path)
        others = f" Nor do {len(connects) - 1} more in this module." if len(connects) > 1 else ""
        config = f"{app.module}.apps" if app else "the app"
        if name in imported_later:
            yield Fault(
                path=first.path,
                line=first.line,
                signal=", ".join(first.signals),
                receiver=first.receiver_path,
                message="Management commands, workers and the shell run without this receiver. A web process has it "
                f"only after its first request.{others}",
                reason=f"{name} is not imported during setup(), only later: with the URLconf or in a function.",
                hint=f"Import {name} in ready() of {config}.",
                severity=Severity.WARNING,
            )
        else:
            yield Fault(
                path=first.path,
                line=first.line,
                signal=", ".join(first.signals),
                receiver=first.receiver_path,
                message=f"The receiver never runs.{others}",
                reason=f"No code imports {name}, so its decorators and connect() calls never run.",
                hint=f"Import {name} in ready() of {config}.",
            )


def _is_importable(project: Project, name: str) -> bool:
    module = project.get_module(name)
    if module is None or module.is_script or ".management.commands." in f"{name}.":
        return False
    app = project.runtime.find_app_by_path(module.path)
    # A package within an installed package may be an app to install on its own.
    return app is None or app.is_project_app or not module.path.endswith("__init__.py")


def _get_late_import_roots(project: Project) -> list[str]:
    """Return modules that may import others later: loaded modules, commands and modules named in settings."""
    imports = project.source.imports
    loaded_or_command = [name for name in imports if project.is_loaded(name) or ".management.commands." in f"{name}."]
    entry_points = [name for entry in project.runtime.entry_points for name in (entry, entry.rpartition(".")[0])]
    conventional = [name for name in imports if name.rpartition(".")[2] in _CONVENTIONAL_MODULES]
    return [
        *loaded_or_command,
        *entry_points,
        *conventional,
        *(f"{app.module}.management" for app in project.runtime.apps),
    ]


# Too late


@rule(
    6,
    "connected-too-late",
    Severity.ERROR,
    "class_prepared connected in ready(); pre_migrate outside one; a receiver connected after the signal's only send",
    include_packages=True,
)
def connected_too_late(project: Project) -> Iterator[Fault]:
    """Find connections that are made after the signal was sent."""
    import_order = ImportOrder(project=project)
    for connect in project.source.connect_calls:
        for signal in connect.signals:
            if signal == "class_prepared":
                fault = _check_class_prepared(import_order, connect)
            elif signal in {"pre_migrate", "post_migrate"}:
                fault = _check_migrate(import_order, connect, signal)
            else:
                fault = _check_after_send(import_order, connect, signal)
            if fault:
                yield fault


def _check_class_prepared(import_order: ImportOrder, connect: ConnectCall) -> Fault | None:
    if connect.enclosing_function:
        is_late = connect.enclosing_function.is_app_config_hook and connect.enclosing_function.name == "ready"
    else:
        is_late = import_order.get_ready_position(connect.module) is not None
    if not is_late:
        return None
    return Fault(
        path=connect.path,
        line=connect.line,
        signal="class_prepared",
        receiver=connect.receiver_path,
        message="The receiver runs for none of the project's models, only for classes that are created later.",
        reason="class_prepared is sent while the modules of the models are imported, before ready() runs.",
        hint="Connect it in __init__() of the app config, which runs earlier, or iterate over apps.get_models() in "
        "ready().",
    )


def _is_migrate_only(connect: ConnectCall) -> bool:
    return all(signal in {"pre_migrate", "post_migrate"} for signal in connect.signals)


def _check_migrate(import_order: ImportOrder, connect: ConnectCall, signal: str) -> Fault | None:
    project = import_order.project
    if (
        connect.enclosing_function is not None
        or project.is_loaded(connect.module)
        or not _is_importable(project, connect.module)
    ):
        return None
    # migrate and flush import the management package of each app.
    if connect.module in import_order.find_reachable([f"{app.module}.management" for app in project.runtime.apps]):
        return None
    return Fault(
        path=connect.path,
        line=connect.line,
        signal=signal,
        receiver=connect.receiver_path,
        message="manage.py migrate runs without this receiver.",
        reason=f"{connect.module} is not imported during setup(), and migrate imports neither URLconf nor views.",
        hint="Connect it in ready() of the app config, with sender=self.",
    )


def _check_after_send(import_order: ImportOrder, connect: ConnectCall, signal: str) -> Fault | None:
    project = import_order.project
    sends = [send for send in project.source.send_calls if send.signal == signal]
    if len(sends) != 1 or project.escapes(signal) or "." not in signal:
        return None
    send = sends[0]
    sender_app = project.runtime.find_app_by_path(send.path)
    if sender_app is None:
        return None
    if send.enclosing_function is None:
        # A module that no ready() imports has sent it before any ready() ran.
        sent_at = import_order.get_ready_position(send.module) or (
            (-1, send.line) if project.is_loaded(send.module) else None
        )
    else:
        in_ready = send.enclosing_function.is_app_config_hook and send.enclosing_function.name == "ready"
        sent_at = (sender_app.position, send.line) if in_ready else None
    if sent_at is None:
        return None
    app = project.runtime.find_app_by_path(connect.path)
    if app is None:
        return None
    where = f"in ready() of {sender_app.label}" if send.enclosing_function else f"while {send.module} is imported"
    if connect.enclosing_function is None:
        connected_at = import_order.get_ready_position(connect.module)
    else:
        connected_at = (
            (app.position, connect.line)
            if connect.enclosing_function.is_app_config_hook and connect.enclosing_function.name == "ready"
            else None
        )
    if connected_at is None or connected_at <= sent_at or connect.module == send.module:
        return None
    return Fault(
        path=connect.path,
        line=connect.line,
        signal=signal,
        receiver=connect.receiver_path,
        message="The receiver never runs.",
        reason=f"The signal is sent once, {where} (line {send.line}), before this connection is made.",
        hint=f"Connect it in __init__() of the app config, or put the app before {sender_app.label} in INSTALLED_APPS.",
    )
