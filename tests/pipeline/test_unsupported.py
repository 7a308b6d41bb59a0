"""A site whose database is not supported, or that has none, works; nothing is recorded there."""

from __future__ import annotations

import os
import subprocess
import sys

WITHOUT_DATABASES = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "signalbox"])
django.setup()
from django.dispatch import Signal
import signalbox
done = Signal()
signalbox.register_signal(done, "tests.done")
{work}
"""


def run_without_databases(work: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    program = WITHOUT_DATABASES.format(work=work)
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_process_without_databases_ends_without_a_message() -> None:
    done = run_without_databases("")
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_a_process_without_databases_works_and_logs_the_number_of_lost_events() -> None:
    done = run_without_databases("with signalbox.trace('work'): print(done.send(sender=None))")
    assert (0, "[]\n") == (done.returncode, done.stdout), done.stderr
    assert "Events that could not be written before the process ended are lost: 1." in done.stderr
    assert "Traceback" not in done.stderr
