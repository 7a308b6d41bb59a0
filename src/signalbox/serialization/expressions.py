"""What is told of an expression that the database computes: its classes and fields, and literals without secrets.

An expression's own text would show every literal, and a queryset's runs a query. So only attributes are read here,
past whatever a project's own class makes of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from django.db.models import F, Q, QuerySet, Subquery, Value
from django.db.models.expressions import BaseExpression, Case, Col, CombinedExpression, RawSQL, When
from django.db.models.lookups import Lookup

from signalbox.core import interrupts
from signalbox.core.text import fit_column
from signalbox.serialization import encoder
from signalbox.serialization.redaction import Redactor

MAX_LENGTH: Final = 500
"""Characters of the whole."""
MAX_PARTS: Final = 100
"""Expressions within one that are looked at, at any depth."""
ELLIPSIS: Final = "…"

NO_ANNOTATIONS: Final[Mapping[str, Any]] = MappingProxyType({})

_SKIPPED_ATTRIBUTES: Final = frozenset({"_constructor_args", "output_field", "extra"})
"""Attributes that repeat what others say, or say nothing of the values."""
_SQL_STRING: Final = re.compile(r"'(?:[^']|'')*+'?")


def format_expression(
    expression: Any, redactor: Redactor, hidden: Collection[str] = (), annotations: Mapping[str, Any] = NO_ANNOTATIONS
) -> str:
    """Return ``expression`` as text. Literals that meet a secret field, or one of ``hidden``, are not told, nor are
    those beside a literal that names a secret. ``annotations`` are those of its query: a field by another name. It
    never raises, and runs neither a query nor a project's code."""
    try:
        return fit_column(
            _ExpressionFormatter(redactor, hidden, annotations).render(expression, secret=False), MAX_LENGTH
        )
    except Exception as error:  # noqa: BLE001 - attributes may hold anything; the class alone is always there to be told
        interrupts.raise_if_interrupt(error)
        return type(expression).__name__


class _ExpressionFormatter:
    """One rendering, and how many parts it may still look at."""

    def __init__(self, redactor: Redactor, hidden: Collection[str], annotations: Mapping[str, Any]) -> None:
        self._redactor = redactor
        self._hidden = hidden
        self._annotations = annotations
        self._parts_left = MAX_PARTS

    def render(self, value: Any, *, secret: bool) -> str:
        """Return ``value``, an expression or a literal; ``secret`` is what a literal is taken for."""
        if not _is_expression(value):
            return self._render_literal(value, secret)
        self._parts_left -= 1
        if self._parts_left < 0:
            return ELLIPSIS
        kind, attributes = type(value), _get_instance_dict(value)
        if issubclass(kind, F):
            return f"{kind.__name__}({attributes.get('name')})"
        if issubclass(kind, Value):
            return f"{kind.__name__}({self._render_literal(attributes.get('value'), secret)})"
        if issubclass(kind, RawSQL):
            return (
                f"{kind.__name__}({self._redactor.redact_text(_SQL_STRING.sub(ELLIPSIS, str(attributes.get('sql'))))})"
            )
        if issubclass(kind, Subquery | QuerySet):
            return f"{kind.__name__}({ELLIPSIS})"
        if issubclass(kind, Q):
            return self._render_q(attributes)
        secret = secret or self._contains_secret(value)
        if issubclass(kind, CombinedExpression):
            left, right = (self.render(attributes.get(side), secret=secret) for side in ("lhs", "rhs"))
            return f"{left} {attributes.get('connector')} {right}"
        parts = [self.render(part, secret=secret) for part in _get_children(value)]
        if isinstance(key := attributes.get("key_name"), str):
            parts.insert(0, key)
        return f"{kind.__name__}({', '.join(parts)})"

    def _render_q(self, attributes: dict[str, Any]) -> str:
        found = []
        for child in attributes.get("children", ()):
            if isinstance(child, tuple):
                name, value = child
                found.append(f"{name}={self.render(value, secret=self._is_secret(name))}")
            else:
                found.append(self.render(child, secret=False))
            if self._parts_left <= 0:
                break
        joined = f" {attributes.get('connector')} ".join(found)
        return f"NOT ({joined})" if attributes.get("negated") else f"({joined})" if len(found) > 1 else joined

    def _render_literal(self, value: Any, secret: bool) -> str:
        self._parts_left -= 1
        if secret and value is not None:
            return self._redactor.placeholder
        encoded = encoder.encode(value, redactor=self._redactor)
        return f"'{encoded}'" if isinstance(encoded, str) else encoder.dumps(encoded)

    def _contains_secret(self, value: Any, depth: int = 0) -> bool:
        """Tell whether a field below ``value`` is secret, or a literal names one as a key of JSON does: then so may be
        what it is compared or joined with. What is chosen under a condition is not."""
        kind, attributes = type(value), _get_instance_dict(value)
        if issubclass(kind, F):
            name = str(attributes.get("name"))
            annotation = self._annotations.get(name.partition("__")[0])
            return self._is_secret(name) or (
                annotation is not None and depth <= 10 and self._contains_secret(annotation, depth + 1)
            )
        if issubclass(kind, Col):
            return self._is_secret(attributes["target"].name)
        if issubclass(kind, Value):
            return isinstance(literal := attributes.get("value"), str) and self._redactor.is_secret(literal)
        if depth > 10 or issubclass(kind, Q | Case | When | Subquery | QuerySet):
            return False
        if self._is_secret(str(attributes.get("key_name", ""))):
            return True
        return any(self._contains_secret(part, depth + 1) for part in _get_children(value) if _is_expression(part))

    def _is_secret(self, lookup: str) -> bool:
        """Tell whether what is looked up so is secret, through whichever relations: ``customer__api_token__in``."""
        names = (lookup, *lookup.split("__"))
        return any(name in self._hidden or self._redactor.is_secret(name) for name in names)


def _get_children(value: Any) -> Iterable[Any]:
    """Return the expressions within ``value``, and a lookup's literal, in the order of its attributes."""
    literal = "rhs" if issubclass(type(value), Lookup) else None
    found = (
        part
        for name, attribute in _get_instance_dict(value).items()
        if name not in _SKIPPED_ATTRIBUTES
        for part in (attribute if isinstance(attribute, list | tuple) else (attribute,))
        if _is_expression(part) or name == literal
    )
    return islice(found, MAX_PARTS)


def _is_expression(value: Any) -> bool:
    return issubclass(type(value), BaseExpression | F | Q | QuerySet)


def _get_instance_dict(value: Any) -> dict[str, Any]:
    """Return an object's attributes, past its properties."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return attributes if type(attributes) is dict else {}
