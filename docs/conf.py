"""How Sphinx builds this documentation."""

from __future__ import annotations

import dataclasses
import enum
import os
from importlib.metadata import version as installed
from typing import Any

import django
from django.conf import settings

os.environ["SIGNALBOX_DISABLED"] = "1"  # the public API is imported, nothing is recorded
settings.configure(
    INSTALLED_APPS=[
        "signalbox",
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "signalbox.contrib.prometheus",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()

project = "Signalbox"
author = "django-signalbox contributors"
copyright = author
release = version = installed("django-signalbox")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpick_ignore_regex = [("py:.*", ".*")]  # types of Python and Django have no page here

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"Signalbox {release}"


CREATED_BY_SIGNALBOX = {
    "signalbox.ObjectHistory",
    "signalbox.ObjectState",
    "signalbox.PurgeError",
    "signalbox.testing.RecordedEvent",
    "signalbox.testing.RecordedEvents",
}
CREATED_BY_DJANGO = {"signalbox.logs.TraceFilter", "signalbox.middleware.TraceMiddleware"}


def hide_signature(app: Any, what: str, name: str, found: object, *details: object) -> tuple[str, None] | None:
    """Hide the parameters of classes that a project does not create. Their attributes are listed."""
    is_result = isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, enum.Enum | tuple))
    return ("", None) if is_result or name in CREATED_BY_SIGNALBOX | CREATED_BY_DJANGO else None


def setup(app: Any) -> None:
    """Connect the function above."""
    app.connect("autodoc-process-signature", hide_signature)
