"""Static files of the page, as collected and served by a site."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client, override_settings

from signalbox.models import Event

MANIFEST = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}}


@pytest.mark.django_db
def test_every_file_that_the_page_asks_for_is_collected_under_a_hashed_name(
    operator_client: Client, add_event: Callable[..., Event], tmp_path: Path
) -> None:
    add_event()
    with override_settings(STORAGES=settings.STORAGES | MANIFEST, STATIC_ROOT=tmp_path, DEBUG=False):
        call_command("collectstatic", interactive=False, verbosity=0)
        names: set[str] = set()
        for path in ("", "map/", "doctor/", "object/?sender=shop.Order&key=7"):
            content = operator_client.get(f"/signalbox/{path}").content.decode()
            names |= set(re.findall(r'(?:href|src)="/static/([^"]+)"', content))
    assert len(names) > 8
    for name in names:
        assert re.search(r"\.[0-9a-f]{12}\.(?:js|css|svg)$", name), name
        assert (tmp_path / name).is_file()
    [sheet] = [name for name in names if "/signalbox." in name and name.endswith(".css")]
    fonts = re.findall(r'url\("([^"]+)"\)', (tmp_path / sheet).read_text())
    assert 2 == len(fonts)
    for font in fonts:
        assert re.search(r"\.[0-9a-f]{12}\.woff2$", font), font
        assert (tmp_path / sheet).parent.joinpath(font).is_file()
