"""A function as it runs for one send: what the signal's arguments are called in it, and what its own names hold."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, NamedTuple, TypeAlias

from signalbox.doctor import syntax
from signalbox.doctor.source_model import Function
from signalbox.doctor.syntax import Conditions

How: TypeAlias = Literal["assigned", "each", "entered"]


_BINDING: Final = (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.For, ast.AsyncFor, ast.With, ast.AsyncWith)


class Binding(NamedTuple):
    """One place that gives a local name its value."""

    how: How
    """``assigned``: by ``=``. ``each``: one after the other, by a loop. ``entered``: by ``with ... as``."""
    value: ast.expr
    """What is assigned, looped over or entered."""
    place: int | None
    """Place of the name where the value is unpacked into several; else ``None``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One function that runs when a signal is sent: the receiver, or one that it calls."""

    function: Function
    """The function."""
    conditions: Conditions = ()
    """What decides whether the receiver calls it."""
    given: Mapping[str, ast.expr] | None = None
    """What the receiver gives each parameter; ``None`` for the receiver itself."""
    caller: Frame | None = None
    """The receiver's frame, for a function that it calls."""
    _names: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)

    @cached_property
    def bindings(self) -> Mapping[str, tuple[Binding, ...]]:
        """What gives the local names their values."""
        found: defaultdict[str, list[Binding]] = defaultdict(list)
        for node, _ in self.function.steps:
            if isinstance(node, _BINDING):
                for name, binding in _bound(node):
                    found[name].append(binding)
        return {name: tuple(bindings) for name, bindings in found.items()}

    def binding(self, node: ast.expr) -> Binding | None:
        """Return what gives a name its value, where that is one place alone."""
        bindings = self.bindings.get(node.id, ()) if isinstance(node, ast.Name) else ()
        return bindings[0] if len(bindings) == 1 and bindings[0].place is None else None

    def value(self, node: ast.expr) -> ast.expr:
        """Return what was assigned to a name, or entered by it, where that is one place alone; else ``node``."""
        binding = self.binding(node)
        return binding.value if binding and binding.how != "each" else node

    def names(self, argument: str) -> frozenset[str]:
        """Return the names by which the function calls the signal's argument, those of ``kwargs["..."]`` included."""
        if argument not in self._names:
            self._names[argument] = frozenset(self._found(argument))
        return self._names[argument]

    def _found(self, argument: str) -> set[str]:
        if self.given is None or self.caller is None:
            found = {argument} & set(syntax.parameters(self.function))
        else:
            found = {name for name, value in self.given.items() if self.caller.stands_for(value, argument)}
        for name, bindings in self.bindings.items():
            for how, value, place in bindings:
                if how == "assigned" and place is None and self._is(value, argument, found):
                    found.add(name)
        return found

    def stands_for(self, node: ast.expr, argument: str) -> bool:
        """Whether ``node`` is the signal's argument: by one of its names, or out of ``**kwargs``."""
        return self._is(node, argument, self.names(argument))

    def _is(self, node: ast.expr, argument: str, names: frozenset[str] | set[str]) -> bool:
        if isinstance(node, ast.Name):
            return node.id in names
        return self.given is None and syntax.from_kwargs(self.function, node) == argument

    def calling(self, function: Function, call: ast.Call, conditions: Conditions) -> Frame:
        """Return the frame of a function that this one calls."""
        names = syntax.parameters(function)
        given = dict(zip(names, call.args, strict=False))
        given.update({keyword.arg: keyword.value for keyword in call.keywords if keyword.arg in names})
        return Frame(function=function, conditions=conditions, given=given, caller=self)


def _bound(node: ast.AST) -> Iterator[tuple[str, Binding]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from _targets(target, "assigned", value)
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
            yield from _targets(target, "assigned", value)
        case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
            yield from _targets(target, "each", value)
        case ast.With(items=items) | ast.AsyncWith(items=items):
            for item in items:
                if item.optional_vars:
                    yield from _targets(item.optional_vars, "entered", item.context_expr)


def _targets(target: ast.expr, how: How, value: ast.expr) -> Iterator[tuple[str, Binding]]:
    if isinstance(target, ast.Name):
        yield target.id, Binding(how, value, None)
    elif isinstance(target, ast.Tuple | ast.List):
        for place, element in enumerate(target.elts):
            if isinstance(element, ast.Name):
                yield element.id, Binding(how, value, place)
