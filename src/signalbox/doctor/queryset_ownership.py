"""Which rows an expression in a receiver is about: the instance's own, or others."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

from signalbox.doctor import syntax
from signalbox.doctor.project import Heard, Project
from signalbox.doctor.runtime import Model
from signalbox.doctor.scopes import Frame

Deed: TypeAlias = Literal["reads other rows", "writes other rows"]

_MANAGERS: Final = frozenset({"objects", "_default_manager", "_base_manager"})
_QUERYING: Final = frozenset(
    """all filter exclude get first last earliest latest count exists aggregate create get_or_create update_or_create
    bulk_create bulk_update update delete iterator in_bulk values values_list""".split()
)
_WRITING: Final = frozenset(
    """add set remove clear create get_or_create update_or_create bulk_create bulk_update update delete""".split()
)
_FETCHING: Final = frozenset({"get", "first", "aget", "afirst"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What the expressions of one function stand for among the rows of the database."""

    project: Project
    """All that is known."""
    heard: Heard
    """The receiver."""
    frame: Frame
    """The function: the receiver's own, or that of one that it calls."""

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """The models that the receiver listens to; none if it hears all."""
        return self.project.sender_models(self.heard)

    def is_instance(self, node: ast.expr) -> bool:
        """Whether it is the signal's instance."""
        return self.frame.stands_for(node, "instance")

    def model(self, node: ast.expr) -> Model | None:
        """Return the model whose class it names."""
        return self.project.model(self.frame.function.resolve(node))

    def is_sender(self, node: ast.expr) -> bool:
        """Whether it is the class that the receiver listens to; any model's class, if it listens to all."""
        match node:
            case ast.Call(func=ast.Name(id="type"), args=[inner]) | ast.Attribute(value=inner, attr="__class__"):
                return self.is_instance(inner)
        if self.frame.stands_for(node, "sender"):
            return True
        model = self.model(node)
        if model is None:
            return False
        return self.project.senderless(self.heard) or model.label in {sender.label for sender in self.models}

    def is_key(self, node: ast.expr) -> bool:
        """Whether it is the instance's primary key."""
        if isinstance(node, ast.Attribute) and self.is_instance(node.value):
            return node.attr in self._keys
        binding = self.frame.binding(node)
        return binding is not None and binding.how == "assigned" and self.is_key(binding.value)

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset({"pk", "id", *(key for model in self.models for key in model.key)})

    def fetches_own(self, node: ast.expr) -> bool:
        """Whether it loads the instance's own row as another object."""
        node = node.value if isinstance(node, ast.Await) else node
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _FETCHING
            and self._is_own(node)
        )

    def makes(self, node: ast.expr) -> Model | None:
        """Return the model of which it makes an object, not saved yet."""
        return self.model(node.func) if isinstance(node, ast.Call) else None

    def deeds(self) -> Iterator[tuple[ast.Call, Deed]]:
        """Yield the calls that read or write other rows than the instance's own."""
        inner: set[ast.AST] = set()
        for call, _ in self.frame.function.calls:
            if call not in inner:
                # Of `Order.objects.filter(...).get(...)` the whole is judged, and no part of it again.
                inner.update(node for node in _chain(call) if node is not call)
                deed = self._deed(call)
                if deed:
                    yield call, deed

    def _deed(self, call: ast.Call) -> Deed | None:
        if not isinstance(call.func, ast.Attribute):
            name = syntax.called(self.frame.function, call)
            shortcut = name in {"django.shortcuts.get_object_or_404", "django.shortcuts.get_list_or_404"}
            return "reads other rows" if shortcut and not self._looks_up_own(call, call.args[:1]) else None
        method = call.func.attr
        if method in {"save", "asave"}:
            return "writes other rows" if self._is_other(call.func.value) else None
        plain = method.removeprefix("a") if method.removeprefix("a") in _QUERYING | _WRITING else method
        writes = plain in _WRITING
        if writes and self._is_related_manager(call):
            return "writes other rows"
        if plain in _QUERYING and self._has_manager(call) and not self._is_own(call):
            return "writes other rows" if writes else "reads other rows"
        return None

    def _is_other(self, node: ast.expr) -> bool:
        """Whether it is a row that belongs to the instance, or a new one."""
        if self.makes(node):
            return True
        if isinstance(node, ast.Attribute) and self.is_instance(node.value):
            return any(node.attr in model.singles for model in self.models)
        binding = self.frame.binding(node)
        if binding is None:
            return False
        if binding.how == "each":
            return any(self._is_related(part) for part in _chain(binding.value))
        return binding.value is not node and self._is_other(binding.value)

    def _is_related_manager(self, call: ast.Call) -> bool:
        return any(self._is_related(part) for part in _chain(call))

    def _is_related(self, node: ast.AST) -> bool:
        """Whether it is the manager of the rows that belong to the instance."""
        if not (isinstance(node, ast.Attribute) and self.is_instance(node.value)):
            return False
        return node.attr.endswith("_set") or any(node.attr in model.many for model in self.models)

    def _has_manager(self, call: ast.Call) -> bool:
        """Whether the chain goes through the manager of a model."""
        for part in _chain(call):
            if isinstance(part, ast.Attribute):
                if part.attr in _MANAGERS:
                    return True
                model = self.model(part.value)
                if model and part.attr in model.managers:
                    return True
        return False

    def _is_own(self, call: ast.Call) -> bool:
        """Whether a chain is about the instance's own row: by its key, in the sender's table."""
        parts = list(_chain(call))
        if not any(map(self.is_sender, parts)):
            return False
        return any(isinstance(part, ast.Call) and self._keyed(part) for part in parts)

    def _looks_up_own(self, call: ast.Call, classes: list[ast.expr]) -> bool:
        return any(map(self.is_sender, classes)) and self._keyed(call)

    def _keyed(self, call: ast.Call) -> bool:
        if isinstance(call.func, ast.Attribute):
            if call.func.attr == "exclude":
                return False
            if call.func.attr.endswith(("bulk_update", "bulk_create")):
                return bool(call.args) and self._all(call.args[0], self.is_instance)
        return any(self._asks_key(keyword.arg or "", keyword.value) for keyword in call.keywords)

    def _asks_key(self, lookup: str, value: ast.expr) -> bool:
        if lookup.removesuffix("__exact") in self._keys:
            return self.is_key(value)
        return lookup.removesuffix("__in") in self._keys and self._all(value, self.is_key)

    @staticmethod
    def _all(node: ast.expr, holds: Callable[[ast.expr], bool]) -> bool:
        return isinstance(node, ast.List | ast.Tuple | ast.Set) and bool(node.elts) and all(map(holds, node.elts))


def _chain(node: ast.expr) -> Iterator[ast.expr]:
    """Yield a chain of calls and attributes from its end to its beginning."""
    while True:
        yield node
        match node:
            case ast.Call(func=ast.Attribute() as func):
                node = func
            case ast.Attribute(value=value) | ast.Subscript(value=value) | ast.Await(value=value):
                node = value
            case _:
                return
