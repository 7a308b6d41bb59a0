"""Questions to a function's syntax: what runs when it does, and on which conditions."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from signalbox.doctor.source_model import Function


class Condition(NamedTuple):
    """What decides whether a place is reached."""

    test: ast.expr | None
    """The expression that is asked; ``None`` for what is no plain question, as an exception or a pattern."""
    truth: bool
    """The answer that leads to the place."""


Conditions: TypeAlias = tuple[Condition, ...]
Known: TypeAlias = Callable[[ast.expr], bool | None]
"""Says what is known of an expression: whether it is true; ``None`` for nothing."""

UNKNOWN: Final = Condition(None, True)


class Step(NamedTuple):
    """One expression or statement that runs when the function does."""

    node: ast.AST
    """Its syntax."""
    conditions: Conditions
    """What decides on it: an ``if`` around it, or an earlier one that may return, raise or end the turn of a loop."""


_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_LEAVING = (ast.If, ast.Match, ast.Try, ast.TryStar, ast.With, ast.AsyncWith, *_LOOPS)


def steps(body: list[ast.stmt]) -> list[Step]:
    """Return what runs when a function with this body does; not what stands in functions within it."""
    found: list[Step] = []
    _block(body, (), found)
    return found


def reached(conditions: Conditions, known: Known) -> bool | None:
    """Whether a place with these conditions is surely reached, or surely not; ``None`` if it can't be told."""
    answers = [None if c.test is None else _agrees(c, known) for c in conditions]
    return False if False in answers else None if None in answers else True


def _agrees(condition: Condition, known: Known) -> bool | None:
    answer = truth(condition.test, known) if condition.test else None
    return None if answer is None else answer is condition.truth


def truth(test: ast.expr, known: Known) -> bool | None:
    """Return whether ``test`` is true, as far as that follows from what is known."""
    answer = known(test)
    if answer is not None:
        return answer
    match test:
        case ast.Constant(value=value):
            return bool(value)
        case ast.UnaryOp(op=ast.Not()):
            inner = truth(test.operand, known)
            return None if inner is None else not inner
        case ast.BoolOp():
            answers = [truth(value, known) for value in test.values]
            deciding = isinstance(test.op, ast.Or)
            return deciding if deciding in answers else None if None in answers else not deciding
        case ast.Compare(ops=[ast.Is() | ast.Eq()], comparators=[ast.Constant(value=bool() as value)]):
            inner = truth(test.left, known)
            return None if inner is None else inner is value
        case ast.Compare(ops=[ast.IsNot() | ast.NotEq()], comparators=[ast.Constant(value=bool() as value)]):
            inner = truth(test.left, known)
            return None if inner is None else inner is not value
        case _:
            return None


def _block(body: list[ast.stmt], conditions: Conditions, found: list[Step]) -> None:
    for node in body:
        _node(node, conditions, found)
        if isinstance(node, _LEAVING):
            conditions += _after(node)


def _after(node: ast.stmt) -> Conditions:
    """Return the conditions on which one comes past a statement."""
    if not leaves(node):
        return ()
    if isinstance(node, ast.If):
        body, orelse = (any(map(leaves, block)) for block in (node.body, node.orelse))
        if body and not orelse and _ends(node.body):
            return (Condition(node.test, False),)
        if orelse and not body and _ends(node.orelse):
            return (Condition(node.test, True),)
    return (UNKNOWN,)


def _ends(block: list[ast.stmt]) -> bool:
    return isinstance(block[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)


def leaves(node: ast.AST, looping: bool = False) -> bool:
    """Whether a statement in it may end the function, or the turn of a loop around it; not of a loop within it."""
    if isinstance(node, ast.Return | ast.Raise):
        return True
    if isinstance(node, ast.Continue | ast.Break):
        return not looping
    if isinstance(node, _INNER):
        return False
    looping = looping or isinstance(node, _LOOPS)
    return any(leaves(child, looping) for block in _BLOCKS for child in getattr(node, block, ()))


def _node(node: ast.AST, conditions: Conditions, found: list[Step]) -> None:
    if isinstance(node, _INNER):
        return
    found.append(Step(node, conditions))
    match node:
        case ast.Name() | ast.Constant():
            pass  # nothing in them runs, and they are every other node
        case ast.If() | ast.While():
            _node(node.test, conditions, found)
            _block(node.body, (*conditions, Condition(node.test, True)), found)
            _block(node.orelse, (*conditions, Condition(node.test, False)), found)
        case ast.IfExp():
            _node(node.test, conditions, found)
            _node(node.body, (*conditions, Condition(node.test, True)), found)
            _node(node.orelse, (*conditions, Condition(node.test, False)), found)
        case ast.BoolOp():
            for value in node.values:
                _node(value, conditions, found)
                conditions += (Condition(value, isinstance(node.op, ast.And)),)
        case ast.Try() | ast.TryStar():
            _block(node.body, conditions, found)
            for handler in node.handlers:
                _block(handler.body, (*conditions, UNKNOWN), found)
            _block(node.orelse, conditions, found)
            _block(node.finalbody, conditions, found)
        case ast.For() | ast.AsyncFor():
            _node(node.iter, conditions, found)
            _block(node.body, (*conditions, UNKNOWN) if _chosen(node.iter) else conditions, found)
            _block(node.orelse, conditions, found)
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            for turn in node.generators:
                _node(turn.iter, conditions, found)
                for test in turn.ifs:
                    _node(test, conditions, found)
                    conditions += (Condition(test, True),)
            for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
                _node(part, conditions, found)
        case ast.With() | ast.AsyncWith():
            for item in node.items:
                _node(item.context_expr, conditions, found)
            _block(node.body, conditions, found)
        case ast.Match():
            _node(node.subject, conditions, found)
            for case in node.cases:
                _block(case.body, (*conditions, UNKNOWN), found)
        case ast.Attribute():
            _node(node.value, conditions, found)
        case ast.Call():
            _node(node.func, conditions, found)
            for argument in node.args:
                _node(argument, conditions, found)
            for keyword in node.keywords:
                _node(keyword.value, conditions, found)
        case _:
            for child in ast.iter_child_nodes(node):
                if not isinstance(child, ast.expr_context | ast.operator):
                    _node(child, conditions, found)


def _chosen(items: ast.expr) -> bool:
    """Whether a loop over these runs for some alone, and maybe for none: what chose them may end a recursion.

    A plain name may hold such a choice.
    """
    if isinstance(items, ast.Name):
        return True
    return any(
        (isinstance(node, ast.comprehension) and bool(node.ifs))
        or (isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in {"filter", "exclude"})
        for node in ast.walk(items)
    )


def calls(found: Iterable[Step]) -> Iterator[tuple[ast.Call, Conditions]]:
    """Yield the calls among steps, each with its conditions; none that is never made."""
    for node, conditions in found:
        if isinstance(node, ast.Call) and (not conditions or reached(conditions, _nothing) is not False):
            yield node, conditions


def _nothing(test: ast.expr) -> bool | None:
    return None


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
        if isinstance(node, ast.MatchMapping) and any(
            isinstance(k, ast.Constant) and k.value == name for k in node.keys
        ):
            return True
    return False
