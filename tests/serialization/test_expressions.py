"""Expressions are formatted by classes, fields and harmless literals, without secrets and without a query."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import (
    Case,
    Exists,
    ExpressionWrapper,
    F,
    Func,
    IntegerField,
    OuterRef,
    Q,
    Subquery,
    Value,
    When,
)
from django.db.models.expressions import RawSQL
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Coalesce, Concat, JSONObject, Lower, Now, Replace
from django.db.models.lookups import Exact
from django.test import override_settings

from signalbox.instrumentation import model_metadata
from signalbox.serialization import expressions
from signalbox.serialization.redaction import REDACTED, Redactor
from tests.events import get_args, get_object_event
from tests.shop.models import Customer, Order

REDACTOR = Redactor()
HASH = "pbkdf2_sha256$600000$YWJjZGVmZ2g$c29tZWhhc2g="


def told(expression: Any, hidden: tuple[str, ...] = ()) -> str:
    return expressions.format_expression(expression, REDACTOR, hidden)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (F("total") * 2, "F(total) * Value(2)"),
        (F("total") + F("customer__orders"), "F(total) + F(customer__orders)"),
        (Value("paid"), "Value('paid')"),
        (Value(None), "Value(null)"),
        (F("placed") + timedelta(days=1), "F(placed) + Value('P1DT00H00M00S')"),
        (Lower("name"), "Lower(F(name))"),
        (Now(), "Now()"),
        (Coalesce("note", Value("-")), "Coalesce(F(note), Value('-'))"),
        (Cast("total", IntegerField()), "Cast(F(total))"),
        (
            Case(When(number="A-1", then=Value("b")), default=Value("c")),
            "Case(When(number='A-1', Value('b')), Value('c'))",
        ),
        (When(~Q(a=1) | Q(b__in=[1, 2]), then=F("x")), "When((NOT (a=1) OR b__in=[1,2]), F(x))"),
        (Exact(F("name"), "a"), "Exact(F(name), Value('a'))"),
        (ExpressionWrapper(Q(a__gt=1), IntegerField()), "ExpressionWrapper(a__gt=1)"),
        (OuterRef("pk"), "OuterRef(pk)"),
        (RawSQL("lower(name) || 'hunter2' || %s", ["hunter3"]), "RawSQL(lower(name) || … || %s)"),
    ],
    ids=str,
)
def test_an_expression_is_formatted_by_its_parts(expression: Any, text: str) -> None:
    assert text == told(expression)


@pytest.mark.parametrize(
    "expression",
    [
        Case(When(token="SECRET", then=Value("x"))),
        Case(When(Q(token__in=["SECRET"]) & Q(name="a"), then=Value("x"))),
        Case(When(customer__api_token__contains="SECRET", then=Value("x"))),
        When(~Q(Q(session_key="SECRET")), then=Value("x")),
        When(Exact(F("api_token"), "SECRET"), then=Value("x")),
        When(Exact(Lower("api_token"), Value("SECRET")), then=Value("x")),
        Concat(F("password"), Value("SECRET")),
        Coalesce(F("data__api_key"), Value("SECRET")),
        Coalesce(KT("data__api_key"), Value("SECRET")),
        When(iban="SECRET", then=Value("x")),
        Concat(F("iban"), Value("SECRET")),
        Value({"password": "SECRET"}),
        Value("password=SECRET"),
        Concat(Value("token: SECRET"), Value("x")),
        RawSQL("crypt('SECRET', %s)", ["SECRET"]),
        Func(Value("Authorization: Bearer SECRETSECRET"), function="f"),
        JSONObject(password=Value("SECRET")),
        JSONObject(a=JSONObject(password=Value("SECRET")), b=Value("x")),
        JSONObject(a=Lower(Value("SECRET")), password=Value("x")),
        Concat(Value("password="), Value("SECRET")),
        Concat(Value("password"), Value("="), Value("x"), Lower(Value("SECRET"))),
    ],
    ids=str,
)
def test_a_secret_in_an_expression_is_redacted(expression: Any) -> None:
    assert "SECRET" not in told(expression, hidden=("iban",))


def test_a_credential_in_an_expression_is_redacted_by_its_shape() -> None:
    assert f"Concat(ConcatPair(Value('{REDACTED}'), Value('x')))" == told(Concat(Value(HASH), Value("x")))


def test_a_value_that_a_secret_condition_selects_is_recorded() -> None:
    expression = Case(When(token="SECRET", then=Value("paid")), default=Value("open"))
    assert f"Case(When(token={REDACTED}, Value('paid')), Value('open'))" == told(expression)


class Odd(Func):
    """An expression whose own code must not run."""

    def __repr__(self) -> str:
        raise AssertionError("its text was asked for")

    __str__ = __repr__

    def get_source_expressions(self) -> Any:
        raise AssertionError("its parts were asked for")


class Duck:
    def resolve_expression(self, *args: Any) -> None:
        raise AssertionError("it was resolved")


def test_a_custom_expression_is_formatted_without_running_its_code() -> None:
    assert "Odd(F(a), Value(1))" == told(Odd(F("a"), Value(1)))
    assert "<tests.serialization.test_expressions.Duck>" in told(Duck())


def test_an_expression_without_end_is_cut() -> None:
    deep: Any = F("a")
    for _ in range(300):
        deep = Lower(deep)
    wide = Coalesce(*(Value("x" * 100) for _ in range(1000)))
    around = Func(F("a"))
    around.source_expressions = [around, around]
    for expression in (deep, wide, around):
        assert 3 < len(told(expression)) <= expressions.MAX_LENGTH


@pytest.mark.django_db
def test_no_query_is_run_for_it(django_assert_num_queries: Any) -> None:
    orders = Order.objects.filter(number="a").values("pk")
    with django_assert_num_queries(0):
        assert "QuerySet(…)" == told(orders)
        assert "Subquery(…)" == told(Subquery(orders))
        assert "Exists(…)" == told(Exists(orders))


@pytest.mark.every_database
@pytest.mark.django_db
def test_expressions_of_an_update_contain_no_secret() -> None:
    customer = Customer.objects.create(name="Ada", api_token="TOKENSECRET")
    Customer.objects.update(
        name=Case(When(api_token="TOKENSECRET", then=Value("password=hunter2")), default=Concat(Value(HASH), F("name")))
    )
    [values] = get_args(Customer, "update")["values"].values()
    assert f"When(api_token={REDACTED}, Value('password={REDACTED}'))" in values["expression"]
    assert not any(secret in values["expression"] for secret in ("TOKENSECRET", "hunter2", "pbkdf2"))
    customer.name = Case(When(api_token="TOKENSECRET", then=Value("x")), default=Concat(Value(HASH), F("name")))
    customer.save()
    assert "TOKENSECRET" not in str(get_object_event(customer).data)
    assert "pbkdf2" not in str(get_object_event(customer).data)


@pytest.mark.django_db
def test_a_secret_field_by_another_name_is_secret() -> None:
    found = Customer.objects.annotate(other=Lower("api_token"))
    found.create(name="Ada", api_token="TOKENSECRET")
    found.update(name=Replace(F("other"), Value("tokensecret"), Value("x")))
    assert "tokensecret" not in str(get_args(Customer, "update"))


@pytest.mark.django_db
def test_a_models_own_hidden_fields_are_hidden_in_expressions() -> None:
    with override_settings(SIGNALBOX={"MODELS": {"shop.Order": {"redact": ["note"], "exclude": ["status"]}}}):
        model_metadata.clear_cache()
        order = Order.objects.create(number="1", note="veil-1", status="paid")
        Order.objects.update(number=Case(When(note="veil-1", status="veil-2", then=Value("2")), default=F("number")))
        assert "veil" not in str(get_args(Order, "update"))
        order.number = Case(When(note="veil-1", status="veil-2", then=Value("3")), default=F("number"))
        order.save()
        assert "veil" not in str(get_object_event(order).data)
    model_metadata.clear_cache()
