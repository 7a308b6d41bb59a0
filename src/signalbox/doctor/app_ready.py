"""Find functions that ran during ``django.setup()``: called unconditionally by loaded modules or by ``ready()``."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from signalbox.doctor import syntax
from signalbox.doctor.project import Project
from signalbox.doctor.scopes import Frame
from signalbox.doctor.source_model import Function, Module, resolve_name


def find_executed_functions(project: Project) -> frozenset[Function]:
    """Return the functions that ran during ``django.setup()``."""
    queue = [
        function
        for function in project.source.functions.values()
        if function.is_app_config_hook and function.name == "ready" and _is_installed_app_config(project, function)
    ]
    for module in project.source.modules.values():
        if project.is_loaded(module.name):
            queue += [
                function
                for call in _iter_unconditional_calls(module.tree.body)
                for function in _resolve_module_call(project, module, call)
            ]
    seen: set[Function] = set()
    while queue:
        function = queue.pop()
        if function not in seen and not function.has_unknown_decorator and not function.is_coroutine:
            seen.add(function)
            frame = Frame(function=function)
            queue += [
                called
                for call in _iter_unconditional_calls(function.body)
                for called in _resolve_function_call(project, frame, call)
            ]
    return frozenset(seen)


def is_always_called(function: Function, line: int) -> bool:
    """Return True if a call in this line is made whenever the function runs."""
    return any(call.lineno == line for call in _iter_unconditional_calls(function.body))


def _is_installed_app_config(project: Project, function: Function) -> bool:
    owner = function.dotted_name.rpartition(".")[0]
    return any(app.config_path == owner for app in project.runtime.apps)


def _iter_unconditional_calls(body: list[ast.stmt]) -> Iterator[ast.Call]:
    """Yield the calls that are made whenever the body runs, except those in loops and ``try`` statements."""
    for node in body:
        match node:
            case ast.Expr() | ast.Assign() | ast.AnnAssign() | ast.Return():
                for step in syntax.collect_steps([node]):
                    if isinstance(step.node, ast.Call) and not step.conditions:
                        yield step.node
            case ast.With() | ast.AsyncWith():
                yield from _iter_unconditional_calls(node.body)
        if syntax.may_exit(node):
            return


def _resolve_module_call(project: Project, module: Module, call: ast.Call) -> Iterator[Function]:
    def path(node: ast.expr) -> str:
        return resolve_name(node, module.names, module.name)

    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Call):
        yield from _find_callables(project, f"{path(owner.func)}.{_get_method_name(call)}")
    elif isinstance(owner, ast.Name) and owner.id in module.instances:
        yield from _find_callables(project, f"{module.instances[owner.id]}.{_get_method_name(call)}")
    else:
        yield from _find_callables(project, path(call.func))


def _resolve_function_call(project: Project, frame: Frame, call: ast.Call) -> Iterator[Function]:
    function = frame.function
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id == "self" and function.is_method:
        yield from _find_callables(project, f"{function.dotted_name.rpartition('.')[0]}.{_get_method_name(call)}")
        return
    created_value = owner if isinstance(owner, ast.Call) else frame.resolve_value(owner) if owner else None
    if isinstance(created_value, ast.Call):
        yield from _find_callables(project, f"{function.resolve(created_value.func)}.{_get_method_name(call)}")
    else:
        yield from _find_callables(project, function.resolve(call.func))


def _get_method_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _find_callables(project: Project, path: str) -> Iterator[Function]:
    """Yield the function at this path, or the ``__init__()`` of the class at this path."""
    for name in (path, f"{path}.__init__"):
        if name in project.source.functions_by_name:
            yield project.source.functions_by_name[name]
