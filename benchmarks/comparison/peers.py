"""The packages that are compared, and how each is installed in a site."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """One package, or bare Django, as a column of the comparison."""

    name: str
    """The name of its environment, and of its file in ``requirements``."""
    title: str
    distribution: str = ""
    apps: tuple[str, ...] = ()
    middleware: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    side_tables: tuple[str, ...] = ()
    """Its tables whose rows are not records of changes."""
    databases: tuple[str, ...] = ("sqlite", "postgres")


BARE = Peer("django", "bare Django", "django")
PEERS = (
    Peer(
        "signalbox",
        "Signalbox",
        apps=("signalbox",),
        middleware=("signalbox.middleware.TraceMiddleware",),
        settings={"SIGNALBOX": {"RECORD": "audit"}},
        side_tables=("signalbox_trace", "signalbox_delivery", "signalbox_worker"),
    ),
    Peer(
        "auditlog",
        "auditlog",
        "django-auditlog",
        apps=("auditlog",),
        middleware=("auditlog.middleware.AuditlogMiddleware",),
    ),
    Peer(
        "easy-audit",
        "easy-audit",
        "django-easy-audit",
        apps=("easyaudit",),
        middleware=("easyaudit.middleware.easyaudit.EasyAuditMiddleware",),
        side_tables=("easyaudit_loginevent", "easyaudit_requestevent"),
    ),
    Peer(
        "simple-history",
        "simple-history",
        "django-simple-history",
        apps=("simple_history",),
        middleware=("simple_history.middleware.HistoryRequestMiddleware",),
        # Its tables refer to users. Django creates tables of apps without migrations first, so users are one of these.
        settings={"MIGRATION_MODULES": {"auth": None, "contenttypes": None, "sessions": None}},
    ),
    Peer(
        "pghistory",
        "pghistory",
        "django-pghistory",
        apps=("pgtrigger", "pghistory"),
        middleware=("pghistory.middleware.HistoryMiddleware",),
        databases=("postgres",),
    ),
)
BY_NAME = {peer.name: peer for peer in (BARE, *PEERS)}
DATABASES = {"sqlite": "SQLite, WAL", "postgres": "PostgreSQL"}
