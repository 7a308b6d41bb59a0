"""Tests of Django's `TestCase` find their own events and leave none."""

from __future__ import annotations

import io
import unittest

import pytest
from django.db import transaction
from django.test import TestCase

from signalbox.models import Event
from tests.exactness import register
from tests.exactness.blocks import create_tag, rolled_back_atomic
from tests.shop.models import Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def told() -> list[tuple[str, str]]:
    events = Event.objects.filter(signal__in=["post_save", "post_delete"]).order_by("id")
    return [(event.object_label, event.outcome) for event in events]


def run(case: type[TestCase]) -> None:
    """Run the tests of `case` as Django's runner does."""
    stream = io.StringIO()
    result = unittest.TextTestRunner(stream=stream).run(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    assert result.wasSuccessful(), stream.getvalue()
    assert result.testsRun


def test_a_test_finds_its_own_events_and_the_next_does_not() -> None:
    class Twice(TestCase):
        databases = {"default", "other"}

        def check(self) -> None:
            assert [] == told()
            create_tag("a")
            assert [("a", "committed")] == told()
            with transaction.atomic():
                create_tag("b")
            with rolled_back_atomic():
                create_tag("c")
            assert [("a", "committed"), ("b", "committed")] == [t for t in told() if t[1] == "committed"]
            create_tag("d", "other")
            assert 1 == Event.objects.using("other").filter(signal="post_save").count()

        def test_first(self) -> None:
            self.check()

        def test_second(self) -> None:
            self.check()

    run(Twice)
    assert [] == register.read_recorded_values("committed", "post_save")
    assert [] == register.read_recorded_values("rolled_back", "post_save")
    assert [] == register.read_recorded_values("rolled_back", "post_save", "other")


def test_each_test_finds_the_events_of_class_data() -> None:
    class Shared(TestCase):
        @classmethod
        def setUpTestData(cls) -> None:
            create_tag("shared")
            with rolled_back_atomic():
                create_tag("never there")

        def test_first(self) -> None:
            assert ("shared", "committed") in told()
            Tag.objects.get().delete()
            assert 2 == len([t for t in told() if t == ("shared", "committed")])

        test_second = test_first

    run(Shared)
    assert [] == register.read_recorded_values("committed", "post_save")
    assert [] == register.read_recorded_values("rolled_back", "post_save")


def test_a_test_counts_only_its_own_statements_and_hooks() -> None:
    class Counting(TestCase):
        def test_queries(self) -> None:
            with self.assertNumQueries(1):
                create_tag("a")
            with self.assertNumQueries(3), transaction.atomic():  # and the savepoint's two
                create_tag("b")

        def test_hooks(self) -> None:
            with self.captureOnCommitCallbacks() as hooks:
                create_tag("a")
                transaction.on_commit(lambda: None)
            assert 1 == len(hooks)

        def test_durable(self) -> None:
            with transaction.atomic(durable=True):
                create_tag("a")
            assert [("a", "committed")] == told()

    run(Counting)
    assert [] == register.read_recorded_values("committed", "post_save")
