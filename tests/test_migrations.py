"""The migrations contain the models, and nothing that ``makemigrations`` cannot write again."""

from __future__ import annotations

from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db.migrations.operations.base import Operation
from django.db.migrations.operations.special import RunPython, RunSQL, SeparateDatabaseAndState

import signalbox.migrations

NAMES = sorted(path.stem for path in Path(signalbox.migrations.__path__[0]).glob("[0-9]*.py"))


def read_operations() -> list[Operation]:
    return [
        operation for name in NAMES for operation in import_module(f"signalbox.migrations.{name}").Migration.operations
    ]


@pytest.mark.django_db
def test_the_models_have_no_change_that_is_not_in_a_migration() -> None:
    output = StringIO()
    call_command("makemigrations", "signalbox", "--check", "--dry-run", stdout=output)
    assert "No changes detected" in output.getvalue()


def test_makemigrations_can_write_each_operation_again() -> None:
    operations = read_operations()
    assert len(operations) >= 5
    assert [] == [one for one in operations if isinstance(one, RunPython | RunSQL | SeparateDatabaseAndState)]


def test_each_migration_has_a_descriptive_name() -> None:
    assert "0001_initial" == NAMES[0]
    assert [] == [name for name in NAMES if "_auto_" in name]
