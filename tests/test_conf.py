from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, get_args

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from signalbox import conf
from signalbox.conf import Config

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "settings.md"

KeyPath = tuple[str, ...]


VALID: dict[KeyPath, list[Any]] = {
    ("RECORD",): ["all", "audit", ["post_save"], (), {"auth", "shop.signals.order_paid"}],
    ("IGNORE",): [[], ["shop", "shop.Order"], ("shop",)],
    ("IGNORE_PATHS",): [[], ["static", "media", "dashboard", "/health/", "*.ico", "?x", "[ab]*"], ("/health/",)],
    ("MODELS",): [
        {},
        {"shop.Order": {}},
        {"shop.Order": {"exclude": ["note"], "redact": ["total"], "record": True, "old_values": False}},
    ],
    ("REDACT",): [[], ["iban"]],
    ("BULK",): ["keys", "rows", "count", "off"],
    ("AUTOCOMMIT",): ["atomic", "after"],
    ("ON_ERROR",): ["log", "raise"],
    ("LOCK_TIMEOUT",): [0.5, 1, 10],
    ("TRUSTED_PROXIES",): [0, 1, 7],
    ("CLOUDEVENTS_SOURCE",): ["", "https://shop.example/", "urn:example:shop", "/shop"],
    ("PROCESSORS",): [[], ["shop.recording.AddTenant"], [{"PROCESSOR": "signalbox.Sample", "OPTIONS": {"rate": 0.1}}]],
    ("SEND_SPANS",): [True, False],
    ("RETENTION",): [{}, {"events": 90, "deliveries": 0, "auth": 0.5, "shop.Order": None}],
    ("DURABLE", "DISPATCHER"): ["worker", "celery", "tasks", "immediate"],
    ("DURABLE", "LEASE"): [1, 0.5],
    ("DURABLE", "REDISPATCH"): [1, 0.5],
    ("DURABLE", "UNKNOWN_AFTER"): [1, 0.5, 86_400],
    ("DURABLE", "MAX_CHAIN"): [1, 1000],
    ("DASHBOARD", "SHOW_SOURCE"): [True, False],
    ("DASHBOARD", "ADMIN_HISTORY"): [True, False],
}

INVALID: dict[KeyPath, list[Any]] = {
    ("RECORD",): ["everything", "", None, 1, [1], {"post_save": 1}],
    ("IGNORE",): ["shop", None, [None], [1], {}],
    ("IGNORE_PATHS",): ["/health/", None, [None], [1], {}, ["health/"], ["Static"], [""]],
    ("MODELS",): [None, [], "shop.Order"],
    ("REDACT",): [None, 1, [1]],
    ("BULK",): ["each", None, True, []],
    ("AUTOCOMMIT",): ["before", None, True, []],
    ("ON_ERROR",): ["Log", "", None, True, []],
    ("LOCK_TIMEOUT",): [0, -1, "1", None, True, float("nan")],
    ("TRUSTED_PROXIES",): [-1, 1.0, "1", True, None],
    ("CLOUDEVENTS_SOURCE",): ["a b", "https://münchen.example", None, 3, "<a>"],
    ("PROCESSORS",): [1, "shop.recording.AddTenant", {}, [7], [{"PATH": "shop.recording.AddTenant"}]],
    ("SEND_SPANS",): ["yes", 1, None],
    ("RETENTION",): [None, 90, "90d", ["events"]],
    ("DURABLE", "DISPATCHER"): ["rq", None, []],
    ("DURABLE", "LEASE"): [0, -1, "30", None, True, float("nan")],
    ("DURABLE", "REDISPATCH"): [0, -1, "30", None, True],
    ("DURABLE", "UNKNOWN_AFTER"): [0, -1, "1d", None, True, float("nan")],
    ("DURABLE", "MAX_CHAIN"): [0, -1, 2.5, "25", None, True],
    ("DASHBOARD", "SHOW_SOURCE"): [1, 0, None, "yes"],
    ("DASHBOARD", "ADMIN_HISTORY"): [1, None, "yes"],
}


def pairs(values: dict[KeyPath, list[Any]]) -> list[Any]:
    return [
        pytest.param(path, value, id=f"{'.'.join(path)}-{number}")
        for path in values
        for number, value in enumerate(values[path])
    ]


