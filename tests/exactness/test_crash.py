"""A process that is killed while it writes leaves rows and events that match."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from django.db import connections

from tests.exactness import register

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

SESSIONS = {
    "postgresql": """
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    """,
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
}
"""The sessions of other clients. A server notices the end of a client a little later."""


def find_sessions() -> set[int]:
    sql = SESSIONS.get(connections["default"].vendor)
    return set() if sql is None else {number for (number,) in register.execute("default", sql)}


def quiet(before: set[int]) -> None:
    """Wait until the server has ended the sessions of the killed process. An idle one may not have read yet what the
    process has sent."""
    deadline = time.monotonic() + 60
    while find_sessions() - before:
        assert time.monotonic() < deadline, "a session of a killed process does not end"
        time.sleep(0.01)


def matching() -> bool:
    """Return True if rows and events match. `register` reads them one after the other."""
    same: bool = register.read_rows("shop.Order") == register.replay_rows("shop.Order")
    return same and register.read_tag_links() == register.replay_tag_links()


@pytest.mark.crash
def test_rows_and_events_match_after_every_kill(crash_count: int) -> None:
    chance = random.Random()
    command = [sys.executable, "-m", "tests.exactness.writer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for crash in range(crash_count):
            register.empty_tables("default")
            before = find_sessions()
            seed = chance.getrandbits(32)
            writers.stdin.write(f"{seed}\n")
            writers.stdin.flush()
            said = {writers.stdout.readline().strip(), writers.stdout.readline().strip()}  # in any order
            assert "writing" in said, f"writer {seed} ended before it had written"
            [pid] = said - {"writing"}
            time.sleep(chance.uniform(0, 0.2))
            with suppress(ProcessLookupError):  # said below
                os.kill(int(pid), signal.SIGKILL)
            assert str(-signal.SIGKILL) == writers.stdout.readline().strip(), f"writer {seed} ended by itself"
            quiet(before)
            assert matching(), f"crash {crash}, seed {seed}"
        writers.stdin.close()
