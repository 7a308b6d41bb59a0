"""Formats expressions of the database: their classes, fields, and literals without secrets.

``str()`` of an expression contains every literal, and that of a queryset runs a query. So only attributes are read,
without calling the code of the application's classes.
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
"""Characters of the text of an expression."""
MAX_PARTS: Final = 100
"""Parts of an expression that are formatted, at any depth."""
ELLIPSIS: Final = "…"

NO_ANNOTATIONS: Final[Mapping[str, Any]] = MappingProxyType({})

_SKIPPED_ATTRIBUTES: Final = frozenset({"_constructor_args", "output_field", "extra"})
"""Attributes that repeat others, or do not describe the values."""
_SQL_STRING: Final = re.compile(r"'(?:[^']|'')*+'?")


def format_expression(
    expression: Any, redactor: Redactor, hidden: Collection[str] = (), annotations: Mapping[str, Any] = NO_ANNOTATIONS
) -> str:
    """Return ``expression`` as text of at most `MAX_LENGTH` characters. Raise nothing, and run no query.

    Literals are redacted if they are compared or joined with a secret field, with a field of ``hidden``, or with a
    literal that is a secret name. ``annotations`` are those of the query, which give other names to fields.
    """
    try:
        return fit_column(
            _ExpressionFormatter(redactor, hidden, annotations).render(expression, secret=False), MAX_LENGTH
        )
    except Exception as error:  # noqa: BLE001 - attributes may have any value; the class is always known
        interrupts.raise_if_interrupt(error)
        return type(expression).__name__


class _ExpressionFormatter:
    """Formats one expression, and counts the parts that it may still format."""

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
        """Return whether ``value`` contains a secret field, or a literal that is a secret name such as a key of JSON.

        Values that are compared or joined with ``value`` may then be secret. Those of a condition's branches are not.
        """
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
        """Return whether a lookup such as ``customer__api_token__in`` has a secret name."""
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
    """Return an object's attributes without calling its properties."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return attributes if type(attributes) is dict else {}
