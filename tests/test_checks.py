from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.core.checks import CheckMessage, run_checks
from django.dispatch import Signal
from django.test import override_settings

import signalbox
import tests.shop.signals  # noqa: F401 - W004 reports a name only if its module is imported
from signalbox import checks

OURS = "signalbox.middleware.TraceMiddleware"


def found(check: Any) -> list[tuple[str | None, str, str | None]]:
    messages: list[CheckMessage] = check()
    return [(message.id, message.msg, message.hint) for message in messages]


def ids() -> list[str]:
    """Return the ids of the checks of the setting and the installation that ``manage.py check`` reports."""
    own = {"signalbox.E001", *(f"signalbox.W00{number}" for number in range(1, 7))}
    return sorted(str(message.id) for message in run_checks(tags=[checks.TAG], databases=[]) if message.id in own)


def test_a_site_that_is_set_up_as_documented_has_no_messages() -> None:
    assert [] == ids()


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        ({"RECORD": "some", "BULK": 1}, 2),
        ({"ON_ERROR": "log"}, 0),
        *(
            pytest.param(raw, number, marks=pytest.mark.slow)  # each examines all receivers
            for raw, number in (({"REKORD": "all"}, 1), ("all", 1), (None, 0))
        ),
    ],
)
def test_every_wrong_key_and_value_is_an_error(raw: object, number: int) -> None:
    with override_settings(SIGNALBOX=raw):
        assert ["signalbox.E001"] * number == ids()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, ["signalbox.W014", "signalbox.W015"]),
        ({"RECORD": "all", "RETENTION": {"events": 30}}, ["signalbox.W014"]),
        ({"RECORD": "audit"}, ["signalbox.W015"]),
        ({"RECORD": ["model"], "RETENTION": {"events": 30}}, []),
    ],
)
def test_a_deployment_is_advised_to_record_less_and_to_set_a_retention(setting: object, expected: list[str]) -> None:
    advice = {"signalbox.W014", "signalbox.W015"}
    with override_settings(SIGNALBOX=setting):
        messages = run_checks(tags=[checks.TAG], include_deployment_checks=True, databases=[])
        others = run_checks(tags=[checks.TAG], databases=[])

    assert expected == [message.id for message in messages if message.id in advice]
    assert not advice & {message.id for message in others}


def test_an_error_names_value_expectation_and_remedy() -> None:
    with override_settings(SIGNALBOX={"ON_ERROR": "ignore"}):
        [message] = checks.check_setting()

    assert 'SIGNALBOX["ON_ERROR"] is "ignore". Expected "log" or "raise".' == message.msg
    assert 'Correct the value, or remove the key to use the default, "log".' == message.hint
    assert 'SIGNALBOX["ON_ERROR"]' == message.obj


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("post_sve", "Did you mean 'post_save'?"),
        ("request_start", "Did you mean 'request_started'?"),
        ("tests.shop.signals.order_payed", "Did you mean 'tests.shop.signals.order_paid'?"),
        ("zzz", "Name one of Django's signals, a group of them, or a signal of your own by its dotted name."),
    ],
)
def test_a_signal_that_does_not_exist_is_a_warning(name: str, hint: str) -> None:
    with override_settings(SIGNALBOX={"RECORD": ["post_save", name]}):
        assert [("signalbox.W004", f'SIGNALBOX["RECORD"] names {name!r}, which is not a known signal.', hint)] == found(
            checks.check_names
        )


def test_signals_groups_and_names_of_ones_own_are_known() -> None:
    signal = Signal()
    signalbox.register_signal(signal, "departed")
    names = ["post_save", "auth", "custom", "bulk", "bulk_create", "departed", "shop.signals.imported_later"]
    names.append("tests.shop.signals.order_paid")
    with override_settings(SIGNALBOX={"RECORD": names}):
        assert [] == found(checks.check_names)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"IGNORE": ["shopp"]}, "IGNORE"),
        ({"IGNORE": ["shop.Ordr"]}, "IGNORE"),
        ({"MODELS": {"shop.Ordr": {}}}, "MODELS"),
    ],
)
def test_an_app_or_a_model_that_does_not_exist_is_a_warning(setting: dict[str, Any], key: str) -> None:
    with override_settings(SIGNALBOX=setting):
        [(id_, message, hint)] = found(checks.check_names)

    assert "signalbox.W005" == id_
    assert message.startswith(f'SIGNALBOX["{key}"] names \'shop')
    assert "Name an app by its label, a model as app.Model." == hint


