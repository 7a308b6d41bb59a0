"""Questions to a function's syntax: what runs when it does, under which conditions, by which names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from signalbox.doctor.written import Function


class Step(NamedTuple):
    """One expression or statement that runs when the function does."""

    node: ast.AST
    """Its syntax."""
    guarded: bool
    """Whether a condition decides on it: an ``if`` around it, or an earlier one that may return or raise."""


_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def steps(body: list[ast.stmt]) -> list[Step]:
    """Return what runs when a function with this body does; not what stands in functions within it."""
    found: list[Step] = []
    _block(body, False, found)
    return found


def _block(body: list[ast.stmt], guarded: bool, found: list[Step]) -> None:
    for node in body:
        _node(node, guarded, found)
        if not guarded and isinstance(node, ast.If | ast.Match | ast.Try | ast.For | ast.While):
            guarded = _leaves(node)


def _leaves(node: ast.AST) -> bool:
    """Whether something in it may end the function or the turn of a loop."""
    if isinstance(node, (*_INNER, ast.expr)):
        return False
    if isinstance(node, ast.Return | ast.Raise | ast.Continue | ast.Break):
        return True
    return any(_leaves(child) for child in ast.iter_child_nodes(node))


def _node(node: ast.AST, guarded: bool, found: list[Step]) -> None:
    if isinstance(node, _INNER):
        return
    found.append(Step(node, guarded))
    match node:
        case ast.If() | ast.While():
            _node(node.test, guarded, found)
            _block(node.body, True, found)
            _block(node.orelse, True, found)
        case ast.IfExp():
            _node(node.test, guarded, found)
            _node(node.body, True, found)
            _node(node.orelse, True, found)
        case ast.BoolOp():
            _node(node.values[0], guarded, found)
            for value in node.values[1:]:
                _node(value, True, found)
        case ast.Try() | ast.TryStar():
            _block(node.body, guarded, found)
            for handler in node.handlers:
                _block(handler.body, True, found)
            _block(node.orelse, guarded, found)
            _block(node.finalbody, guarded, found)
        case ast.For() | ast.AsyncFor():
            _node(node.iter, guarded, found)
            _block(node.body, guarded, found)
            _block(node.orelse, guarded, found)
        case ast.With() | ast.AsyncWith():
            for item in node.items:
                _node(item.context_expr, guarded, found)
            _block(node.body, guarded, found)
        case ast.Match():
            _node(node.subject, guarded, found)
            for case in node.cases:
                _block(case.body, True, found)
        case ast.Name() | ast.Constant():
            pass  # nothing in them runs, and they are every other node
        case _:
            for child in ast.iter_child_nodes(node):
                _node(child, guarded, found)


def calls(function: Function) -> Iterator[tuple[ast.Call, bool]]:
    """Yield the calls that run when the function does, each with whether a condition decides on it."""
    for step in function.steps:
        if isinstance(step.node, ast.Call):
            yield step.node, step.guarded


def called(function: Function, call: ast.Call) -> str:
    """Return the dotted name of what is called as written, its imports resolved: ``requests.post``, ``self.send``."""
    resolved = function.resolve(call.func)
    if resolved:
        return resolved.removeprefix(f"{function.module}.")
    return dotted(call.func)


def dotted(node: ast.expr) -> str:
    """Return names and attributes as written, calls and subscripts left out: ``Order.objects.filter`` of a chain."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return f"{dotted(node.value)}.{node.attr}"
        case ast.Call():
            return dotted(node.func)
        case ast.Subscript():
            return dotted(node.value)
        case ast.Await():
            return dotted(node.value)
        case _:
            return ""


def parameters(function: Function) -> list[str]:
    """Return the names of its parameters, without ``*args`` and ``**kwargs``."""
    arguments = function.parameters
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def standing_for(function: Function, name: str) -> frozenset[str]:
    """Return the names by which the function calls the signal's argument ``name``, ``kwargs["name"]`` included."""
    found = {name} if name in parameters(function) else set()
    for step in function.steps:
        if (
            isinstance(step.node, ast.Assign)
            and len(step.node.targets) == 1
            and isinstance(step.node.targets[0], ast.Name)
        ) and is_argument(function, step.node.value, name, found):
            found.add(step.node.targets[0].id)
    return frozenset(found)


def is_argument(function: Function, node: ast.expr, name: str, names: frozenset[str] | set[str]) -> bool:
    """Whether ``node`` is the signal's argument ``name``: by one of its ``names``, or out of ``**kwargs``."""
    if isinstance(node, ast.Name):
        return node.id in names
    return from_kwargs(function, node) == name


def from_kwargs(function: Function, node: ast.expr) -> str:
    """Return the argument that ``kwargs["name"]``, ``.get("name")`` or ``.pop("name")`` takes; else nothing."""
    kwarg = function.parameters.kwarg
    if kwarg is None:
        return ""
    match node:
        case ast.Subscript(value=ast.Name(id=inner), slice=ast.Constant(value=str() as key)) if inner == kwarg.arg:
            return key
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=inner), attr="get" | "pop"),
            args=[ast.Constant(value=str() as key), *_],
        ) if inner == kwarg.arg:
            return key
        case _:
            return ""


def reads(function: Function, name: str) -> bool:
    """Whether the function looks at the signal's argument ``name`` at all, or hands all of ``**kwargs`` on."""
    kwarg = function.parameters.kwarg
    for node in ast.walk(function.node):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            return True
        if isinstance(node, ast.expr) and from_kwargs(function, node) == name:
            return True
        if isinstance(node, ast.keyword) and node.arg is None and kwarg and dotted(node.value) == kwarg.arg:
            return True
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant) and node.left.value == name:
            return True
    return False
