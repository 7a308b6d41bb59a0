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

BUSY = {
    "postgresql": """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
        AND backend_type = 'client backend'
    """,
    "mysql": """
        SELECT count(*) FROM information_schema.innodb_trx t
        JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
        WHERE p.db = database() AND p.id <> connection_id()
    """,
}
"""Count the open transactions. A server notices the end of a client a little later."""


def quiet() -> None:
    """Wait until the server has ended the transactions of the killed process."""
    sql = BUSY.get(connections["default"].vendor)
    for _ in range(1000):
        if sql is None or register.execute("default", sql) == [(0,)]:
            return
        time.sleep(0.01)
    pytest.fail("a transaction of a killed process does not end")


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
            quiet()
            assert matching(), f"crash {crash}, seed {seed}"
        writers.stdin.close()