def nest(path: KeyPath, value: Any) -> dict[str, Any]:
    """Return a setting in which only the key at `path` is given."""
    for key in reversed(path):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def read(config: Config, path: KeyPath) -> Any:
    found: Any = config
    for key in path:
        found = getattr(found, key)
    return found


def test_every_key_has_values_in_this_file() -> None:
    assert set(conf.PATHS) == VALID.keys() == INVALID.keys()


@pytest.mark.parametrize(("path", "value"), pairs(VALID))
def test_a_valid_value_is_used(path: KeyPath, value: Any) -> None:
    assert [] == conf.get_errors(nest(path, value))
    used = read(conf.parse(nest(path, value)), path)
    assert (list(value) == list(used)) if isinstance(value, list | tuple | set) else value == used


@pytest.mark.parametrize(("path", "value"), pairs(INVALID))
def test_an_invalid_value_is_an_error_and_the_default_is_used(path: KeyPath, value: Any) -> None:
    [(found, message, hint)] = conf.get_errors(nest(path, value))

    assert path == found
    assert message.startswith(f"{conf.format_path(path)} is ")
    assert ". Expected " in message
    assert message.endswith(".")
    assert hint
    assert read(Config(), path) == read(conf.parse(nest(path, value)), path)


@pytest.mark.parametrize("path", conf.PATHS, ids=".".join)
def test_the_default_of_every_key_is_valid(path: KeyPath) -> None:
    assert [] == conf.get_errors(nest(path, read(Config(), path)))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            {"BULK": 5},
            (
                'SIGNALBOX["BULK"] is 5. Expected "keys", "rows", "count" or "off".',
                'Correct the value, or remove the key to use the default, "keys".',
            ),
        ),
        (
            {"ON_ERROR": "ignore"},
            (
                'SIGNALBOX["ON_ERROR"] is "ignore". Expected "log" or "raise".',
                'Correct the value, or remove the key to use the default, "log".',
            ),
        ),
        (
            {"DURABLE": {"LEASE": "30"}},
            (
                'SIGNALBOX["DURABLE"]["LEASE"] is "30". Expected a number of seconds above 0.',
                "Correct the value, or remove the key to use the default, 30.",
            ),
        ),
        (
            {"DURABLE": "celery"},
            (
                'SIGNALBOX["DURABLE"] is "celery". Expected a dict.',
                "Its keys are " + ", ".join(field.name for field in fields(conf.DurableConfig)) + ". Each is optional.",
            ),
        ),
        (
            {"RETENTION": {"events": "90d"}},
            (
                'SIGNALBOX["RETENTION"]["events"] is "90d". Expected a number of days from 0 to 36500, or None.',
                'Write "RETENTION": {"events": 90, "traces": 90, "deliveries": 7, "shop.Order": None}.',
            ),
        ),
        (
            {"RETENTION": {7: 7}},
            (
                'SIGNALBOX["RETENTION"][7] does not name a model, a signal, a group or a table. Expected a text.',
                'Write "RETENTION": {"events": 90, "traces": 90, "deliveries": 7, "shop.Order": None}.',
            ),
        ),
        (
            {"MODELS": {"Order": {}}},
            (
                'SIGNALBOX["MODELS"]["Order"] does not name a model. Expected app.Model.',
                'Write "MODELS": {"shop.Order": {"exclude": ["note"], "redact": ["total"], "record": True}}.',
            ),
        ),
        (
            {"MODELS": {"shop.Order": {"hide": []}}},
            (
                'SIGNALBOX["MODELS"]["shop.Order"]["hide"] is not a known key.',
                "Known keys: exclude, redact, clear, record, old_values.",
            ),
        ),
        (
            {"MODELS": {"shop.Order": {"exclude": "note"}}},
            (
                'SIGNALBOX["MODELS"]["shop.Order"]["exclude"] is "note". Expected a list of strings.',
                'Write "MODELS": {"shop.Order": {"exclude": ["note"], "redact": ["total"], "record": True}}.',
            ),
        ),
    ],
)
def test_an_error_says_what_is_wrong_what_was_expected_and_what_to_do(raw: Any, expected: tuple[str, str]) -> None:
    [(_, message, hint)] = conf.get_errors(raw)
    assert expected == (message, hint)


