"""django-tenants: the work of two tenants, each in a schema of its own."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.db import connection, models, transaction
from django_tenants.models import DomainMixin, TenantMixin
from django_tenants.utils import schema_context, tenant_context

from tests.neighbours.observing import Observer
from tests.neighbours.works import books, common
from tests.neighbours.works.models import Book, Tag

SCHEMAS = ("one", "two")


class Client(TenantMixin):
    name = models.CharField(max_length=50)
    auto_create_schema = False

    def __str__(self) -> str:
        return self.name


class Domain(DomainMixin):
    pass


def prepare_tables() -> None:
    """Create the tables of the public schema and of each tenant's."""
    call_command("migrate_schemas", schema_name="public", run_syncdb=True, verbosity=0)
    for name in SCHEMAS:
        tenant = Client.objects.create(schema_name=name, name=name)
        Domain.objects.create(domain=f"{name}.example.com", tenant=tenant)
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA {name}")
        call_command("migrate_schemas", schema_name=name, run_syncdb=True, verbosity=0)
    connection.set_schema_to_public()


def work(observe: Observer) -> None:
    """Do the work with books for each tenant, and switch between them."""
    how = observe.how
    for name in SCHEMAS:
        with schema_context(name):
            observe.how = f"{how}, {name}"
            common.everything(observe, books.BOOKS)
            books.cascades(observe)
        observe.how = f"{how}, {name}"
        common.requests(observe, host=f"{name}.example.com")
        connection.set_schema_to_public()  # the middleware leaves the tenant's
    observe.how = how
    switches(observe)
    for name in ("public", *SCHEMAS):
        with schema_context(name):
            observe.keep(f"books of {name}, {how}", list(Book.objects.order_by("pk")))


def switches(observe: Observer) -> None:
    one, two = Client.objects.order_by("pk")

    def nested() -> Any:
        with tenant_context(one):
            first = Tag.objects.create(name=f"nested, {observe.how}, one")
            with tenant_context(two):
                second = Tag.objects.create(name=f"nested, {observe.how}, two")
            first.name += " changed"
            first.save()
        return first, second, connection.schema_name

    def in_one_transaction() -> Any:
        with transaction.atomic():
            for tenant in (one, two):
                connection.set_tenant(tenant)
                Tag.objects.create(name=f"in a transaction, {observe.how}, {tenant.name}")
            connection.set_schema_to_public()
        return counts()

    def rolled_back() -> Any:
        with transaction.atomic():
            with tenant_context(one):
                Tag.objects.create(name=f"rolled back, {observe.how}, one")
            transaction.set_rollback(True)
        with tenant_context(two):
            Tag.objects.create(name=f"after it, {observe.how}, two")
        return counts()

    def counts() -> list[int]:
        found = []
        for tenant in (one, two):
            with tenant_context(tenant):
                found.append(Tag.objects.count())
        return found

    observe("switch", nested)
    observe("switch in a transaction", in_one_transaction)
    observe("rollback before a switch", rolled_back)


def recorded() -> list[list[Any]]:
    """Return the events of each schema: about no other tenant's rows."""
    from signalbox.models import Event

    found: list[list[Any]] = []
    for name, other in (("one", "two"), ("two", "one")):
        with schema_context(name):
            events = Event.objects.filter(sender__startswith="works.").order_by("signal", "sender")
            found += [list(row) for row in events.values_list("signal", "sender").annotate(n=models.Count("pk"))]
            foreign = [event for event in events if f", {other}" in str(event.data)]
            found += [[f"of {other} in {name}", event.sender, event.object_label] for event in foreign]
    return found
