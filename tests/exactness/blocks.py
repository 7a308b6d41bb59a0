"""What the tests' transactions are made of."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.db import transaction

from tests.shop.models import Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Undo(Exception):
    """Leaves a block that is to be rolled back."""


@contextmanager
def undone(**options: Any) -> Iterator[None]:
    """An atomic block that is rolled back at its end, by an exception which goes no further."""
    with suppress(Undo), transaction.atomic(**options):
        yield
        raise Undo


def tag(name: str, alias: str = "default") -> Tag:
    """Create a row in the simplest of tables."""
    return Tag.objects.using(alias).create(name=name)


# Django 6.1 renamed it.
savepoint: Callable[[], str] = getattr(transaction, "savepoint_create", None) or transaction.savepoint