@pytest.mark.parametrize(
    ("raw", "wrong", "hint"),
    [
        ({"REKORD": "all"}, 'SIGNALBOX["REKORD"]', 'Did you mean "RECORD"?'),
        ({"on_error": "log"}, 'SIGNALBOX["on_error"]', 'Did you mean "ON_ERROR"?'),
        ({"DURABEL": {}}, 'SIGNALBOX["DURABEL"]', 'Did you mean "DURABLE"?'),
        ({"DURABLE": {"LEESE": 30}}, 'SIGNALBOX["DURABLE"]["LEESE"]', 'Did you mean "LEASE"?'),
        ({"DASHBOARD": {"show_source": 1}}, 'SIGNALBOX["DASHBOARD"]["show_source"]', 'Did you mean "SHOW_SOURCE"?'),
        ({"LEASE": 30}, 'SIGNALBOX["LEASE"]', 'Did you mean SIGNALBOX["DURABLE"]["LEASE"]?'),
        ({"LEESE": 30}, 'SIGNALBOX["LEESE"]', 'Did you mean SIGNALBOX["DURABLE"]["LEASE"]?'),
        ({"REDISPATCH": 30}, 'SIGNALBOX["REDISPATCH"]', 'Did you mean SIGNALBOX["DURABLE"]["REDISPATCH"]?'),
        ({"SHOW_SOURCE": 1}, 'SIGNALBOX["SHOW_SOURCE"]', 'Did you mean SIGNALBOX["DASHBOARD"]["SHOW_SOURCE"]?'),
        ({"ADMIN_HISTORY": 1}, 'SIGNALBOX["ADMIN_HISTORY"]', 'Did you mean SIGNALBOX["DASHBOARD"]["ADMIN_HISTORY"]?'),
        ({"DURABLE": {"BULK": "off"}}, 'SIGNALBOX["DURABLE"]["BULK"]', 'Did you mean SIGNALBOX["BULK"]?'),
        (
            {"DURABLE": {"SHOW_SOURCE": True}},
            'SIGNALBOX["DURABLE"]["SHOW_SOURCE"]',
            'Did you mean SIGNALBOX["DASHBOARD"]["SHOW_SOURCE"]?',
        ),
        (
            {"DURABLE": {"RETENTION_DAYS": 7}},
            'SIGNALBOX["DURABLE"]["RETENTION_DAYS"]',
            'Write SIGNALBOX["RETENTION"]["deliveries"] instead.',
        ),
        (
            {"DURABLE": {"zzz": 1}},
            'SIGNALBOX["DURABLE"]["zzz"]',
            "Known keys: DISPATCHER, LEASE, REDISPATCH, UNKNOWN_AFTER, MAX_CHAIN.",
        ),
        (
            {"MODELS": {"auth.User": {"exclud": ["email"]}}},
            'SIGNALBOX["MODELS"]["auth.User"]["exclud"]',
            'Did you mean "exclude"?',
        ),
        (
            {"MODELS": {"auth.User": {"OLD_VALUES": True}}},
            'SIGNALBOX["MODELS"]["auth.User"]["OLD_VALUES"]',
            'Did you mean "old_values"?',
        ),
        (
            {"MODELS": {"auth.User": {"zzz": 1}}},
            'SIGNALBOX["MODELS"]["auth.User"]["zzz"]',
            "Known keys: exclude, redact, clear, record, old_values.",
        ),
        ({1: 1}, "SIGNALBOX[1]", f"Known keys: {', '.join(conf.KEYS)}."),
    ],
)
def test_an_unknown_key_is_an_error_that_suggests_a_known_one(raw: Any, wrong: str, hint: str) -> None:
    [(_, message, found)] = conf.get_errors(raw)
    assert (f"{wrong} is not a known key.", hint) == (message, found)
    models: dict[str, Any] = raw.get("MODELS", {})
    assert Config(MODELS={label: {} for label in models}) == conf.parse(raw)


@pytest.mark.parametrize("raw", ["all", ["RECORD"], 1, True])
def test_a_setting_that_is_not_a_dict_is_an_error_and_the_defaults_are_used(raw: object) -> None:
    [(path, message, hint)] = conf.get_errors(raw)
    assert () == path
    assert message.startswith("SIGNALBOX is ")
    assert message.endswith(". Expected a dict.")
    assert 'Write SIGNALBOX = {"RECORD": "all"}.' == hint
    assert Config() == conf.parse(raw)


