"""Recording behind pgbouncer, in transaction and in statement mode."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import OperationalError, connections, transaction
from django.db.models.signals import post_save

import signalbox
from signalbox import conf
from signalbox.models import Delivery, Event
from signalbox.outbox import registry
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.pipeline import processors
from tests import services
from tests.connecting import get_connection
from tests.outbox.proxy import hold_port
from tests.shop.models import Tag, Word

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def pgbouncer(folder: Path, mode: str) -> Iterator[int]:
    """Run pgbouncer in front of the database under test, and return its port."""
    if PROGRAM is None:
        reason = "no pgbouncer: install the package of that name"
        if services.are_services_required():
            pytest.fail(f"{reason} (SIGNALBOX_REQUIRE_SERVICES is set)", pytrace=False)
        pytest.skip(reason)
    settings = get_connection().settings_dict
    holder = hold_port()
    port = holder.getsockname()[1]
    config = folder / "pgbouncer.ini"
    server = f"host={settings['HOST']} port={settings['PORT'] or 5432} user={settings['USER']}"
    if settings["PASSWORD"]:
        server += f" password={settings['PASSWORD']}"
    config.write_text(
        f"[databases]\n* = {server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = {mode}\ndefault_pool_size = 2\nignore_startup_parameters = options\n"
    )
    command = [PROGRAM, "-q", str(config)]
    if os.geteuid() == 0:  # it refuses to run as root
        command[1:1] = ["-u", "nobody"]
    with (folder / "pgbouncer.log").open("w+") as log:
        process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log)
        try:
            for _ in range(600):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None:
                    log.seek(0)
                    pytest.fail(f"pgbouncer ended: {log.read()}")
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait(60)
            holder.close()


@pytest.fixture
def pooled(tmp_path_factory: pytest.TempPathFactory, settings: Any) -> Iterator[Callable[[str], None]]:
    """Return a function that puts pgbouncer in front of the default connection, in a mode."""
    connection = connections["default"]
    kept = dict(connection.settings_dict)
    folder = tmp_path_factory.mktemp("pgbouncer")
    opened: list[Any] = []

    def use(mode: str) -> None:
        block = pgbouncer(folder, mode)
        opened.append(block)
        port = block.__enter__()
        connection.close()
        connection.settings_dict.update(HOST="127.0.0.1", PORT=port, DISABLE_SERVER_SIDE_CURSORS=True)

    yield use
    connection.close()
    connection.settings_dict.clear()
    connection.settings_dict.update(kept)
    for block in opened:
        block.__exit__(None, None, None)


def saved() -> list[tuple[str, str]]:
    found = Event.objects.filter(signal="post_save", sender="shop.Tag").order_by("id")
    return [(event.object_label, event.outcome) for event in found]


def test_transaction_mode_records_writes_with_their_events(pooled: Callable[[str], None]) -> None:
    pooled("transaction")
    Tag.objects.create(name="in autocommit")
    with transaction.atomic():
        Tag.objects.create(name="in a block")
        Tag.objects.create(name="in the same block")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Tag.objects.create(name="rolled back")
        raise ZeroDivisionError
    committed = [name for name, outcome in saved() if outcome == "committed"]
    assert ["in autocommit", "in a block", "in the same block"] == committed
    assert committed == [tag.name for tag in Tag.objects.order_by("id")]


def test_statement_mode_records_writes_after_their_statements(pooled: Callable[[str], None], settings: Any) -> None:
    settings.SIGNALBOX = {"AUTOCOMMIT": "after"}
    pooled("statement")
    with signalbox.trace("work"):
        tag = Tag.objects.create(name="a")
        tag.name = "b"
        tag.save()
    assert [("a", "committed"), ("b", "committed")] == saved()


def test_statement_mode_without_the_setting_raises_an_error_that_names_it(
    pooled: Callable[[str], None], settings: Any
) -> None:
    settings.SIGNALBOX = {"AUTOCOMMIT": "atomic"}
    assert "atomic" == conf.get().AUTOCOMMIT
    pooled("statement")
    with pytest.raises(OperationalError, match="statement pooling") as caught:
        Tag.objects.create(name="a")
    assert any('{"AUTOCOMMIT": "after"}' in note for note in caught.value.__notes__)
    assert not Tag.objects.exists()
    assert not Delivery.objects.exists()


def on_tag(sender: Any, instance: Any, **kwargs: Any) -> None: ...


@pytest.fixture
def durable() -> Iterator[None]:
    """Tags have a durable receiver."""
    signalbox.receiver(post_save, sender="shop.Tag", durable=True)(on_tag)
    yield
    registry.disconnect(f"{__name__}.on_tag")
    processors.uninstall(OUTBOX)
    signalbox.start_recording()


@pytest.mark.usefixtures("durable")
def test_statement_mode_with_a_durable_receiver_raises_an_error_that_names_it(
    pooled: Callable[[str], None], settings: Any
) -> None:
    settings.SIGNALBOX = {"AUTOCOMMIT": "after"}
    assert [] == [found for found in run_checks() if "AUTOCOMMIT" in found.msg]
    pooled("statement")
    Word.objects.create(text="without a receiver")
    with pytest.raises(OperationalError, match="statement pooling") as caught:
        Tag.objects.create(name="a")
    assert any("no durable receiver" in note for note in caught.value.__notes__)
    assert any("transaction mode" in note for note in caught.value.__notes__)
    assert not Tag.objects.exists()
    assert not Delivery.objects.exists()


@pytest.mark.usefixtures("durable")
def test_transaction_mode_writes_deliveries_with_both_settings(pooled: Callable[[str], None], settings: Any) -> None:
    pooled("transaction")
    for position, mode in enumerate(("atomic", "after")):
        settings.SIGNALBOX = {"AUTOCOMMIT": mode}
        Tag.objects.create(name=mode)
        assert position + 1 == Delivery.objects.count()
