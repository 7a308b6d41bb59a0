"""Test that no secret is in a column, a log line, a page or the output of a command."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.db.models import QuerySet
from django.db.models.signals import post_save
from django.test import Client, override_settings
from django.urls import reverse

import signalbox
from signalbox.core.event import Actor
from signalbox.models import Delivery, Event, Trace
from signalbox.outbox.durable_receiver import CannotBeDurable
from signalbox.outbox.single_delivery import execute_by_id
from signalbox.pipeline import exporter
from signalbox.pipeline.batches import TABLE_COLUMNS
from signalbox.queries.export_formats import FORMATS
from tests.shop import signals
from tests.shop.models import Customer, Order, Word

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MARK = "aB3dEfG7hIjK1mNoPqR5sTuV"
"""Part of every secret. Tests search all columns and outputs for it."""
TOKEN = "gh" + "p_" + MARK + "aB3dEfG7hIjK"
"""Its shape shows that it is a secret."""
NAMED = f"password={MARK}"
"""The text before it shows that it is a secret."""


def fails(sender: Any, **kwargs: Any) -> None:
    raise ValueError(f"{TOKEN} and {NAMED}")


def takes_anything(sender: Any, **kwargs: Any) -> None:
    pass


def key_of_note(values: Any) -> Any:
    return ["note", values["note"]]


def change_field() -> None:
    order = Order.objects.create(number="1", note=TOKEN)
    order.note = f"{TOKEN}, changed"
    order.save()
    Order.objects.filter(note=f"{TOKEN}, changed").update(note=f"again {TOKEN}")
    order.delete()


def change_secret_field() -> None:
    customer = Customer.objects.create(name="ada", api_token=MARK)
    customer.api_token = f"{MARK}2"
    customer.save()
    Customer.objects.update(api_token=f"{MARK}3")


def change_json() -> None:
    Order.objects.create(number="1", meta={"password": MARK, "deep": [{"note": TOKEN}]})


def name_object() -> None:
    customer = Customer.objects.create(name=TOKEN)
    Order.objects.create(number=TOKEN[:4], customer=customer)


def use_as_primary_key() -> None:
    word = Word.objects.create(text=TOKEN, meaning="a")
    word.meaning = "b"
    word.save()
    Word.objects.filter(text=TOKEN).update(meaning="c")
    word.delete()


def set_actor_label() -> None:
    with signalbox.trace("import"):
        signalbox.set_actor(TOKEN)
        Order.objects.create(number="1")


def set_actor_key() -> None:
    with signalbox.trace("import"):
        signalbox.set_actor(Actor(key=TOKEN, label=f"ada {NAMED}"))
        Order.objects.create(number="1")


def name_user() -> None:
    user = User.objects.create_user(TOKEN, password=MARK)
    with signalbox.trace("import"):
        signalbox.set_actor(user)
        Order.objects.create(number="1")


@override_settings(SIGNALBOX={"MODELS": {"auth.User": {"redact": ["username"]}}})
def hide_user_name() -> None:
    user = User.objects.create_user(f"plain{MARK}")
    with signalbox.trace("import"):
        signalbox.set_actor(user)
        Order.objects.create(number="1")


def name_trace() -> None:
    with signalbox.trace(f"{TOKEN} {NAMED}"):
        Order.objects.create(number="1")


def send_arguments() -> None:
    signals.order_paid.send(sender=None, note=f"{TOKEN} {NAMED}", password=MARK, more={"token": MARK, "a": [TOKEN]})


def send_from_text() -> None:
    signals.order_paid.send(sender=f"{TOKEN} {NAMED}")


def request_pages() -> None:
    client = Client(headers={"user-agent": TOKEN, "cookie": f"a={MARK}", "authorization": f"Bearer {MARK}"})
    client.get(f"/{TOKEN}/?token={MARK}&next=%2F%3Fpassword%3D{MARK}")
    client.post("/admin/login/", {"username": TOKEN, "password": MARK})


def fail_in_receiver() -> None:
    post_save.connect(fails, sender=Order)
    with suppress(ValueError):
        Order.objects.create(number="1")
    post_save.disconnect(fails, sender=Order)


def fail_in_database() -> None:
    with connection.cursor() as cursor:
        try:
            cursor.execute(f"SELECT {MARK} FROM missing WHERE password = '{MARK}'")
        except Exception:
            logging.getLogger("signalbox").exception("A statement failed: %s", NAMED)


def process_event(event: Any) -> dict[str, str]:
    return {"note": TOKEN, "password": MARK}


@override_settings(SIGNALBOX={"EVENT_PROCESSOR": process_event})
def add_with_processor() -> None:
    Order.objects.create(number="1")


def log_line() -> None:
    logger = logging.getLogger("signalbox")
    logger.warning("It is %s, %r.", TOKEN, {"password": MARK})
    try:
        raise ValueError(NAMED)
    except ValueError:
        logger.exception("A line with an exception.")


PLANTS: list[Callable[[], None]] = [
    change_field,
    change_secret_field,
    change_json,
    name_object,
    use_as_primary_key,
    set_actor_label,
    set_actor_key,
    name_user,
    hide_user_name,
    name_trace,
    send_arguments,
    send_from_text,
    request_pages,
    fail_in_receiver,
    fail_in_database,
    add_with_processor,
    log_line,
]


@pytest.fixture(autouse=True)
def _clean_user(empty_tables: None) -> Iterator[None]:
    Trace.objects.all().delete()
    yield
    Trace.objects.all().delete()


def read_columns() -> dict[str, str]:
    """Return the values of each column of each table, as one text."""
    found: dict[str, str] = {}
    for model in apps.get_app_config("signalbox").get_models():
        for row in QuerySet(model).values():
            for name, value in row.items():
                column = f"{model._meta.db_table}.{name}"
                found[column] = found.get(column, "") + "\n" + (value if isinstance(value, str) else json.dumps(value))
    return found


def read_outputs() -> dict[str, str]:
    found: dict[str, str] = {}
    commands = [["events"], ["events", "--json"], ["stats"], ["signals"], ["status"], ["deliveries"], ["doctor"]]
    commands += [["errors"], ["errors", "--json"], *(["export", "--format", name] for name in FORMATS)]
    commands += [["deliveries", "--json"], ["show", str(event)] if (event := _last(Event)) else ["events"]]
    commands += [["deliveries", "show", str(delivery)] if (delivery := _last(Delivery)) else ["events"]]
    for arguments in commands:
        out = StringIO()
        with suppress(SystemExit):
            call_command("signalbox", *arguments, stdout=out, stderr=out)
        found[" ".join(arguments)] = out.getvalue()
    return found


def read_pages() -> dict[str, str]:
    admin = User.objects.create_superuser("operator")
    client = Client()
    client.force_login(admin)
    paths = [reverse(f"signalbox:{name}") for name in ("timeline", "map", "deliveries", "suggestions", "histogram")]
    paths += [reverse(f"signalbox:{name}") for name in ("errors", "findings", "status", "checklist")]
    paths += [reverse(f"admin:signalbox_{name}_changelist") for name in ("event", "trace", "delivery")]
    if event := _last(Event):
        paths += [reverse("signalbox:event", args=[event]), reverse("admin:signalbox_event_change", args=[event])]
        paths.append(reverse("signalbox:trace", args=[Event.objects.get(pk=event).trace_id]))
    if delivery := _last(Delivery):
        paths += [reverse("signalbox:delivery", args=[delivery])]
    return {path: client.get(path).content.decode() for path in paths}


def _last(model: Any) -> int | None:
    found: int | None = model.objects.order_by("-id").values_list("id", flat=True).first()
    return found


def assert_nothing_shows(caplog: pytest.LogCaptureFixture) -> None:
    exporter.flush()
    log = "\n".join(
        logging.Formatter().format(record) for record in caplog.records if record.name.startswith("signalbox")
    )
    for place, text in {**read_columns(), **read_outputs(), **read_pages(), "log": log}.items():
        assert MARK not in text, place
        assert MARK not in text.replace("\\", ""), place
    for place, text in read_columns().items():  # also what the pages and commands have caused
        assert MARK not in text, place


@pytest.mark.every_database
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_no_secret_is_stored_or_shown(plant: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="signalbox"):
        plant()
        assert_nothing_shows(caplog)
    assert caplog.records or Event.objects.exists()


@pytest.mark.every_database
@pytest.mark.parametrize("key", ["pk", "note", key_of_note, None])
def test_a_delivery_stores_no_secret(
    key: Any, make_durable: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    make_durable(fails, key=key, retries=0)
    make_durable(takes_anything, signals.order_paid, None, key=key)
    make_durable(takes_anything, post_save, "shop.Word", key="meaning")
    with caplog.at_level(logging.DEBUG, logger="signalbox"):
        Order.objects.create(number="1", note=TOKEN)
        signals.order_paid.send(sender=None, note=TOKEN)
        Word.objects.create(text=TOKEN, meaning=TOKEN)
        assert 3 == Delivery.objects.count()
        for delivery in Delivery.objects.all():
            execute_by_id("default", delivery.pk)
        assert "dead" in Delivery.objects.values_list("state", flat=True)
        assert_nothing_shows(caplog)


def test_the_name_of_a_queue_must_not_be_a_secret(make_durable: Callable[..., None]) -> None:
    with pytest.raises(CannotBeDurable, match="contains a secret") as caught:
        make_durable(takes_anything, queue=TOKEN)
    assert MARK not in str(caught.value)


def test_every_column_of_every_table_is_read() -> None:
    tables = {model._meta.db_table: model for model in apps.get_app_config("signalbox").get_models()}
    for table, columns in TABLE_COLUMNS.items():
        model, written = tables[table], {name for name, _ in columns}
        assert written <= {field.attname for field in model._meta.concrete_fields}
