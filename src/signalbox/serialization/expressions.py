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

from signalbox.serialization import encoder
from signalbox.serialization.redaction import Redactor

LONGEST: Final = 500
"""Characters of the whole."""
MOST_PARTS: Final = 100
"""Expressions within one that are looked at, at any depth."""
MORE: Final = "…"

NO_ANNOTATIONS: Final[Mapping[str, Any]] = MappingProxyType({})

_HIDDEN: Final = frozenset({"_constructor_args", "output_field", "extra"})
"""Attributes that repeat what others say, or say nothing of the values."""
_LITERAL: Final = re.compile(r"'(?:[^']|'')*+'?")


def text(
    expression: Any, redactor: Redactor, hidden: Collection[str] = (), annotations: Mapping[str, Any] = NO_ANNOTATIONS
) -> str:
    """Return ``expression`` as text. Literals that meet a secret field, or one of ``hidden``, are not told, nor are
    those beside a literal that names a secret. ``annotations`` are those of its query: a field by another name. It
    never raises, and runs neither a query nor a project's code."""
    try:
        return encoder.column(_Telling(redactor, hidden, annotations).render(expression, secret=False), LONGEST)
    except Exception:  # noqa: BLE001 - attributes may hold anything; the class alone is always there to be told
        return type(expression).__name__


class _Telling:
    """One rendering, and how many parts it may still look at."""

    def __init__(self, redactor: Redactor, hidden: Collection[str], annotations: Mapping[str, Any]) -> None:
        self._redactor = redactor
        self._hidden = hidden
        self._annotations = annotations
        self._left = MOST_PARTS

    def render(self, value: Any, *, secret: bool) -> str:
        """Return ``value``, an expression or a literal; ``secret`` is what a literal is taken for."""
        if not _is_expression(value):
            return self._literal(value, secret)
        self._left -= 1
        if self._left < 0:
            return MORE
        kind, own = type(value), _own(value)
        if issubclass(kind, F):
            return f"{kind.__name__}({own.get('name')})"
        if issubclass(kind, Value):
            return f"{kind.__name__}({self._literal(own.get('value'), secret)})"
        if issubclass(kind, RawSQL):
            return f"{kind.__name__}({self._redactor.text(_LITERAL.sub(MORE, str(own.get('sql'))))})"
        if issubclass(kind, Subquery | QuerySet):
            return f"{kind.__name__}({MORE})"
        if issubclass(kind, Q):
            return self._conditions(own)
        secret = secret or self._meets_secret(value)
        if issubclass(kind, CombinedExpression):
            left, right = (self.render(own.get(side), secret=secret) for side in ("lhs", "rhs"))
            return f"{left} {own.get('connector')} {right}"
        parts = [self.render(part, secret=secret) for part in _parts(value)]
        if isinstance(key := own.get("key_name"), str):
            parts.insert(0, key)
        return f"{kind.__name__}({', '.join(parts)})"

    def _conditions(self, own: dict[str, Any]) -> str:
        found = []
        for child in own.get("children", ()):
            if isinstance(child, tuple):
                name, value = child
                found.append(f"{name}={self.render(value, secret=self._is_secret(name))}")
            else:
                found.append(self.render(child, secret=False))
            if self._left <= 0:
                break
        told = f" {own.get('connector')} ".join(found)
        return f"NOT ({told})" if own.get("negated") else f"({told})" if len(found) > 1 else told

    def _literal(self, value: Any, secret: bool) -> str:
        self._left -= 1
        if secret and value is not None:
            return self._redactor.mark
        safe = encoder.safe(value, redactor=self._redactor)
        return f"'{safe}'" if isinstance(safe, str) else encoder.dumps(safe)

    def _meets_secret(self, value: Any, depth: int = 0) -> bool:
        """Tell whether a field below ``value`` is secret, or a literal names one as a key of JSON does: then so may be
        what it is compared or joined with. What is chosen under a condition is not."""
        kind, own = type(value), _own(value)
        if issubclass(kind, F):
            name = str(own.get("name"))
            annotation = self._annotations.get(name.partition("__")[0])
            return self._is_secret(name) or (
                annotation is not None and depth <= 10 and self._meets_secret(annotation, depth + 1)
            )
        if issubclass(kind, Col):
            return self._is_secret(own["target"].name)
        if issubclass(kind, Value):
            return isinstance(literal := own.get("value"), str) and self._redactor.is_secret(literal)
        if depth > 10 or issubclass(kind, Q | Case | When | Subquery | QuerySet):
            return False
        if self._is_secret(str(own.get("key_name", ""))):
            return True
        return any(self._meets_secret(part, depth + 1) for part in _parts(value) if _is_expression(part))

    def _is_secret(self, lookup: str) -> bool:
        """Tell whether what is looked up so is secret, through whichever relations: ``customer__api_token__in``."""
        names = (lookup, *lookup.split("__"))
        return any(name in self._hidden or self._redactor.is_secret(name) for name in names)


def _parts(value: Any) -> Iterable[Any]:
    """Return the expressions within ``value``, and a lookup's literal, in the order of its attributes."""
    literal = "rhs" if issubclass(type(value), Lookup) else None
    found = (
        part
        for name, held in _own(value).items()
        if name not in _HIDDEN
        for part in (held if isinstance(held, list | tuple) else (held,))
        if _is_expression(part) or name == literal
    )
    return islice(found, MOST_PARTS)


def _is_expression(value: Any) -> bool:
    return issubclass(type(value), BaseExpression | F | Q | QuerySet)


def _own(value: Any) -> dict[str, Any]:
    """Return an object's attributes, past its properties."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return attributes if type(attributes) is dict else {}
