"""The app config of Signalbox."""

from __future__ import annotations

import pytest
from django.apps import apps

from signalbox.models import Event
from signalbox.pipeline import unit_of_work


@pytest.mark.django_db
def test_a_second_call_of_ready_does_not_flush_twice_before_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    apps.get_app_config("signalbox").ready()
    flushes: list[None] = []
    flush_all = unit_of_work.flush_all

    def count_and_flush() -> None:
        flushes.append(None)
        flush_all()

    monkeypatch.setattr(unit_of_work, "flush_all", count_and_flush)
    Event.objects.count()
    assert [None] == flushes
