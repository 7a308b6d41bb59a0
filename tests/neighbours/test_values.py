"""History restores the values of well-known packages' fields, equal in SQL.

It runs on the database that SIGNALBOX_TEST_DB names. A test of a package that is not installed is skipped, or fails
where SIGNALBOX_REQUIRE_NEIGHBOURS is set.
"""

from __future__ import annotations

import os
import zoneinfo
from typing import Any

import pytest
from django.db import connection, models

from tests.restoring import check_restored, table

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]


def needed(module: str) -> Any:
    """Return the module, or skip the test."""
    if os.environ.get("SIGNALBOX_REQUIRE_NEIGHBOURS"):
        return __import__(module, fromlist=["*"])
    return pytest.importorskip(module, reason=f"{module} is not installed: run `make neighbours`")


@pytest.mark.parametrize("db_format", ["E164", "INTERNATIONAL", "RFC3966"])
@pytest.mark.parametrize("shown", ["E164", "NATIONAL"])
def test_phone_numbers_are_restored(db_format: str, shown: str, settings: Any) -> None:
    fields = needed("phonenumber_field.modelfields")
    number = needed("phonenumber_field.phonenumber").PhoneNumber.from_string
    settings.PHONENUMBER_DB_FORMAT, settings.PHONENUMBER_DEFAULT_FORMAT = db_format, shown
    german, american = number("+493012345678"), number("+12125552368")
    extended = number("+12125552368 ext. 5")
    with table(fields.PhoneNumberField(), fields.PhoneNumberField(null=True, region="DE")) as model:
        for first, second in ((german, american), (american, extended), (extended, german), ("+4930123456", "")):
            check_restored(model, {"value": first, "value2": None}, {"value": second, "value2": first})


def test_countries_are_restored() -> None:
    fields = needed("django_countries.fields")
    with table(fields.CountryField(), fields.CountryField(multiple=True), fields.CountryField(null=True)) as model:
        check_restored(
            model,
            {"value": "DE", "value2": ["DE"], "value3": None},
            {"value": fields.Country("FR"), "value2": ["FR", "IT"], "value3": "IT"},
        )
        check_restored(model, {"value": "DE", "value2": []}, {"value2": [fields.Country("DE"), "FR"]})
        check_restored(model, {"value": "DE", "value2": "FR,IT"}, {"value2": ""})


def test_money_is_restored() -> None:
    fields, money = needed("djmoney.models.fields"), needed("djmoney.money").Money
    some = {"max_digits": 14, "decimal_places": 2, "default_currency": "EUR"}
    with table(fields.MoneyField(**some), fields.MoneyField(**some, null=True)) as model:
        check_restored(
            model,
            {"value": money("12.50", "USD"), "value2": None},
            {"value": money(3, "EUR"), "value2": money(1, "CHF")},
        )
        check_restored(model, {"value": 7, "value2": money(1, "JPY")}, {"value": "8.25", "value2": None})


def test_fields_of_model_utils_are_restored() -> None:
    fields = needed("model_utils.fields")
    choices = needed("model_utils").Choices("draft", "published")

    class Kept(models.Model):
        status = fields.StatusField(choices_name="STATES")
        changed = fields.MonitorField(monitor="status")
        body = fields.SplitField()
        slug = fields.UrlsafeTokenField()
        key = fields.UUIDField(primary_key=False)
        created = fields.AutoCreatedField()
        modified = fields.AutoLastModifiedField()
        STATES = choices

        class Meta:
            app_label = "shop"

    with table(model=Kept) as model:
        check_restored(
            model,
            {"status": "draft", "body": "One\n<!-- split -->\ntwo"},
            {"status": "published", "body": "Three\n\nfour"},
        )


def test_time_zones_are_restored() -> None:
    fields = needed("timezone_field")
    berlin, utc = zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("UTC")
    with table(fields.TimeZoneField(), fields.TimeZoneField(null=True)) as model:
        check_restored(model, {"value": berlin, "value2": None}, {"value": "America/New_York", "value2": utc})
        check_restored(model, {"value": "UTC", "value2": berlin}, {"value": utc, "value2": None})


@pytest.mark.skipif(connection.vendor != "postgresql", reason="django-netfields is for PostgreSQL")
def test_networks_are_restored() -> None:
    fields = needed("netfields")
    with table(fields.InetAddressField(), fields.CidrAddressField(), fields.MACAddressField(null=True)) as model:
        check_restored(
            model,
            {"value": "10.0.0.1/8", "value2": "10.0.0.0/8", "value3": None},
            {"value": "fe80::1", "value2": "fe80::/10", "value3": "00:1b:63:84:45:e6"},
        )
        check_restored(
            model,
            {"value": "10.0.0.1", "value2": "10.0.0.0/8", "value3": "00:1b:63:84:45:e6"},
            {"value": "10.0.0.1/32", "value3": None},
        )


def test_pickled_objects_are_restored_or_refused() -> None:
    fields = needed("picklefield.fields")
    with table(fields.PickledObjectField(null=True)) as model:
        check_restored(model, {"value": {"a": [1, 2]}}, {"value": "text"})


def test_keys_that_are_hidden_as_texts_are_restored() -> None:
    fields = needed("hashid_field")
    with table(fields.HashidField(salt="s"), fields.HashidField(salt="s", null=True)) as model:
        check_restored(model, {"value": 5, "value2": None}, {"value": 6, "value2": 7})
