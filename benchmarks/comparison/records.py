"""Reads the rows that the site's package has stored, from the tables themselves."""

from __future__ import annotations

from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.models import Model

SITE_MODELS = {"Customer", "Tag", "Order", "Order_tags", "Line"}
CONTEXT_TABLES = {"pghistory_context"}
"""Tables that belong to records, without being records."""


class Records:
    """The tables of the package, and their rows as texts."""

    def __init__(self) -> None:
        site = {model._meta.db_table for model in apps.get_models(include_auto_created=True) if _is_of_site(model)}
        self._tables = sorted(set(connection.introspection.table_names()) - site - {"django_migrations"})

    def clear(self) -> None:
        """Delete all rows."""
        if not self._tables:
            return
        with connection.cursor() as cursor:
            quoted = [connection.ops.quote_name(table) for table in self._tables]
            if connection.vendor == "postgresql":
                cursor.execute(f"TRUNCATE {', '.join(quoted)} CASCADE")
                return
            with connection.constraint_checks_disabled():
                for table in quoted:
                    cursor.execute(f"DELETE FROM {table}")

    def read(self) -> set[tuple[str, str]]:
        """Return table and text of each row, without those that are not about changes."""
        if settings.PEER.name == "signalbox":
            apps.get_model("signalbox", "Event").objects.exists()  # writes what is pending, as every query of it does
        rows = set()
        with connection.cursor() as cursor:
            for table in self._tables:
                if table not in settings.PEER.side_tables:
                    cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
                    rows |= {(table, str(row)) for row in cursor.fetchall()}
        return rows


def _is_of_site(model: type[Model]) -> bool:
    options = model._meta
    if options.app_label == "comparison":
        return options.object_name in SITE_MODELS
    return options.app_label in ("auth", "contenttypes", "sessions")
