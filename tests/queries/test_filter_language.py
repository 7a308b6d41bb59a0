"""The filter's text: what is read, what is written, and what is refused."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalbox.core.event import Outcome
from signalbox.queries.filter_language import MAX_TEXT_LENGTH, TOKEN_NAMES, FilterError, parse_tokens
from signalbox.queries.filter_values import Comparison, ObjectReference
from signalbox.queries.filters import SIGNAL_GROUPS, EventFilter

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
names = st.lists(texts, max_size=2, unique=True).map(tuple)


def some(*choices: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(choices), max_size=2, unique=True).map(tuple)


comparisons = st.lists(
    st.one_of(
        st.builds(Comparison, st.just("took"), st.sampled_from([">", ">=", "<", "<="]), st.integers(0, 10**12)),
        st.builds(Comparison, st.just("status"), st.sampled_from([">", ">=", "<", "<="]), st.integers(100, 599)),
    ),
    max_size=3,
    unique=True,
).map(lambda found: tuple(sorted(found, key=lambda one: one.name != "took")))

objects = st.lists(
    st.builds(ObjectReference, st.sampled_from(["shop.Order", "a.B"]), texts), max_size=2, unique=True
).map(tuple)

parts = {
    "signal": names,
    "group": some(*SIGNAL_GROUPS),
    "sender": some("shop.Order", "shop", "elsewhere.Model", "x*y"),
    "object": objects,
    "receiver": names,
    "error": names,
    "outcome": some(*map(str, Outcome)),
    "comparisons": comparisons,
    "actor": names,
    "path": some("/a b/*", '/"', "*,"),
    "status": some("404", "5xx", "failed", "a b"),
    "kind": names,
    "trace": some("12345678", "f" * 32),
    "database": names,
    "text": names,
}
moments = st.none() | st.datetimes(timezones=st.just(dt.UTC))


@given(
    st.builds(
        EventFilter,
        **parts,
        since=moments,
        until=moments,
        excluded=st.builds(EventFilter, **parts).map(lambda found: found or None),
    )
)
def test_a_filter_that_is_written_is_read_as_the_same_filter(event_filter: EventFilter) -> None:
    text = event_filter.to_text()
    assert not {"\n", "\r"} & set(text)
    if len(text) <= MAX_TEXT_LENGTH:
        assert event_filter == EventFilter.parse_text(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_reason(text: str) -> None:
    error: FilterError | None = None
    try:
        event_filter = EventFilter.parse_text(text)
    except FilterError as raised:
        error = raised
    if error is None:
        assert event_filter == EventFilter.parse_text(event_filter.to_text())
        event_filter.to_q()
    else:
        assert str(error).endswith((".", "?"))
        assert error.position is None or 1 <= error.position <= len(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", EventFilter()),
        ("signal:post_save", EventFilter(signal=("post_save",))),
        ("SIGNAL:post_save", EventFilter(signal=("post_save",))),
        ("signal:a,b signal:c", EventFilter(signal=("a", "b", "c"))),
        ("signal:a,,b,", EventFilter(signal=("a", "b"))),
        ("-signal:a", EventFilter(excluded=EventFilter(signal=("a",)))),
        ("sender:shop.order", EventFilter(sender=("shop.Order",))),
        ("model:order", EventFilter(sender=("shop.Order",))),
        ("object:17 model:shop.Order", EventFilter(sender=("shop.Order",), object=(ObjectReference("", "17"),))),
        ("object:shop.order:a:b", EventFilter(object=(ObjectReference("shop.Order", "a:b"),))),
        ('object:"shop.Order:[1, 2]"', EventFilter(object=(ObjectReference("shop.Order", "[1, 2]"),))),
        ("took>50ms", EventFilter(comparisons=(Comparison("took", ">", 50_000),))),
        (
            "took>=1.5s took<2m",
            EventFilter(comparisons=(Comparison("took", ">=", 1_500_000), Comparison("took", "<", 120_000_000))),
        ),
        ("took<=7µs", EventFilter(comparisons=(Comparison("took", "<=", 7),))),
        ("status>=500 status:5XX", EventFilter(status=("5xx",), comparisons=(Comparison("status", ">=", 500),))),
        ("status>000", EventFilter(comparisons=(Comparison("status", ">", 0),))),
        ("trace:4BF92F35", EventFilter(trace=("4bf92f35",))),
        ("outcome:Rolled_Back", EventFilter(outcome=("rolled_back",))),
        ("night train", EventFilter(text=("night", "train"))),
        ('"night train" -"a b"', EventFilter(text=("night train",), excluded=EventFilter(text=("a b",)))),
        ('"signal:x" "-y" - 12:30', EventFilter(text=("signal:x", "-y", "-", "12:30"))),
        (r'error:"say \"hi\" \\"', EventFilter(error=('say "hi" \\',))),
        (r'error:"a\nb\r"', EventFilter(error=("a\nb\r",))),
        (r"path:/a\b", EventFilter(path=(r"/a\b",))),
        ("receiver:\u00e4\u4e2d*", EventFilter(receiver=("\u00e4\u4e2d*",))),
    ],
)
def test_a_text_is_read(text: str, expected: EventFilter) -> None:
    assert expected == EventFilter.parse_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a signl:post_save", "At character 3: 'signl' is not a token. "),
        ("signl:post_save", "Did you mean signal:?"),
        ("tok>5ms", "Did you mean took>?"),
        ("shop.Order:17", "Did you mean object:shop.Order:17?"),
        ("http://x", "or quotes for a text."),
        ("signal:", "At character 1: 'signal:' has no value. Write it as signal:post_save."),
        ('""', "has no value"),
        ('x signal:"a b', 'At character 10: The quote has no end. Add a " at the end of the value.'),
        ("signal>5", "'signal' does not accept '>'. Write it as signal:post_save."),
        ("took:50ms", "'took' does not accept ':'. Write it as took>50ms."),
        ("took=50ms", "'took' does not accept '='."),
        ("took>50", "took is '50'; a duration with a unit was expected"),
        ("took>-5ms", "took is '-5ms'"),
        ("took>99999999999999m", "a duration with a unit was expected"),
        ("status>=ok", "status is 'ok'; a code of three digits was expected, as status>=500."),
        ("status:9xx", "one of 1xx, 2xx, 3xx, 4xx and 5xx was expected."),
        ("outcome:commited", "Did you mean 'committed'?"),
        ("group:modle", "Did you mean 'model'?"),
        ("object:17", "a model and a primary key were expected, as shop.Order:17."),
        ("trace:xyz", "trace is 'xyz'; 8 to 32 hexadecimal digits were expected."),
        ("path:orders", "path is 'orders'; a path was expected, as /orders/17/ or /orders/*."),
        ("since:yesterday", "since is 'yesterday'; a time was expected"),
        ("since:٢h", "a time was expected"),
        ("since:1h since:2h", "one time was expected."),
        ("-since:1h", "it can't be negated."),
        ("a\0b", "At character 2: The filter contains the character '\\x00'."),
        ("a\ud800", "At character 2: The filter contains the character '\\ud800'."),
        ("x" * 1001, "The filter has 1001 characters. At most 1000 are accepted."),
        ("a " * 51, "The filter has 51 tokens. At most 50 are accepted."),
        (f"signal:{','.join(map(str, range(101)))}", "The filter has 101 values. At most 100 are accepted."),
        (f"signal:{'x' * 201}", "at most 200 characters were expected."),
    ],
)
def test_what_is_not_valid_is_named_with_its_position_and_the_remedy(text: str, message: str) -> None:
    with pytest.raises(FilterError) as raised:
        EventFilter.parse_text(text)
    assert message in str(raised.value)


def test_each_example_is_valid() -> None:
    for known in TOKEN_NAMES.values():
        assert known.attribute in EventFilter.parse_text(known.example).get_used_attributes()


def test_options_mean_the_same_as_tokens() -> None:
    options = {"signal": ["post_save", "update"], "sender": ["shop.Order"], "text": "a b", "filter": ["took>5ms", "-x"]}
    text = 'took>5ms -x signal:post_save,update model:shop.Order "a b"'
    assert EventFilter.parse_text(text) == EventFilter.parse(options)


def test_a_token_knows_its_place_in_the_text() -> None:
    text = '  signal:a  -"b c"'
    assert ["signal:a", '-"b c"'] == [text[token.start : token.end] for token in parse_tokens(text)]
