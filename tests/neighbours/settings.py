"""The settings of one run: which neighbour, which database, and where Signalbox is among the apps, if it is there.

The environment says so: ``NEIGHBOUR``, ``NEIGHBOUR_DATABASE`` (``sqlite`` or ``postgres``), ``NEIGHBOUR_NAME`` (of the
database) and ``NEIGHBOUR_SIGNALBOX`` (``first``, ``last`` or ``absent``).
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit

from tests import services
from tests.neighbours.sites import SITES

SITE_NAME = os.environ["NEIGHBOUR"]
SIGNALBOX_PLACE = os.environ["NEIGHBOUR_SIGNALBOX"]
_SITE = SITES[SITE_NAME]
_NAME = os.environ["NEIGHBOUR_NAME"]

WORK = f"tests.neighbours.works.{_SITE.work}"


def _database() -> dict[str, Any]:
    if os.environ["NEIGHBOUR_DATABASE"] == "sqlite":
        options = {"init_command": "PRAGMA synchronous = OFF"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": _NAME, "OPTIONS": options}
    address = urlsplit(services.ADDRESSES["postgres"])
    engine = "django_tenants.postgresql_backend" if SITE_NAME == "tenants" else "django.db.backends.postgresql"
    return {
        "ENGINE": engine,
        "HOST": address.hostname or "",
        "PORT": address.port or "",
        "USER": unquote(address.username or ""),
        "PASSWORD": unquote(address.password or ""),
        "NAME": _NAME,
        "OPTIONS": {"options": "-c synchronous_commit=off"},
    }


def _with_signalbox(entries: list[str], entry: str) -> list[str]:
    match SIGNALBOX_PLACE:
        case "first":
            return [entry, *entries]
        case "last":
            return [*entries, entry]
    return entries


class _Unmigrated(dict[str, None]):
    """Has the tables of nearly every app created from its models: migrations take ten times as long."""

    def __contains__(self, label: object) -> bool:
        return label not in ("signalbox", *_SITE.migrated)

    def __getitem__(self, label: str) -> None:
        return None

    def get(self, label: str, default: Any = None) -> Any:
        return None if label in self else default


DATABASES = {"default": _database()}
MIGRATION_MODULES = _Unmigrated()
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

SECRET_KEY = "not-a-secret"
ALLOWED_HOSTS = ["*"]
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
STATIC_URL = "static/"
ROOT_URLCONF = "tests.neighbours.works.urls"
LOGIN_REDIRECT_URL = "/write/"
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SILENCED_SYSTEM_CHECKS: list[str] = []

_DJANGO = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.admin",
    "django.contrib.staticfiles",
]
INSTALLED_APPS = _with_signalbox([*_DJANGO, *_SITE.apps, "tests.neighbours.works"], "signalbox")
MIDDLEWARE = [
    *([] if SIGNALBOX_PLACE == "absent" else ["signalbox.middleware.TraceMiddleware"]),
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    *_SITE.middleware,
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

if SITE_NAME == "tenants":
    SHARED_APPS = _with_signalbox(["django_tenants", *_DJANGO, "tests.neighbours.works"], "signalbox")
    TENANT_APPS = _with_signalbox(["django.contrib.contenttypes", "tests.neighbours.works"], "signalbox")
    INSTALLED_APPS = SHARED_APPS
    TENANT_MODEL = "works.Client"
    TENANT_DOMAIN_MODEL = "works.Domain"
    DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
    MIDDLEWARE = ["django_tenants.middleware.main.TenantMainMiddleware", *MIDDLEWARE]
    SHOW_PUBLIC_IF_NO_TENANT_FOUND = True

if SITE_NAME == "cacheops":
    CACHEOPS_REDIS = services.ADDRESSES["redis"]

    def CACHEOPS_PREFIX(query: Any) -> str:  # noqa: N802 - the name is the neighbour's
        """Keep runs at the same time apart."""
        return f"{_NAME}:"


globals().update(_SITE.settings)
