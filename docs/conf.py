"""How Sphinx builds this documentation."""

from __future__ import annotations

from importlib.metadata import version as installed

project = "Signalbox"
author = "django-signalbox contributors"
copyright = author
release = version = installed("django-signalbox")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"Signalbox {release}"
