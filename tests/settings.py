"""A Django site for tests, on the database that SIGNALBOX_TEST_DB names (SQLite if it names none)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests import services

DATABASE = os.environ.get("SIGNALBOX_TEST_DB", "sqlite")
if DATABASE not in services.DATABASE_SERVICES:
    raise ValueError(f"SIGNALBOX_TEST_DB is {DATABASE!r}, expected one of {', '.join(services.DATABASE_SERVICES)}")

# Two runs on one machine must not meet, while the processes that a test starts must find its databases:
# the first process names the run, its children inherit the name.
# Workers of pytest-xdist share a run, and a worker's children its worker.
RUN_ID = os.environ.setdefault("SIGNALBOX_TEST_RUN", str(os.getpid())) + os.environ.get("PYTEST_XDIST_WORKER", "")


def build_database_settings(alias: str) -> dict[str, Any]:
    """Return Django's settings of one database; its name and the name under test are the same, for child processes."""
    name = f"signalbox_{RUN_ID}_{DATABASE}_{alias}"
    server = services.DATABASE_SERVICES[DATABASE]
    if server is None:
        # A file: threads and processes can't share a database in memory.
        name = str(Path(tempfile.gettempdir(), f"{name}.sqlite3"))
        # Tests kill processes, not the machine: what the operating system has is as good as on the disk. A worker
        # chooses itself what to wait for where there is a WAL.
        command = "journal_mode = WAL" if DATABASE == "sqlitewal" else "synchronous = OFF"
        options: dict[str, Any] = {"timeout": 20, "init_command": f"PRAGMA {command}"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "TEST": {"NAME": name}, "OPTIONS": options}
    if server == "postgres":
        engine, options = "django.db.backends.postgresql", {"options": "-c synchronous_commit=off"}  # as above
        if DATABASE == "postgrespool":
            options["pool"] = True
    else:
        engine, options = "django.db.backends.mysql", {"charset": "utf8mb4"}
    address = urlsplit(services.ADDRESSES[server])
    return {
        "ENGINE": engine,
        "HOST": address.hostname or "",
        "PORT": address.port or "",
        "USER": unquote(address.username or ""),
        "PASSWORD": unquote(address.password or ""),
        "NAME": name,
        "TEST": {"NAME": name},
        "OPTIONS": options,
    }


DATABASES = {"default": build_database_settings("default"), "other": build_database_settings("other")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

SECRET_KEY = "not-a-secret"
ALLOWED_HOSTS = ["*"]
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
STATIC_URL = "static/"
MEDIA_ROOT = str(Path(tempfile.gettempdir(), f"signalbox_{RUN_ID}_media"))
ROOT_URLCONF = "tests.urls"
LOGIN_URL = "admin:login"
# Hashing slowly on purpose is for real passwords.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "signalbox",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "tests.shop",
]

MIDDLEWARE = [
    "signalbox.middleware.TraceMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
