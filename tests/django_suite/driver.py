"""Runs Django's ``runtests.py`` with Signalbox first in INSTALLED_APPS, or without it.

``python driver.py [--baseline] [--parallel N] TESTS [LABEL ...]``; TESTS is the directory with ``runtests.py``.
"""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Return 0 if every test passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--baseline", action="store_true", help="run without Signalbox")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("tests")
    parser.add_argument("labels", nargs="*")
    options = parser.parse_args()

    faulthandler.enable()  # SIGABRT shows where a process hangs
    # Workers inherit the list of apps, which they don't in a process that imports everything again.
    multiprocessing.set_start_method("fork")
    # The directory is where Django's tests find each other's modules, as if runtests.py were the program.
    sys.path[:1] = [options.tests, str(ROOT)]
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django_suite.settings"
    os.environ.setdefault("TMPDIR", tempfile.gettempdir())  # runtests.py expects it when it isn't the program
    runtests = import_module("runtests")
    if not options.baseline:
        # runtests.py makes INSTALLED_APPS from this list, in the workers too. Its MIGRATION_MODULES doesn't name
        # Signalbox, so that the migrations make its tables in each test database.
        runtests.ALWAYS_INSTALLED_APPS.insert(0, "signalbox")
    return bool(
        runtests.django_tests(
            verbosity=1,
            interactive=False,
            failfast=False,
            keepdb=False,
            reverse=False,
            test_labels=options.labels,
            debug_sql=False,
            parallel=options.parallel,
            tags=None,
            exclude_tags=None,
            test_name_patterns=None,
            start_at=None,
            start_after=None,
            pdb=False,
            buffer=False,
            timing=False,
            shuffle=False,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
