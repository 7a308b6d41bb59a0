"""A field of the shop's own: its values are of no type that JSON knows."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

if TYPE_CHECKING:
    Field = models.Field["Money", "Money"]
else:
    Field = models.Field  # generic for type checkers only


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"

    @classmethod
    def parse(cls, text: str) -> Money:
        """Read what `str()` wrote, as `12.50 EUR`."""
        amount, currency = text.split(" ")
        return cls(Decimal(amount), currency)


class MoneyField(Field):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"max_length": 40, **kwargs})

    def get_internal_type(self) -> str:
        return "CharField"

    def from_db_value(self, value: str | None, expression: object, connection: BaseDatabaseWrapper) -> Money | None:
        return None if value is None else Money.parse(value)

    def to_python(self, value: Money | str | None) -> Money | None:
        return Money.parse(value) if isinstance(value, str) else value

    def get_prep_value(self, value: Money | None) -> str | None:
        return None if value is None else str(value)

    def value_to_string(self, obj: models.Model) -> str:
        return str(self.value_from_object(obj))


class Vector:
    """Numbers that are compared one by one, as numpy does: neither they nor a comparison is true or false."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers

    def __eq__(self, other: object) -> Any:
        return Vector(*(float(a == b) for a, b in zip(self.numbers, getattr(other, "numbers", ()), strict=False)))

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("The truth value of numbers is ambiguous.")

    def __str__(self) -> str:
        return " ".join(map(str, self.numbers))


class VectorField(MoneyField):
    def from_db_value(self, value: str | None, expression: object, connection: BaseDatabaseWrapper) -> Any:
        return None if value is None else self.to_python(value)

    def to_python(self, value: Any) -> Any:
        return Vector(*map(float, value.split())) if isinstance(value, str) else value