@pytest.mark.parametrize("raw", [None, {}, {"DURABLE": {}, "DASHBOARD": {}}])
def test_without_keys_every_default_is_used(raw: Any) -> None:
    assert [] == conf.get_errors(raw)
    assert Config() == conf.parse(raw)


def test_a_nested_dict_is_merged_with_the_defaults() -> None:
    config = conf.parse({"DURABLE": {"LEASE": 5}})
    assert ("worker", {}, 5, 60) == (
        config.DURABLE.DISPATCHER,
        config.RETENTION,
        config.DURABLE.LEASE,
        config.DURABLE.REDISPATCH,
    )
    assert Config().DASHBOARD == config.DASHBOARD


def test_an_invalid_value_does_not_affect_the_valid_ones() -> None:
    raw = {"ON_ERROR": "raise", "BULK": "wrong", "NOTHING": 1, "DURABLE": {"LEASE": 0, "REDISPATCH": 5, "LEESE": 1}}
    config = conf.parse(raw)
    assert ("raise", "keys") == (config.ON_ERROR, config.BULK)
    assert (30, 5) == (config.DURABLE.LEASE, config.DURABLE.REDISPATCH)
    assert [("BULK",), ("NOTHING",), ("DURABLE", "LEASE"), ("DURABLE", "LEESE")] == [
        path for path, _, _ in conf.get_errors(raw)
    ]


@pytest.mark.parametrize(
    ("key", "value", "valid", "number"),
    [
        ("REDACT", ["iban", None, "pin"], ("iban", "pin"), 1),
        ("REDACT", "iban", ("iban",), 1),
        ("MODELS", {"shop.Order": {"redact": ["total"]}, "Tag": {}}, {"shop.Order": {"redact": ("total",)}}, 1),
        ("MODELS", {"shop.Order": {"redact": ["total", 1]}}, {"shop.Order": {"redact": ("total",)}}, 1),
        ("MODELS", {"shop.Order": {"exclude": "note", "record": 1}}, {"shop.Order": {"exclude": ("note",)}}, 2),
        ("MODELS", {"shop.Order": {"hide": ["note"], "record": False}}, {"shop.Order": {"record": False}}, 1),
        (
            "MODELS",
            {"shop.Order": {"old_values": False, "record": 1}},
            {"shop.Order": {"old_values": False}},
            1,
        ),
    ],
)
def test_valid_entries_of_redact_and_models_are_used(key: str, value: Any, valid: Any, number: int) -> None:
    assert [key] * number == [path[0] for path, _, _ in conf.get_errors({key: value})]
    assert valid == getattr(conf.parse({key: value}), key)


@pytest.mark.parametrize("days", [-1, "7", True, float("nan"), float("inf"), 36_501, [7]])
def test_one_invalid_period_deletes_nothing(days: Any) -> None:
    value = {"events": 90, "auth": days}
    assert [("RETENTION", "auth")] == [error.path for error in conf.get_errors({"RETENTION": value})]
    assert {} == conf.parse({"RETENTION": value}).RETENTION


def test_an_error_does_not_show_a_value_that_may_be_a_secret() -> None:
    [(_, message, _)] = conf.get_errors({"REDACT": {"password": "s3cr3t"}})
    assert 'SIGNALBOX["REDACT"] is a dict. Expected a list of strings.' == message


ANY_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.text(), st.integers(), st.floats()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.one_of(st.text(), st.sampled_from(conf.KEYS)), inner)),
    max_leaves=8,
)


@given(st.dictionaries(st.one_of(st.text(), st.integers()), ANY_VALUE))
def test_no_setting_raises(raw: dict[Any, Any]) -> None:
    conf.get_errors(raw)
    conf.parse(raw)


@given(st.sampled_from(conf.PATHS), ANY_VALUE)
def test_every_value_that_is_used_is_valid(path: KeyPath, value: Any) -> None:
    used = read(conf.parse(nest(path, value)), path)
    assert [] == conf.get_errors(nest(path, used))


