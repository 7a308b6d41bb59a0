"""This thread's connection, for tests that look at it from within."""

from __future__ import annotations

from typing import Any

from django.db import connections


def get_connection() -> Any:
    """Return the default connection as it is now: a worker that ran in this process may have thrown one away."""
    return connections["default"]
