from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from signalbox import conf
from signalbox.conf import Config

DOCUMENT = Path(__file__).parent.parent / "docs" / "settings.md"


def keep(event: Mapping[str, Any]) -> bool:
    return True


RIGHT: dict[str, list[Any]] = {
    "RECORD": ["all", "audit", ["post_save"], (), {"auth", "shop.signals.order_paid"}],
    "IGNORE": [[], ["shop", "shop.Order"], ("shop",)],
    "ON_ERROR": ["log", "raise"],
    "BULK": ["keys", "rows", "off"],
    "TRUSTED_PROXIES": [0, 1, 7],
    "ENGINE": ["worker", "celery", "tasks", "immediate"],
    "KEEP_DELIVERIES": [0, 7, 0.5],
    "LEASE": [1, 0.5],
    "REDISPATCH": [1, 0.5],
    "SHOW_SOURCE": [True, False],
    "ADMIN_HISTORY": [True, False],
    "REDACT": [[], ["iban"]],
    "MODELS": [
        {},
        {"shop.Order": {}},
        {"shop.Order": {"exclude": ["note"], "redact": ["total"], "record": True}},
    ],
    "KEEP": [None, "tests.test_conf.keep", keep],
}

WRONG: dict[str, list[Any]] = {
    "RECORD": ["everything", "", None, 1, [1], {"post_save": 1}],
    "IGNORE": ["shop", None, [None], [1], {}],
    "ON_ERROR": ["Log", "", None, True, []],
    "BULK": ["each", None, True, []],
    "TRUSTED_PROXIES": [-1, 1.0, "1", True, None],
    "ENGINE": ["rq", None, []],
    "KEEP_DELIVERIES": [-1, "7", None, True, float("nan")],
    "LEASE": [0, -1, "30", None, True, float("nan")],
    "REDISPATCH": [0, -1, "30", None, True],
    "SHOW_SOURCE": [1, 0, None, "yes"],
    "ADMIN_HISTORY": [1, None, "yes"],
    "REDACT": [None, 1, [1]],
    "MODELS": [
        None,
        [],
        {"Order": {}},
        {"shop.Order": None},
        {1: {}},
    ],
    "KEEP": [1, [], {}],
}


def pairs(values: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(key, value, id=f"{key}-{n}") for key in values for n, value in enumerate(values[key])]


def test_each_key_has_values_to_be_tried_here() -> None:
    assert set(conf.KEYS) == RIGHT.keys() == WRONG.keys()


@pytest.mark.parametrize(("key", "value"), pairs(RIGHT))
def test_a_right_value_is_taken(key: str, value: Any) -> None:
    assert [] == conf.get_errors({key: value})
    taken = getattr(conf.parse({key: value}), key)
    assert (set(value) == set(taken)) if isinstance(value, (list, tuple, set)) else value == taken


@pytest.mark.parametrize(("key", "value"), pairs(WRONG))
def test_a_wrong_value_is_told_and_the_default_stands(key: str, value: Any) -> None:
    [(about, problem, remedy)] = conf.get_errors({key: value})

    assert key == about
    assert f"SIGNALBOX[{key!r}] is " in problem
    assert "was expected." in problem
    assert remedy
    assert getattr(Config(), key) == getattr(conf.parse({key: value}), key)


@pytest.mark.parametrize("key", conf.KEYS)
def test_the_default_of_each_key_is_a_right_value(key: str) -> None:
    assert [] == conf.get_errors({key: getattr(Config(), key)})


def test_a_key_that_is_nearly_right_is_suggested() -> None:
    assert [("REKORD", "SIGNALBOX has no key 'REKORD'.", "Did you mean 'RECORD'?")] == conf.get_errors(
        {"REKORD": "all"}
    )
    assert "Did you mean 'ON_ERROR'?" == conf.get_errors({"on_error": "log"})[0][2]


def test_a_key_that_is_like_none_is_answered_with_those_that_there_are() -> None:
    [(_, _, remedy)] = conf.get_errors({"zzz": 1})
    assert [] == [key for key in conf.KEYS if key not in remedy]