def test_the_setting_is_read_when_it_is_used() -> None:
    assert 0 == conf.get().TRUSTED_PROXIES
    with override_settings(SIGNALBOX={"TRUSTED_PROXIES": 2}):
        assert 2 == conf.get().TRUSTED_PROXIES
        with override_settings(SIGNALBOX=None):
            assert 0 == conf.get().TRUSTED_PROXIES
        assert 2 == conf.get().TRUSTED_PROXIES
    assert 0 == conf.get().TRUSTED_PROXIES


def test_the_same_setting_is_parsed_once() -> None:
    with override_settings(SIGNALBOX={"DURABLE": {"LEASE": 5}}):
        assert conf.get() is conf.get()


def test_the_setting_and_the_configuration_do_not_change() -> None:
    raw = {"RECORD": ["post_save"], "REDACT": {"iban"}, "DURABLE": {"LEASE": 5}}
    with override_settings(SIGNALBOX=raw):
        assert ("post_save",) == conf.get().RECORD
        with pytest.raises(FrozenInstanceError):
            conf.get().DURABLE.LEASE = 6  # type: ignore[misc]
    assert {"RECORD": ["post_save"], "REDACT": {"iban"}, "DURABLE": {"LEASE": 5}} == raw


# ------------------------------------------------------------------ the documentation


def read_sections() -> dict[KeyPath, str]:
    """Return the text below each heading of the document that names a key, by path."""
    sections: dict[KeyPath, str] = {}
    path: KeyPath = ()
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        level = len(line) - len(line.lstrip("#"))
        if level in (2, 3):
            name = line.lstrip("# ")
            key = name.strip("`") if name.startswith("`") else ""
            path = () if not key else (key,) if level == 2 else (path[0], key)
            assert path not in sections or not path, f"{path} is documented twice"
            sections.setdefault(path, "")
        elif path:
            sections[path] += f"{line}\n"
    return {path: text for path, text in sections.items() if path}


def test_every_key_is_documented_once_in_the_order_of_the_code() -> None:
    expected: list[KeyPath] = []
    for key in conf.KEYS:
        expected.append((key,))
        expected += [(key, found.name) for found in fields(conf.SECTIONS[key])] if key in conf.SECTIONS else []
    assert expected == list(read_sections())


@pytest.mark.parametrize("path", conf.PATHS, ids=".".join)
def test_the_documented_default_is_that_of_the_code(path: KeyPath) -> None:
    default = read(Config(), path)
    shown = list(default) if isinstance(default, tuple) else default
    assert f"Default: `{shown!r}`".replace("'", '"') in read_sections()[path]


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        (("RECORD",), conf.PRESETS),
        (("BULK",), get_args(conf.BulkMode)),
        (("AUTOCOMMIT",), get_args(conf.AutocommitMode)),
        (("ON_ERROR",), get_args(conf.ErrorPolicy)),
        (("DURABLE", "DISPATCHER"), get_args(conf.Dispatcher)),
    ],
)
def test_the_documented_choices_are_those_of_the_code(path: KeyPath, choices: tuple[str, ...]) -> None:
    text = read_sections()[path]
    documented = [line.split('"')[1] for line in text.splitlines() if line.startswith('- `"')]
    assert list(choices) == documented


def test_the_values_of_the_environment_variable_are_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for values, effect in ((conf.DISABLED_VALUES, "recording is off"), (conf.ENABLED_VALUES, "recording is on, ")):
        listed = ", ".join(f"`{value}`" if value else "empty" for value in values)
        assert f"\n| {listed} | {effect}" in text


# ------------------------------------------------------------------ the environment


@pytest.mark.parametrize(
    ("value", "disabled", "known"),
    [
        *((value, True, True) for value in ("1", "true", "yes", "TRUE", "Yes", " 1 ")),
        *((value, False, True) for value in ("", "0", "false", "no", "No", " ")),
        *((value, False, False) for value in ("2", "on", "off", "disabled", "nope")),
    ],
)
def test_the_environment_variable_disables_recording_by_known_values_only(
    value: str, disabled: bool, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_DISABLED", value)
    assert disabled == conf.is_disabled()
    error = conf.get_environment_error()
    assert known == (error is None)
    assert known or f'SIGNALBOX_DISABLED is "{value}"' in str(error)


def test_without_the_environment_variable_recording_is_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGNALBOX_DISABLED", raising=False)
    assert not conf.is_disabled()
    assert conf.get_environment_error() is None
