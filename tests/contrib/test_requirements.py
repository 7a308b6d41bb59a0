"""A missing package is an error that names the command which installs it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from django.core.exceptions import ImproperlyConfigured

from signalbox.contrib.requirements import require

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys
sys.modules[{package!r}] = None  # as if it was not installed
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["signalbox", {app!r}], DATABASES={{}})
django.setup()
"""


@pytest.mark.parametrize(
    ("app", "package", "extra"),
    [
        ("signalbox.contrib.prometheus", "prometheus_client", "metrics"),
        ("signalbox.contrib.opentelemetry", "opentelemetry", "otel"),
    ],
)
def test_an_app_whose_package_is_missing_names_the_command(app: str, package: str, extra: str) -> None:
    path = os.pathsep.join(["src", ".", os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(app=app, package=package)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f'ImproperlyConfigured: INSTALLED_APPS has "{app}"' in done.stderr
    assert f'python -m pip install "django-signalbox[{extra}]"' in done.stderr


def test_an_import_error_within_a_package_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_metrics.py").write_text("import missing_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="missing_dependency"):
        require("broken_metrics", app="shop", extra="metrics")
    with pytest.raises(ImproperlyConfigured, match="missing_metrics"):
        require("missing_metrics", app="shop", extra="metrics")


def test_signalbox_imports_neither_package_by_itself() -> None:
    program = (
        "import django, sys; from django.conf import settings; "
        "settings.configure(INSTALLED_APPS=['signalbox'], DATABASES={}); django.setup(); "
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus', 'signalbox.contrib'))])"
    )
    path = os.pathsep.join(["src", ".", os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "[]" == done.stdout.strip()
