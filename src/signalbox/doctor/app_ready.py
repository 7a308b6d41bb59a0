"""Which functions surely ran while the site was set up: called by loaded modules and by ready(), on no condition."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from signalbox.doctor import syntax
from signalbox.doctor.project import Project
from signalbox.doctor.scopes import Frame
from signalbox.doctor.source_model import Function, Module, resolve


def ran(project: Project) -> frozenset[Function]:
    """Return the functions that surely ran."""
    queue = [
        function
        for function in project.source.functions.values()
        if function.ready and function.node_name == "ready" and _is_installed(project, function)
    ]
    for module in project.source.modules.values():
        if project.loaded(module.name):
            queue += [
                function for call in _sure_calls(module.tree.body) for function in _called_by(project, module, call)
            ]
    seen: set[Function] = set()
    while queue:
        function = queue.pop()
        if function not in seen and not function.opaque and not function.coroutine:
            seen.add(function)
            frame = Frame(function=function)
            queue += [called for call in _sure_calls(function.body) for called in _called_in(project, frame, call)]
    return frozenset(seen)


def surely(function: Function, line: int) -> bool:
    """Whether a call in this line is made whenever the function runs."""
    return any(call.lineno == line for call in _sure_calls(function.body))


def _is_installed(project: Project, function: Function) -> bool:
    owner = function.dotted.rpartition(".")[0]
    return any(app.config == owner for app in project.runtime.apps)


def _sure_calls(body: list[ast.stmt]) -> Iterator[ast.Call]:
    """Yield the calls that are made whenever the body runs; what loops and tries do is not sure."""
    for node in body:
        match node:
            case ast.Expr() | ast.Assign() | ast.AnnAssign() | ast.Return():
                for step in syntax.steps([node]):
                    if isinstance(step.node, ast.Call) and not step.conditions:
                        yield step.node
            case ast.With() | ast.AsyncWith():
                yield from _sure_calls(node.body)
        if syntax.leaves(node):
            return


def _called_by(project: Project, module: Module, call: ast.Call) -> Iterator[Function]:
    def path(node: ast.expr) -> str:
        return resolve(node, module.names, module.name)

    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Call):
        yield from _named(project, f"{path(owner.func)}.{_last(call)}")
    elif isinstance(owner, ast.Name) and owner.id in module.objects:
        yield from _named(project, f"{module.objects[owner.id]}.{_last(call)}")
    else:
        yield from _named(project, path(call.func))


def _called_in(project: Project, frame: Frame, call: ast.Call) -> Iterator[Function]:
    function = frame.function
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id == "self" and function.method:
        yield from _named(project, f"{function.dotted.rpartition('.')[0]}.{_last(call)}")
        return
    made = owner if isinstance(owner, ast.Call) else frame.value(owner) if owner else None
    if isinstance(made, ast.Call):
        yield from _named(project, f"{function.resolve(made.func)}.{_last(call)}")
    else:
        yield from _named(project, function.resolve(call.func))


def _last(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _named(project: Project, path: str) -> Iterator[Function]:
    """Yield the function of this path, or what makes an object of this class."""
    for name in (path, f"{path}.__init__"):
        if name in project.source.named:
            yield project.source.named[name]
