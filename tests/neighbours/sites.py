"""The sites that the tests compare: one for each neighbour, with the settings that the neighbour asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BOTH = ("sqlite", "postgres")
EVERYWHERE = ("first", "last")


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the site of a neighbour has beside Django, and what of its work differs from run to run."""

    work: str
    """The module in ``tests.neighbours.works`` that does the work."""
    apps: tuple[str, ...] = ()
    middleware: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    databases: tuple[str, ...] = BOTH
    places: tuple[str, ...] = ("first",)
    """Where Signalbox is among the installed apps: tools that replace methods of Django are tried in both orders."""
    services: tuple[str, ...] = ()
    start: str = ""
    """The function that starts the neighbour before Django's apps are loaded."""
    migrated: tuple[str, ...] = ()
    """Apps whose migrations create more than the tables of their models."""
    unordered: bool = False
    """Whether the keys of its JSON objects come in the order of a set."""
    volatile: frozenset[str] = frozenset()
    """Columns, as ``app.Model.column``, that hold durations, addresses in memory or random texts; and whole tables, as
    ``app.Model``."""


_LOCMEM = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

SITES: Mapping[str, Site] = {
    "sentry": Site(work="sentry", start="tests.neighbours.telemetry.start_sentry"),
    "opentelemetry": Site(work="opentelemetry", start="tests.neighbours.telemetry.start_opentelemetry"),
    "silk": Site(
        work="silk",
        apps=("silk",),
        middleware=("silk.middleware.SilkyMiddleware",),
        settings={"SILKY_META": False, "SILKY_MAX_RECORDED_REQUESTS_CHECK_PERCENT": 0},
        places=EVERYWHERE,
        # Its statements are compared by request.
        volatile=frozenset(
            {
                *("silk.SQLQuery", "silk.Profile_queries", "silk.Profile.time_taken"),
                *("silk.Request.id", "silk.Request.encoded_headers", "silk.Request.time_taken"),
                *("silk.Request.meta_time", "silk.Request.meta_time_spent_queries"),
                *("silk.Response.id", "silk.Response.request_id", "silk.Response.encoded_headers"),
            }
        ),
    ),
    "debug_toolbar": Site(
        work="debug_toolbar",
        apps=("debug_toolbar",),
        middleware=("debug_toolbar.middleware.DebugToolbarMiddleware",),
        settings={
            "DEBUG": True,
            "DEBUG_TOOLBAR_CONFIG": {
                "SHOW_TOOLBAR_CALLBACK": lambda request: True,
                "IS_RUNNING_TESTS": False,
                "RENDER_PANELS": False,
            },
            "DEBUG_TOOLBAR_PANELS": [
                "debug_toolbar.panels.sql.SQLPanel",
                "debug_toolbar.panels.signals.SignalsPanel",
                "debug_toolbar.panels.request.RequestPanel",
            ],
        },
    ),
    "cachalot": Site(
        work="cachalot",
        apps=("cachalot",),
        settings={"CACHES": _LOCMEM, "CACHALOT_ONLY_CACHABLE_APPS": ("works",), "CACHALOT_CACHE_RANDOM": True},
        places=EVERYWHERE,
    ),
    "cacheops": Site(
        work="cacheops",
        apps=("cacheops",),
        settings={"CACHEOPS": {"works.*": {"ops": "all", "timeout": 600}}},
        places=EVERYWHERE,
        services=("redis",),
    ),
    "tenants": Site(work="tenants", databases=("postgres",)),
    "simple_history": Site(
        work="simple_history",
        apps=("simple_history",),
        middleware=("simple_history.middleware.HistoryRequestMiddleware",),
    ),
    "auditlog": Site(
        work="auditlog",
        apps=("auditlog",),
        middleware=("auditlog.middleware.AuditlogMiddleware",),
        unordered=True,
    ),
    "reversion": Site(
        work="reversion",
        apps=("reversion",),
        middleware=("reversion.middleware.RevisionMiddleware",),
    ),
    "pghistory": Site(
        work="pghistory",
        apps=("pgtrigger", "pghistory"),
        middleware=("pghistory.middleware.HistoryMiddleware",),
        migrated=("pghistory",),
        settings={"PGTRIGGER_INSTALL_ON_MIGRATE": True},
        databases=("postgres",),
    ),
    "model_utils": Site(work="model_utils"),
    "polymorphic": Site(work="polymorphic", apps=("polymorphic",)),
    "treebeard": Site(work="treebeard", apps=("treebeard",)),
    "phonenumber": Site(work="phonenumber", apps=("phonenumber_field",)),
    "countries": Site(work="countries", apps=("django_countries",)),
    "money": Site(work="money", apps=("djmoney",)),
    "factory_boy": Site(work="factory_boy"),
    "rest_framework": Site(work="rest_framework", apps=("rest_framework",)),
    "allauth": Site(
        work="allauth",
        apps=("allauth", "allauth.account"),
        middleware=("allauth.account.middleware.AccountMiddleware",),
        settings={
            "AUTHENTICATION_BACKENDS": [
                "django.contrib.auth.backends.ModelBackend",
                "allauth.account.auth_backends.AuthenticationBackend",
            ],
            "ACCOUNT_SIGNUP_FIELDS": ["email*", "username*", "password1*", "password2*"],
            "ACCOUNT_RATE_LIMITS": False,
            "CACHES": _LOCMEM,
        },
    ),
}
