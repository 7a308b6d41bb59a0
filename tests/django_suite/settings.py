"""The settings that Django's test suite runs with, on the database that SIGNALBOX_SUITE_DATABASE names.

Everything else is as Django's tests expect it: in their own settings for SQLite, or set by ``runtests.py``.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit
from zlib import crc32

import django
from test_sqlite import *  # type: ignore[import-not-found]  # noqa: F403

from tests import services

DATABASE = os.environ.get("SIGNALBOX_SUITE_DATABASE", "sqlite")
# Checkouts and Django versions use different databases on one server. Those that an aborted run has left are replaced.
NAME = f"signalbox_suite_{crc32(f'{__file__} {django.get_version()}'.encode()):08x}"


def database(alias: str) -> dict[str, Any]:
    """Return the settings of one database: Django's default for tests on SQLite, which is a database in memory."""
    if DATABASE == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3"}
    if DATABASE != "postgres":
        raise ValueError(f"SIGNALBOX_SUITE_DATABASE is {DATABASE!r}, expected sqlite or postgres")
    address = urlsplit(services.ADDRESSES["postgres"])
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": address.hostname or "",
        "PORT": str(address.port or ""),
        "USER": unquote(address.username or ""),
        "PASSWORD": unquote(address.password or ""),
        "NAME": f"{NAME}_{alias}",
    }


DATABASES = {"default": database("default"), "other": database("other")}
TEST_RUNNER = "tests.django_suite.runner.Runner"
SIGNALBOX = {"RECORD": "all"}