def test_apps_and_models_are_known_in_any_case_and_the_defaults_always() -> None:
    setting = {"IGNORE": ["shop", "shop.Order", "shop.order", "shop.Order_tags", "migrations", "admin.LogEntry"]}
    with override_settings(SIGNALBOX=setting):
        assert [] == found(checks.check_names)


def test_a_field_that_is_not_there_or_never_recorded_is_a_warning() -> None:
    options = {"exclude": ["nots", "lines"], "redact": ["number", "tags", "customer"]}
    with override_settings(SIGNALBOX={"MODELS": {"shop.order": options, "shop.Tag": {"redact": ["orders"]}}}):
        assert [
            (
                "signalbox.W005",
                f'SIGNALBOX["MODELS"] names {field!r}, which is not a recordable field of {label}.',
                hint,
            )
            for field, label, hint in (
                ("nots", "shop.order", "Did you mean 'note'?"),
                (
                    "lines",
                    "shop.order",
                    "It has customer, id, meta, note, number, placed, status, tags, total, updated.",
                ),
                ("orders", "shop.Tag", "It has id, name."),
            )
        ] == found(checks.check_names)


def test_an_event_processor_that_cannot_be_used_is_an_error() -> None:
    entries = ["os.sep", "signalbox.EventProcessor", {"PROCESSOR": "signalbox.Sample", "OPTIONS": {"rate": 7}}]
    with override_settings(SIGNALBOX={"PROCESSORS": entries}):
        (id_, first, _), (_, second, _) = found(checks.check_processors)
    assert "signalbox.E002" == id_
    assert (
        'SIGNALBOX["PROCESSORS"]: os.sep is not a subclass of signalbox.EventProcessor. '
        "Events are recorded without it." == first
    )
    assert second.startswith('SIGNALBOX["PROCESSORS"]: signalbox.Sample can\'t be used: ValueError: rate is 7.')


def test_standing_behind_other_apps_is_a_warning_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = apps.app_configs
    moved = {label: configs[label] for label in [*[label for label in configs if label != "signalbox"], "signalbox"]}
    monkeypatch.setattr(apps, "app_configs", moved)

    [(id_, message, hint)] = found(checks.check_installation_order)
    assert ("signalbox.W001", 'Put "signalbox" first in INSTALLED_APPS.') == (id_, hint)
    assert "django.contrib.admin" in message
    assert "tests.shop" in message


@pytest.mark.parametrize(
    ("middleware", "expected"),
    [
        ([], ["signalbox.W002"]),
        (["django.middleware.common.CommonMiddleware"], ["signalbox.W002"]),
        (["django.middleware.common.CommonMiddleware", OURS], ["signalbox.W003"]),
        ([OURS, "django.middleware.common.CommonMiddleware"], []),
        ((OURS,), []),
    ],
)
def test_the_middleware_must_be_the_first(middleware: list[str], expected: list[str]) -> None:
    with override_settings(MIDDLEWARE=middleware):
        messages = found(checks.check_installation_order)

    assert expected == [id_ for id_, _, _ in messages]
    assert [f'Put "{OURS}" first in MIDDLEWARE.'] * len(expected) == [hint for _, _, hint in messages]


@pytest.mark.slow
def test_the_checks_of_another_app_have_no_messages_of_signalbox() -> None:
    with override_settings(SIGNALBOX={"RECORDD": "all"}):
        of_another_app = run_checks(app_configs=[apps.get_app_config("shop")], tags=[checks.TAG], databases=[])
        of_all = run_checks(tags=[checks.TAG], databases=[])
    assert "signalbox.E001" not in [message.id for message in of_another_app]
    assert "signalbox.E001" in [message.id for message in of_all]
