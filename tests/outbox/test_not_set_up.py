"""A durable receiver on a site without the app, or without its tables, is an error and never silently ignored."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from django.db import DatabaseError, connection, transaction

from signalbox.instrumentation.traces import traced
from signalbox.models import Delivery, Event
from signalbox.pipeline import missing_tables
from signalbox.pipeline.delivery_errors import EnqueueError
from tests.outbox import receivers
from tests.shop.models import Order
from tests.shop.signals import order_paid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = """
import django, sys, types
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes"], SECRET_KEY="not-a-secret")
import signalbox
module = sys.modules["receivers"] = types.ModuleType("receivers")
exec("def index(**kwargs): pass", module.__dict__)

def register():
    signalbox.receiver("post_save", sender="contenttypes.ContentType", durable=True)(module.index)

{steps}
"""

BEFORE_SETUP = """
register()
django.setup()
from django.core.checks import run_checks
print([(found.id, found.msg) for found in run_checks() if (found.id or "").startswith("signalbox.")])
"""

AFTER_SETUP = """
django.setup()
try:
    register()
except signalbox.CannotBeDurable as error:
    print(error)
"""

NOT_INSTALLED = '"signalbox" is not in INSTALLED_APPS, so nothing is recorded and no delivery is created.'


def run(steps: str) -> str:
    """Run a site without the app; return its output."""
    program = PROGRAM.replace("{steps}", steps)
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_a_receiver_that_is_registered_after_the_apps_are_loaded_is_an_error() -> None:
    assert f"receivers.index can't be a durable receiver: {NOT_INSTALLED}" == run(AFTER_SETUP)


def test_a_receiver_that_was_registered_before_is_an_error_of_the_checks() -> None:
    message = f"receivers.index is a durable receiver, but {NOT_INSTALLED}"
    assert str([("signalbox.E013", message)]) == run(BEFORE_SETUP)


@pytest.fixture
def without_tables(transactional_db: None) -> Iterator[None]:
    """Rename the table of events: the site is as before ``migrate``."""
    table = Event._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
    missing_tables.clear_table_cache()
    yield
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE elsewhere RENAME TO {table}")
    missing_tables.clear_table_cache()


@pytest.mark.every_database
@pytest.mark.usefixtures("without_tables")
@pytest.mark.parametrize("in_block", [False, True], ids=["autocommit", "block"])
def test_a_change_without_the_tables_for_its_deliveries_is_not_committed(
    make_durable: Callable[..., None], in_block: bool
) -> None:
    make_durable(receivers.saved)

    def save() -> None:
        if not in_block:
            Order.objects.create(number="A-1")
            return
        with transaction.atomic():
            Order.objects.create(number="A-1")

    with pytest.raises(
        DatabaseError, match=r"these events have durable receivers: post_save of shop\.Order\. Run manage\.py migrate"
    ):
        save()
    assert 0 == Order.objects.count()


@pytest.mark.usefixtures("without_tables")
def test_a_change_without_durable_receivers_is_committed(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, sender="shop.Tag")
    Order.objects.create(number="A-1")
    assert 1 == Order.objects.count()


@pytest.mark.usefixtures("without_tables")
def test_a_send_without_the_tables_for_its_deliveries_raises(make_durable: Callable[..., None]) -> None:
    make_durable(receivers.saved, order_paid, None)
    with pytest.raises(EnqueueError):
        order_paid.send(sender=None, order=1)


@pytest.mark.django_db(transaction=True)
def test_changes_of_a_migration_before_the_tables_exist_are_delivered_later(
    make_durable: Callable[..., None],
) -> None:
    make_durable(receivers.saved)
    table = Event._meta.db_table
    with traced("command", "migrate"):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
        missing_tables.clear_table_cache()
        Order.objects.create(number="A-1")
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE elsewhere RENAME TO {table}")
        missing_tables.clear_table_cache()
    assert 1 == Order.objects.count()
    assert 1 == Delivery.objects.count()
