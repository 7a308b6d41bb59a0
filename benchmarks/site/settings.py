"""Settings of one process of the benchmark.

The environment names its database and its setting SIGNALBOX. Without a setting it is bare Django.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.services import ADDRESSES

DATABASE = os.environ["SIGNALBOX_BENCH_DATABASE"]
NAME = os.environ["SIGNALBOX_BENCH_NAME"]
SIGNALBOX = json.loads(os.environ["SIGNALBOX_BENCH_SETTING"] or "{}")
BARE = not SIGNALBOX


def database() -> dict[str, Any]:
    """Return the settings of the database. It waits for the disk as it does by default."""
    if DATABASE == "sqlitewal":
        name = str(Path(tempfile.gettempdir(), f"{NAME}.sqlite3"))
        options: dict[str, Any] = {"timeout": 20, "init_command": "PRAGMA journal_mode = WAL"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "TEST": {"NAME": name}, "OPTIONS": options}
    address = urlsplit(ADDRESSES[DATABASE])
    mysql = DATABASE == "mariadb"
    return {
        "ENGINE": "django.db.backends.mysql" if mysql else "django.db.backends.postgresql",
        "HOST": address.hostname or "",
        "PORT": address.port or "",
        "USER": unquote(address.username or ""),
        "PASSWORD": unquote(address.password or ""),
        "NAME": NAME,
        "TEST": {"NAME": NAME},
        "OPTIONS": {"charset": "utf8mb4"} if mysql else {},
        "CONN_MAX_AGE": None,
    }


DATABASES = {"default": database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "not-a-secret"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "benchmarks.site.urls"

INSTALLED_APPS = [
    *(() if BARE else ("signalbox",)),
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "benchmarks.site",
]
MIDDLEWARE = [
    *(() if BARE else ("signalbox.middleware.TraceMiddleware",)),
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "ERROR"}}
