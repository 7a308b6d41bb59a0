"""``Sample`` and ``Enrich``, the event processors of Signalbox."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.db.models.signals import post_save
from django.test import Client

import signalbox
from signalbox.core.event import PendingEvent
from signalbox.core.tracing import Trace
from signalbox.models import Event
from signalbox.serialization.redaction import REDACTED
from tests.events import get_newest_event
from tests.pipeline.project_processors import configured
from tests.shop.models import Tag

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def test_data_that_a_processor_adds_is_stored_redacted_and_bounded() -> None:
    def add(event: PendingEvent) -> dict[str, Any]:
        return {"tenant": 7, "password": "veil-1", "much": "x" * 10**6, "list": list(range(10**5))}

    with configured({"PROCESSOR": "signalbox.Enrich", "OPTIONS": {"function": add}}):
        Tag.objects.create(name="a")
        extra = get_newest_event(Tag, "post_save").data["extra"]
    assert (7, REDACTED) == (extra["tenant"], extra["password"])
    assert 20_000 > len(str(extra))


def tenant(event: PendingEvent) -> dict[str, Any]:
    return {"tenant": 7}


def test_the_function_of_enrich_can_be_a_dotted_path() -> None:
    with configured({"PROCESSOR": "signalbox.Enrich", "OPTIONS": {"function": f"{__name__}.tenant"}}):
        Tag.objects.create(name="a")
        assert {"tenant": 7} == get_newest_event(Tag, "post_save").data["extra"]


@pytest.mark.django_db(transaction=True)
def test_added_data_remains_after_the_receivers_have_run() -> None:
    def receive(**kwargs: Any) -> None:
        pass

    post_save.connect(receive, sender=Tag)
    try:
        with configured({"PROCESSOR": "signalbox.Enrich", "OPTIONS": {"function": tenant}}):
            Tag.objects.create(name="a")
            data = get_newest_event(Tag, "post_save").data
    finally:
        post_save.disconnect(receive, sender=Tag)
    assert (1, {"tenant": 7}) == (len(data["receivers"]), data["extra"])


def test_added_data_is_stored_as_it_was_when_it_was_added() -> None:
    data: dict[str, Any] = {"roles": ["reader"]}
    with configured({"PROCESSOR": "signalbox.Enrich", "OPTIONS": {"function": lambda event: data}}):
        with transaction.atomic():
            Tag.objects.create(name="a")
            data["roles"].append("admin")
        assert {"roles": ["reader"]} == get_newest_event(Tag, "post_save").data["extra"]


# ------------------------------------------------------------------ sampling


def trace_of(trace_id: str, **attributes: Any) -> Trace:
    trace = Trace("request", "GET /", trace_id=trace_id)
    for name, value in attributes.items():
        setattr(trace, name, value)
    return trace


@pytest.mark.parametrize(
    ("attributes", "is_kept"),
    [
        ({}, False),
        ({"status": "200"}, False),
        ({"status": "500"}, True),
        ({"status": "failed"}, True),
        ({"errors": 1}, True),
        ({"has_writes": True}, True),
    ],
    ids=repr,
)
def test_sampling_keeps_errors_and_writes(attributes: dict[str, Any], is_kept: bool) -> None:
    assert is_kept is signalbox.Sample(0).on_trace_end(trace_of("0" * 31 + "1", **attributes))


def test_sampling_decides_by_the_trace_id() -> None:
    sample = signalbox.Sample(0.5)
    assert sample.on_trace_end(trace_of("7" + "f" * 31))
    assert not sample.on_trace_end(trace_of("8" + "0" * 31))


@pytest.mark.django_db(transaction=True)
def test_a_request_that_is_sampled_out_leaves_no_rows(client: Client) -> None:
    with configured({"PROCESSOR": "signalbox.Sample", "OPTIONS": {"rate": 0}}):
        client.get("/nothing/")
        assert (0, 0) == (Event.objects.filter(signal="request_started").count(), count_request_traces())
    with configured({"PROCESSOR": "signalbox.Sample", "OPTIONS": {"rate": 1}}):
        client.get("/nothing/")
        assert (1, 1) == (Event.objects.filter(signal="request_started").count(), count_request_traces())


def count_request_traces() -> int:
    from signalbox.models import Trace as TraceRow

    return TraceRow.objects.filter(kind="request").count()
