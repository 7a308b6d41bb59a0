"""Decide whether an expression in a receiver uses the instance's own row or other rows."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

from signalbox.doctor import syntax
from signalbox.doctor.project import Project, Subscription
from signalbox.doctor.runtime_model import Model
from signalbox.doctor.scopes import Frame

RowAccess: TypeAlias = Literal["reads other rows", "writes other rows"]

_DEFAULT_MANAGERS: Final = frozenset({"objects", "_default_manager", "_base_manager"})
_QUERY_METHODS: Final = frozenset(
    """all filter exclude get first last earliest latest count exists aggregate create get_or_create update_or_create
    bulk_create bulk_update update delete iterator in_bulk values values_list""".split()
)
_WRITE_METHODS: Final = frozenset(
    """add set remove clear create get_or_create update_or_create bulk_create bulk_update update delete""".split()
)
_FETCH_METHODS: Final = frozenset({"get", "first", "aget", "afirst"})


@dataclass(frozen=True, kw_only=True, eq=False)
class QuerysetOwnership:
    """Classifies the expressions of one function by the rows that they use."""

    project: Project
    """The examined project."""
    subscription: Subscription
    """The receiver."""
    frame: Frame
    """The frame of the receiver, or of a function that it calls."""

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """The models that the receiver is connected to; empty if it receives every sender."""
        return self.project.get_sender_models(self.subscription)

    def is_instance(self, node: ast.expr) -> bool:
        """Return True if it is the signal's instance."""
        return self.frame.is_argument(node, "instance")

    def resolve_model(self, node: ast.expr) -> Model | None:
        """Return the model whose class ``node`` names; ``None`` if it names none."""
        return self.project.get_model(self.frame.function.resolve(node))

    def is_sender(self, node: ast.expr) -> bool:
        """Return True if ``node`` is the sender's class, or any model's class for a receiver of every sender."""
        match node:
            case ast.Call(func=ast.Name(id="type"), args=[inner]) | ast.Attribute(value=inner, attr="__class__"):
                return self.is_instance(inner)
        if self.frame.is_argument(node, "sender"):
            return True
        model = self.resolve_model(node)
        if model is None:
            return False
        return self.project.receives_every_sender(self.subscription) or model.label in {
            sender.label for sender in self.models
        }

    def is_primary_key(self, node: ast.expr) -> bool:
        """Return True if it is the instance's primary key."""
        if isinstance(node, ast.Attribute) and self.is_instance(node.value):
            return node.attr in self._primary_key_names
        binding = self.frame.get_single_binding(node)
        return binding is not None and binding.kind == "assigned" and self.is_primary_key(binding.value)

    @cached_property
    def _primary_key_names(self) -> frozenset[str]:
        return frozenset({"pk", "id", *(key for model in self.models for key in model.primary_key_names)})

    def fetches_own_row(self, node: ast.expr) -> bool:
        """Return True if it loads the instance's own row as another object."""
        node = node.value if isinstance(node, ast.Await) else node
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _FETCH_METHODS
            and self._queries_own_row(node)
        )

    def get_instantiated_model(self, node: ast.expr) -> Model | None:
        """Return the model of the unsaved object that ``node`` creates; ``None`` if it creates none."""
        return self.resolve_model(node.func) if isinstance(node, ast.Call) else None

    def iter_other_row_accesses(self) -> Iterator[tuple[ast.Call, RowAccess]]:
        """Yield the calls that read or write other rows than the instance's own."""
        inner: set[ast.AST] = set()
        for call, _ in self.frame.function.calls:
            if call not in inner:
                # `Order.objects.filter(...).get(...)` is classified as a whole, not by its parts.
                inner.update(node for node in _iter_chain(call) if node is not call)
                access = self._classify_call(call)
                if access:
                    yield call, access

    def _classify_call(self, call: ast.Call) -> RowAccess | None:
        if not isinstance(call.func, ast.Attribute):
            name = syntax.get_called_name(self.frame.function, call)
            is_shortcut = name in {"django.shortcuts.get_object_or_404", "django.shortcuts.get_list_or_404"}
            return "reads other rows" if is_shortcut and not self._looks_up_own_row(call, call.args[:1]) else None
        method = call.func.attr
        if method in {"save", "asave"}:
            return "writes other rows" if self._is_other_row(call.func.value) else None
        sync_method = (
            method.removeprefix("a") if method.removeprefix("a") in _QUERY_METHODS | _WRITE_METHODS else method
        )
        writes = sync_method in _WRITE_METHODS
        if writes and self._uses_related_manager(call):
            return "writes other rows"
        if sync_method in _QUERY_METHODS and self._uses_model_manager(call) and not self._queries_own_row(call):
            return "writes other rows" if writes else "reads other rows"
        return None

    def _is_other_row(self, node: ast.expr) -> bool:
        """Return True if it is a row that belongs to the instance, or a new one."""
        if self.get_instantiated_model(node):
            return True
        if isinstance(node, ast.Attribute) and self.is_instance(node.value):
            return any(node.attr in model.to_one_accessors for model in self.models)
        binding = self.frame.get_single_binding(node)
        if binding is None:
            return False
        if binding.kind == "iterated":
            return any(self._is_related_manager(part) for part in _iter_chain(binding.value))
        return binding.value is not node and self._is_other_row(binding.value)

    def _uses_related_manager(self, call: ast.Call) -> bool:
        return any(self._is_related_manager(part) for part in _iter_chain(call))

    def _is_related_manager(self, node: ast.AST) -> bool:
        """Return True if it is the manager of the rows that belong to the instance."""
        if not (isinstance(node, ast.Attribute) and self.is_instance(node.value)):
            return False
        return node.attr.endswith("_set") or any(node.attr in model.to_many_accessors for model in self.models)

    def _uses_model_manager(self, call: ast.Call) -> bool:
        """Return True if the chain goes through the manager of a model."""
        for part in _iter_chain(call):
            if isinstance(part, ast.Attribute):
                if part.attr in _DEFAULT_MANAGERS:
                    return True
                model = self.resolve_model(part.value)
                if model and part.attr in model.managers:
                    return True
        return False

    def _queries_own_row(self, call: ast.Call) -> bool:
        """Return True if a chain is about the instance's own row: by its key, in the sender's table."""
        parts = list(_iter_chain(call))
        if not any(map(self.is_sender, parts)):
            return False
        return any(isinstance(part, ast.Call) and self._filters_by_primary_key(part) for part in parts)

    def _looks_up_own_row(self, call: ast.Call, classes: list[ast.expr]) -> bool:
        return any(map(self.is_sender, classes)) and self._filters_by_primary_key(call)

    def _filters_by_primary_key(self, call: ast.Call) -> bool:
        if isinstance(call.func, ast.Attribute):
            if call.func.attr == "exclude":
                return False
            if call.func.attr.endswith(("bulk_update", "bulk_create")):
                return bool(call.args) and self._all_elements(call.args[0], self.is_instance)
        return any(self._is_primary_key_lookup(keyword.arg or "", keyword.value) for keyword in call.keywords)

    def _is_primary_key_lookup(self, lookup: str, value: ast.expr) -> bool:
        if lookup.removesuffix("__exact") in self._primary_key_names:
            return self.is_primary_key(value)
        return lookup.removesuffix("__in") in self._primary_key_names and self._all_elements(value, self.is_primary_key)

    @staticmethod
    def _all_elements(node: ast.expr, predicate: Callable[[ast.expr], bool]) -> bool:
        return isinstance(node, ast.List | ast.Tuple | ast.Set) and bool(node.elts) and all(map(predicate, node.elts))


def _iter_chain(node: ast.expr) -> Iterator[ast.expr]:
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
