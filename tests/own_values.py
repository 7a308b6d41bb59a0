"""Values of one's own classes, and fields of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

if TYPE_CHECKING:
    BigIntegerField = models.BigIntegerField[Any, Any]
else:
    BigIntegerField = models.BigIntegerField  # generic for type checkers only


class Ref:
    """A key of a class of one's own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __str__(self) -> str:
        return f"R{self.number}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.number == other.number

    def __hash__(self) -> int:
        return self.number


class RefField(BigIntegerField):
    """A field of such values."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> Any:
        return None if value is None else Ref(value)

    def to_python(self, value: Any) -> Any:
        return value if value is None or isinstance(value, Ref) else Ref(int(str(value).lstrip("R")))

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else self.to_python(value).number


class Opaque:
    """An object that is named by its address."""

    def __init__(self, number: int) -> None:
        self.number = number


class OpaqueField(BigIntegerField):
    """A field that reads nothing but its own objects."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> Any:
        return None if value is None else Opaque(value)

    def to_python(self, value: Any) -> Any:
        if value is not None and not isinstance(value, Opaque):
            raise TypeError("an Opaque was expected")
        return value

    def get_prep_value(self, value: Any) -> Any:
        return value.number if isinstance(value, Opaque) else super().get_prep_value(value)