@pytest.mark.parametrize("raw", ["all", ["RECORD"], 1, True])
def test_a_setting_that_is_no_dict_is_told_and_the_defaults_stand(raw: object) -> None:
    [(key, problem, remedy)] = conf.get_errors(raw)
    assert ("", True, True) == (key, "a dict was expected" in problem, "SIGNALBOX = {" in remedy)
    assert Config() == conf.parse(raw)


def test_no_setting_is_all_defaults() -> None:
    assert [] == conf.get_errors(None) == conf.get_errors({})
    assert Config() == conf.parse(None) == conf.parse({})


def test_what_is_wrong_does_not_take_what_is_right_with_it() -> None:
    read = conf.parse({"ON_ERROR": "raise", "BULK": "wrong", "NOTHING": 1})
    assert ("raise", "keys") == (read.ON_ERROR, read.BULK)


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("REDACT", ["iban", None, "pin"], ("iban", "pin")),
        ("REDACT", "iban", ("iban",)),
        ("MODELS", {"shop.Order": {"redact": ["total"]}, "Tag": {}}, {"shop.Order": {"redact": ("total",)}}),
        ("MODELS", {"shop.Order": {"redact": ["total", 1]}}, {"shop.Order": {"redact": ("total",)}}),
        ("MODELS", {"shop.Order": {"exclude": "note", "record": 1}}, {"shop.Order": {"exclude": ("note",)}}),
        ("MODELS", {"shop.Order": {"hide": ["note"], "record": False}}, {"shop.Order": {"record": False}}),
    ],
)
def test_what_is_right_of_what_is_to_be_kept_secret_stays(key: str, value: Any, right: Any) -> None:
    assert [key] == [about for about, _, _ in conf.get_errors({key: value})]
    assert right == getattr(conf.parse({key: value}), key)


def test_a_problem_does_not_show_what_may_be_a_secret() -> None:
    [(_, problem, _)] = conf.get_errors({"REDACT": {"password": "s3cr3t"}})
    assert ("s3cr3t" in problem, "a dict" in problem) == (False, True)


@given(st.dictionaries(st.text(), st.one_of(st.none(), st.text(), st.integers(), st.lists(st.integers()))))
def test_no_setting_raises(raw: dict[str, Any]) -> None:
    conf.get_errors(raw)
    conf.parse(raw)


@given(st.dictionaries(st.sampled_from(conf.KEYS), st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text()))))
def test_no_value_raises_and_what_is_read_is_right(raw: dict[str, Any]) -> None:
    read = conf.parse(raw)
    assert [] == conf.get_errors({key: getattr(read, key) for key in conf.KEYS})


def test_the_setting_is_read_when_it_is_used() -> None:
    assert 0 == conf.get().TRUSTED_PROXIES
    with override_settings(SIGNALBOX={"TRUSTED_PROXIES": 2}):
        assert 2 == conf.get().TRUSTED_PROXIES
        with override_settings(SIGNALBOX=None):
            assert 0 == conf.get().TRUSTED_PROXIES
        assert 2 == conf.get().TRUSTED_PROXIES
    assert 0 == conf.get().TRUSTED_PROXIES


def test_the_setting_is_never_written_to() -> None:
    raw = {"RECORD": ["post_save"], "REDACT": {"iban"}}
    with override_settings(SIGNALBOX=raw):
        assert ("post_save",) == conf.get().RECORD
    assert {"RECORD": ["post_save"], "REDACT": {"iban"}} == raw


def test_every_key_is_documented_with_its_default() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for found in fields(Config):
        assert f"## `{found.name}`" in text, found.name
        section = text.split(f"## `{found.name}`")[1].split("\n## ")[0]
        default = getattr(Config(), found.name)
        shown = list(default) if isinstance(default, tuple) else default
        assert f"Default: `{shown!r}`".replace("'", '"') in section, found.name


def test_no_key_is_documented_that_does_not_exist() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert list(conf.KEYS) == [line.split("`")[1] for line in text.splitlines() if line.startswith("## `")]


def test_every_choice_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for key in ("RECORD", "ON_ERROR", "BULK", "ENGINE"):
        section = text.split(f"## `{key}`")[1].split("\n## ")[0]
        assert [] == [value for value in RIGHT[key] if isinstance(value, str) and f'`"{value}"`' not in section]
