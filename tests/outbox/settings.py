"""The settings of processes that a test starts, with its databases and its ``SIGNALBOX``."""

from __future__ import annotations

import ast
import os

from tests.settings import *  # noqa: F403

DATABASES = {"default": DATABASES["default"]}  # noqa: F405 - the test has no other

if os.environ.get("SIGNALBOX_TEST_TIMEOUT") and "timeout" in DATABASES["default"]["OPTIONS"]:
    DATABASES["default"]["OPTIONS"]["timeout"] = float(os.environ["SIGNALBOX_TEST_TIMEOUT"])
if os.environ.get("SIGNALBOX_TEST_PORT"):
    DATABASES["default"] |= {"HOST": "127.0.0.1", "PORT": os.environ["SIGNALBOX_TEST_PORT"]}

SIGNALBOX = ast.literal_eval(os.environ.get("SIGNALBOX_TEST_SETTINGS", "{}"))

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(process)d %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}

if os.environ.get("SIGNALBOX_TEST_BROKER"):
    from tests.outbox.celery_app import app as celery_app  # noqa: F401 - as a project's package does

if os.environ.get("SIGNALBOX_TEST_TASKS"):
    _backend, _app = os.environ["SIGNALBOX_TEST_TASKS"].split()
    TASKS = {"default": {"BACKEND": _backend, "QUEUES": ["default", "mail"]}}
    INSTALLED_APPS = [*INSTALLED_APPS, _app]  # noqa: F405
