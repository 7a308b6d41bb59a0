"""Settings of one site of the comparison. The environment names its package and its database."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from benchmarks.comparison.peers import BY_NAME
from tests.services import ADDRESSES

PEER = BY_NAME[os.environ["SIGNALBOX_COMPARISON_PEER"]]
NAME = os.environ["SIGNALBOX_COMPARISON_NAME"]


def _database() -> dict[str, Any]:
    if os.environ["SIGNALBOX_COMPARISON_DATABASE"] == "sqlite":
        name = str(Path(tempfile.gettempdir(), f"{NAME}.sqlite3"))
        options = {"timeout": 20, "init_command": "PRAGMA journal_mode = WAL"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "TEST": {"NAME": name}, "OPTIONS": options}
    address = urlsplit(ADDRESSES["postgres"])
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": address.hostname or "",
        "PORT": address.port or "",
        "USER": unquote(address.username or ""),
        "PASSWORD": unquote(address.password or ""),
        "NAME": NAME,
        "TEST": {"NAME": NAME},
        "CONN_MAX_AGE": None,
    }


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "not-a-secret"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "benchmarks.comparison.urls"

INSTALLED_APPS = [
    *PEER.apps,
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "benchmarks.comparison",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    *PEER.middleware,
]
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "ERROR"}}
globals().update(PEER.settings)
