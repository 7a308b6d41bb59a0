"""The servers that tests talk to: where they are, and whether they answer."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from urllib.parse import urlsplit

ADDRESSES = {
    "postgres": os.environ.get("SIGNALBOX_TEST_POSTGRES", "postgres://postgres@127.0.0.1:5432/postgres"),
    "mariadb": os.environ.get("SIGNALBOX_TEST_MARIADB", "mysql://root@127.0.0.1:3306/test"),
    "redis": os.environ.get("SIGNALBOX_TEST_REDIS", "redis://127.0.0.1:6379/0"),
    "rabbitmq": os.environ.get("SIGNALBOX_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//"),
}
DEFAULT_PORTS = {"postgres": 5432, "mariadb": 3306, "redis": 6379, "rabbitmq": 5672}

# The server behind each value of SIGNALBOX_TEST_DB; None is a file.
DATABASE_SERVICES: dict[str, str | None] = {
    "sqlite": None,
    "sqlitewal": None,
    "postgres": "postgres",
    "postgrespool": "postgres",
    "mariadb": "mariadb",
}


def are_services_required() -> bool:
    """Whether a missing service is a failure, as in CI, and not a reason to skip."""
    return os.environ.get("SIGNALBOX_REQUIRE_SERVICES", "") not in ("", "0")


def get_unavailable_reason(service: str) -> str | None:
    """Say why `service` can't be used, with the remedy; None if it answers."""
    if service == "mariadb" and find_spec("MySQLdb") is None:
        return "no mysqlclient to reach mariadb with: install libmariadb-dev and pkg-config, and run make again"
    address = urlsplit(ADDRESSES[service])
    host, port = address.hostname or "127.0.0.1", address.port or DEFAULT_PORTS[service]
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        return f"no {service} at {host}:{port} ({error}): start one, or set SIGNALBOX_TEST_{service.upper()}"
    return None
