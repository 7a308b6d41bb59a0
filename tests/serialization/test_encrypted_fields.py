"""Fields that a package encrypts are recognized, and are secret unless a project says otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models
from django.test import override_settings

from signalbox import conf
from signalbox.instrumentation import model_metadata
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.encrypted_fields import is_encrypted_field
from tests.shop.models import Customer


def make_field(module: str, name: str, base: Any = models.TextField) -> Any:
    field_class: Any = type(name, (base,), {"__module__": module})
    return field_class()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("encrypted_model_fields.fields", "EncryptedTextField"),
        ("fernet_fields.fields", "EncryptedCharField"),
        ("django_cryptography.fields", "EncryptedMixin"),
        ("encrypted_fields.fields", "SearchField"),
        ("encrypted_fields.fields", "EncryptedJSONField"),
        ("mirage.fields", "EncryptedCharField"),
        ("secured_fields.fields", "EncryptedDateField"),
        ("django_crypto_fields.fields", "FirstnameField"),
        ("cryptographic_fields.fields", "EncryptedField"),
        ("pgcrypto.fields", "CharPGPSymmetricKeyField"),
        ("clinic.fields", "FernetField"),
    ],
)
def test_an_encrypted_field_is_known_by_its_class_or_module(module: str, name: str) -> None:
    assert is_encrypted_field(make_field(module, name))
    subclass = type("Diagnosis", (type(make_field(module, name)),), {"__module__": "clinic.fields"})
    assert is_encrypted_field(subclass())


@pytest.mark.parametrize(
    ("module", "name"),
    [("clinic.fields", "UnencryptedField"), ("crypto_market.fields", "AmountField"), ("shop.fields", "MoneyField")],
)
def test_another_field_is_not_taken_for_an_encrypted_one(module: str, name: str) -> None:
    assert not is_encrypted_field(make_field(module, name))
    assert not is_encrypted_field(models.CharField())


@pytest.fixture
def _encrypted_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the class of the field by one whose name shows encryption."""
    field = Customer._meta.get_field("name")
    encrypted = type("EncryptedCharField", (type(field),), {"__module__": "encrypted_model_fields.fields"})
    monkeypatch.setattr(field, "__class__", encrypted)


@pytest.mark.usefixtures("_encrypted_name")
@pytest.mark.parametrize(
    ("options", "is_secret"),
    [
        ({}, True),
        ({"clear": ["name"]}, False),
        ({"clear": ["email"]}, True),
        ({"clear": ["name"], "redact": ["name"]}, True),
    ],
)
def test_an_encrypted_field_is_secret_unless_it_is_clear(options: dict[str, list[str]], is_secret: bool) -> None:
    with override_settings(SIGNALBOX={"MODELS": {"shop.Customer": options}}):
        model_metadata.clear_cache()
        field = Customer._meta.get_field("name")
        assert is_secret == encoder.is_secret_field(field, Customer, get_redactor())
        assert is_secret == ("name" in model_metadata.get_metadata(Customer).fields.secret)
    model_metadata.clear_cache()


def test_clear_does_not_uncover_a_field_that_is_secret_by_its_name() -> None:
    with override_settings(SIGNALBOX={"MODELS": {"shop.Customer": {"clear": ["api_token"]}}}):
        assert encoder.is_secret_field(Customer._meta.get_field("api_token"), Customer, get_redactor())


def test_clear_is_a_list_of_fields() -> None:
    assert [] == conf.get_errors({"MODELS": {"shop.Order": {"clear": ["note"]}}})
    [error] = conf.get_errors({"MODELS": {"shop.Order": {"clear": True}}})
    assert "a list of strings" in error.message


@pytest.mark.django_db
@pytest.mark.usefixtures("_encrypted_name")
def test_an_encrypted_value_is_not_recorded() -> None:
    from signalbox.models import Event

    model_metadata.clear_cache()
    customer = Customer.objects.create(name="lupus")
    customer.name = "measles"
    customer.save()
    Customer.objects.filter(pk=customer.pk).update(name="rubella")
    recorded = str(list(Event.objects.filter(sender="shop.Customer").values()))
    assert "[redacted]" in recorded
    assert not [word for word in ("lupus", "measles", "rubella") if word in recorded]
    model_metadata.clear_cache()
