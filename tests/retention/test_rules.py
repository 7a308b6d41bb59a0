from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from signalbox.checks import check_setting
from signalbox.core import naming
from signalbox.retention import rules
from signalbox.retention.rules import RetentionRules
from tests.shop import signals  # noqa: F401 - imported: it has names


def applied(raw: dict[str, float | None], signal: str, sender: str) -> str | None:
    found = RetentionRules(raw).find(signal, sender)
    return None if found is None else found.name


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, None),
        ({"traces": 1, "deliveries": 1, "dead_deliveries": 1}, None),
        ({"events": 1}, "events"),
        ({"events": None, "model": 1}, "model"),
        ({"events": None, "model": None, "post_save": 1}, "post_save"),
        ({"events": None, "model": None, "post_save": None, "shop.Order": 1}, "shop.Order"),
        ({"auth": 1, "post_delete": 1, "shop.Tag": 1}, None),
        ({"shop.order": 1}, "shop.order"),
    ],
)
def test_the_most_specific_rule_applies(raw: dict[str, float | None], expected: str | None) -> None:
    assert expected == applied(raw, "post_save", "shop.Order")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"shop.Order": 1, "shop.order": 2}, "shop.order"),
        ({"shop.Order": None, "shop.order": 2}, "shop.Order"),
        ({"shop.Order": 30, "shop.ExpressOrder": 1}, "shop.Order"),
        ({"shop.Order": 1, "shop.ExpressOrder": 30}, "shop.ExpressOrder"),
    ],
)
def test_of_equally_specific_rules_the_longer_period_applies(raw: dict[str, float | None], expected: str) -> None:
    assert expected == applied(raw, "post_save", "shop.ExpressOrder")


@pytest.mark.parametrize("sender", ["shop.Order", "shop.ExpressOrder", "shop.Order_tags"])
def test_a_model_has_its_proxies_and_the_tables_of_its_relations(sender: str) -> None:
    assert "shop.Order" == applied({"shop.Order": 1}, "m2m_changed", sender)


@pytest.mark.parametrize("sender", ["shop.OrderLine", "shop.Tag", "shop.Restaurant", "", "django.core.handlers"])
def test_a_model_does_not_have_other_models(sender: str) -> None:
    assert applied({"shop.Order": 1, "shop.Place": 1}, "post_save", sender) is None


def test_a_proxy_does_not_have_the_model_that_it_extends() -> None:
    assert applied({"shop.ExpressOrder": 1}, "post_save", "shop.Order") is None


def test_bulk_operations_and_custom_signals_have_groups() -> None:
    assert "bulk" == applied({"bulk": 1}, "bulk_create", "shop.Order")
    assert "custom" == applied({"custom": 1}, "tests.shop.signals.order_paid", "")
    assert "tests.shop.signals.order_paid" == applied(
        {"custom": 1, "tests.shop.signals.order_paid": 2}, "tests.shop.signals.order_paid", ""
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("event", 'Did you mean "events"?'),
        ("dead_delivery", 'Did you mean "dead_deliveries"?'),
        ("post_saved", 'Did you mean "post_save"?'),
        ("shop.Ordr", 'Did you mean "shop.Order"?'),
        ("sjop.Order", 'Did you mean "shop.Order"?'),
        ("tests.shop.signals.order_payd", 'Did you mean "tests.shop.signals.order_paid"?'),
        ("shop", "'shop' is an app. Name each of its models, such as \"shop.Model\"."),
    ],
)
def test_an_unknown_name_is_an_error_that_suggests_a_known_one(name: str, hint: str) -> None:
    with override_settings(SIGNALBOX={"RETENTION": {name: 1}}):
        [message] = check_setting()
        assert "signalbox.E001" == message.id
        assert f'SIGNALBOX["RETENTION"]["{name}"] is not known. Expected' in message.msg
        assert hint == message.hint
        with pytest.raises(ImproperlyConfigured, match="Nothing was deleted"):
            rules.load()


@pytest.mark.parametrize(
    "value", [{"events": -1}, {"events": True}, {"events": float("nan")}, {"events": "90"}, [], {1: 1}, {"zzz": None}]
)
def test_no_rules_are_loaded_from_a_setting_with_an_error(value: Any) -> None:
    with override_settings(SIGNALBOX={"RETENTION": value}), pytest.raises(ImproperlyConfigured, match="RETENTION"):
        rules.load()


def test_errors_of_other_keys_do_not_matter() -> None:
    with override_settings(SIGNALBOX={"BULK": "wrong", "RETENTION": {"events": 1}}):
        assert ["events"] == [rule.name for rule in rules.load().event_rules]


def test_every_known_name_is_accepted() -> None:
    names = [*rules.TABLES, *rules.GROUPS, *naming.get_known_signals(), "shop.Order", "auth.User", "shop.Order_tags"]
    assert [] == rules.find_unknown_names(dict.fromkeys(names, 1))
