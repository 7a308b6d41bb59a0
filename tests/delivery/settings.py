"""The settings of the processes that a test starts: its databases, and the SIGNALBOX that it wants."""

from __future__ import annotations

import ast
import os

from tests.settings import *  # noqa: F403

SIGNALBOX = ast.literal_eval(os.environ.get("SIGNALBOX_TEST_BOX", "{}"))

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(process)d %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
