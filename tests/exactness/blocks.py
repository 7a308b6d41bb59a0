"""Blocks and rows for tests of transactions."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.db import transaction

from tests.shop.models import Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Rollback(Exception):
    """Leaves a block that is to be rolled back."""


@contextmanager
def rolled_back_atomic(**options: Any) -> Iterator[None]:
    """An atomic block that is rolled back at its end, by an exception that does not leave it."""
    with suppress(Rollback), transaction.atomic(**options):
        yield
        raise Rollback


def create_tag(name: str, alias: str = "default") -> Tag:
    """Create a tag."""
    return Tag.objects.using(alias).create(name=name)


# Django 6.1 renamed it.
savepoint: Callable[[], str] = getattr(transaction, "savepoint_create", None) or transaction.savepoint
