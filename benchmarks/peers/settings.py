"""The settings of one contestant of `benchmarks/delivery.py`, whose name the environment holds."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403

PEER = os.environ["SIGNALBOX_BENCH_PEER"]
DATABASES = {"default": DATABASES["default"]}  # noqa: F405
DATABASES["default"]["CONN_MAX_AGE"] = None
ROOT_URLCONF = __name__
urlpatterns: list[object] = []
if PEER != "signalbox":
    INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
    MIDDLEWARE = [name for name in MIDDLEWARE if "signalbox" not in name]  # noqa: F405
if PEER == "django-tasks-db":
    INSTALLED_APPS.append("django_tasks_db")
    TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
elif PEER == "django-ox":
    INSTALLED_APPS.append("django_ox")
    TASKS = {"default": {"BACKEND": "django_ox.backend.OxBackend"}}
elif PEER == "procrastinate":
    INSTALLED_APPS.append("procrastinate.contrib.django")
    PROCRASTINATE_IMPORT_PATHS = ["benchmarks.peers.noop"]
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "ERROR"}}
