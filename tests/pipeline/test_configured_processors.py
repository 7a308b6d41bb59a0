"""Entries of ``SIGNALBOX["PROCESSORS"]`` that cannot be used."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from signalbox import conf
from signalbox.pipeline import configured_processors
from tests.events import get_events
from tests.pipeline.project_processors import configured
from tests.shop.models import Tag

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("nowhere.Drop", "can't be used: ModuleNotFoundError: No module named 'nowhere'"),
        ("os.sep", "is not a subclass of signalbox.EventProcessor"),
        (
            {"PROCESSOR": "signalbox.Sample", "OPTIONS": {"rate": 7}},
            "can't be used: ValueError: rate is 7. Expected a number from 0 to 1",
        ),
        (
            {"PROCESSOR": "signalbox.Enrich", "OPTIONS": {"function": 7}},
            "can't be used: TypeError: function is 7. Expected a callable or its dotted path",
        ),
    ],
    ids=["missing", "not a processor", "rate", "function"],
)
def test_an_unusable_entry_is_logged_and_everything_is_recorded(
    entry: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), configured(entry):
        Tag.objects.create(name="a")
        assert 1 == len(get_events(Tag, "post_save"))
        assert [reason] == [found for _, found in configured_processors.get_errors()]
    assert any(reason in record.message for record in caplog.records)


@pytest.mark.parametrize("value", [7, ["a", 7], [{"PATH": "a"}], "a.B"], ids=repr)
def test_a_setting_of_another_shape_is_an_error(value: Any) -> None:
    [(path, message, _)] = conf.get_errors({"PROCESSORS": value})
    assert ("PROCESSORS",) == path
    assert 'Expected a list of dotted paths, or dicts with "PROCESSOR" and "OPTIONS".' in message
