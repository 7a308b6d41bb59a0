"""The description of a model: it may be incomplete, and is then repeated later."""

from __future__ import annotations

import gc
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection, models
from django.db.migrations.state import ModelState, ProjectState
from django.test.utils import isolate_apps
from django.utils.choices import BaseChoiceIterator

from signalbox.instrumentation import model_metadata
from signalbox.models import Event
from tests.shop.models import Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    CharField = models.CharField[str, str]
else:
    CharField = models.CharField


class WithoutChoices(CharField):
    """A field that says that it has choices, and does not have them, as some packages' fields of several values."""

    @property
    def flatchoices(self) -> Any:
        return None

    @flatchoices.setter
    def flatchoices(self, value: Any) -> None:
        raise AssertionError


class Choices(BaseChoiceIterator):
    """Choices of the application's own class, which fail the first time."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        if self.error is not None:
            raise self.error
        yield "a", "Apple"


def queried_choices() -> Any:
    raise AssertionError("Choices are not evaluated while a row is recorded.")


@isolate_apps("tests.shop")
def test_callable_choices_are_not_called() -> None:
    class Queried(models.Model):
        kind = models.CharField(max_length=9, choices=queried_choices)
        plain = models.CharField(max_length=9, choices=[("a", "Apple"), ("Group", [("b", "Berry")])])

        class Meta:
            app_label = "shop"

    metadata = model_metadata.get_metadata(Queried)
    assert metadata.is_recorded
    assert {"plain": {"a": "Apple", "b": "Berry"}} == metadata.fields.choices


@isolate_apps("tests.shop")
def test_a_field_without_the_choices_that_it_declares_is_recorded_without_labels() -> None:
    class Several(models.Model):
        lands = WithoutChoices(max_length=9, choices=[("a", "A")])

        class Meta:
            app_label = "shop"

    metadata = model_metadata.get_metadata(Several)
    assert (True, True, {}) == (metadata.is_recorded, metadata.is_complete, metadata.fields.choices)


@isolate_apps("tests.shop")
def test_choices_that_fail_are_left_out_and_described_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choices = Choices(LookupError("not yet"))

    class Late(models.Model):
        kind = models.CharField(max_length=9)

        class Meta:
            app_label = "shop"

    field: Any = Late._meta.get_field("kind")
    field.choices = choices
    model_metadata.clear_cache()
    first = model_metadata.get_metadata(Late)
    assert (True, {}) == (first.is_recorded, first.fields.choices)
    assert "The choices of shop.Late.kind are recorded without labels." in caplog.text
    choices.error = None
    assert first is model_metadata.get_metadata(Late)

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + model_metadata.RETRY_SECONDS + 1)
    assert {"kind": {"a": "Apple"}} == model_metadata.get_metadata(Late).fields.choices


@pytest.mark.django_db
def test_choices_of_a_class_of_the_application_can_not_query() -> None:
    class Querying(BaseChoiceIterator):
        def __iter__(self) -> Iterator[Any]:
            return iter([(tag.name, tag.name) for tag in Tag.objects.all()])

    with isolate_apps("tests.shop"):

        class Item(models.Model):
            kind = models.CharField(max_length=9)

            class Meta:
                app_label = "shop"

    field: Any = Item._meta.get_field("kind")
    field.choices = Querying()
    model_metadata.clear_cache()
    metadata = model_metadata.get_metadata(Item)
    assert (True, {}) == (metadata.is_recorded, metadata.fields.choices)
    assert not connection.needs_rollback
    Tag.objects.create(name="a")
    assert Event.objects.filter(signal="post_save", sender="shop.Tag").exists()


def test_a_historical_model_is_described_once_and_is_freed_with_its_migration() -> None:
    state = ProjectState()
    state.add_model(ModelState("past", "Row", [("id", models.AutoField(primary_key=True))], bases=(models.Model,)))
    model = state.apps.get_model("past", "Row")
    assert "__fake__" == model.__module__

    metadata = model_metadata.get_metadata(model)
    assert metadata is model_metadata.get_metadata(model)
    assert model_metadata.get_cached_metadata(model) is None
    model_metadata.clear_cache()
    assert metadata is not model_metadata.get_metadata(model)

    reference = weakref.ref(model)
    del model, metadata, state
    gc.collect()
    assert reference() is None
