from __future__ import annotations

import gc
import signal
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from signalbox.core.interrupts import find_interrupt, is_interrupt, raise_if_interrupt

if TYPE_CHECKING:
    from collections.abc import Callable


class TimeLimit(Exception):
    pass


def with_frame(number: int, frame: object) -> None:
    raise TimeLimit


def with_varargs(*args: object) -> None:
    raise TimeLimit


def raise_it() -> None:
    raise TimeLimit


def calling_another(number: int, frame: object) -> None:
    raise_it()


class Handler:
    def __call__(self, number: int, frame: object) -> None:
        raise TimeLimit

    def method(self, number: int, frame: object) -> None:
        raise TimeLimit


def catch(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except TimeLimit as error:
        return error
    raise AssertionError("nothing was raised")


def interrupt(handler: Any) -> BaseException:
    """Return what ``handler`` raises as the handler of a signal, which is then no longer installed."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        return catch(lambda: signal.raise_signal(signal.SIGUSR1))
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    "handler",
    [with_frame, with_varargs, calling_another, Handler(), Handler().method, partial(with_frame)],
    ids=["function", "varargs", "calls another function", "callable object", "method", "partial"],
)
def test_an_exception_of_a_signal_handler_is_an_interrupt(handler: Any) -> None:
    error = interrupt(handler)
    assert is_interrupt(error)
    with pytest.raises(TimeLimit) as caught:
        raise_if_interrupt(error)
    assert error is caught.value


def test_an_error_of_the_code_itself_is_not_an_interrupt() -> None:
    error = catch(raise_it)
    assert not is_interrupt(error)
    raise_if_interrupt(error)
    assert find_interrupt(error, outside=None) is None


def test_an_interrupt_is_found_behind_the_error_that_replaced_it() -> None:
    def handle() -> None:
        try:
            raise interrupt(with_frame)
        finally:
            raise ValueError("cleaning up failed")

    with pytest.raises(ValueError, match="cleaning up failed") as caught:
        handle()
    found = find_interrupt(caught.value, outside=None)
    assert isinstance(found, TimeLimit)


def test_an_interrupt_of_earlier_work_is_not_found_behind_an_error_of_this_one() -> None:
    """The application handles its time limit with work of its own, which fails."""
    limit = interrupt(with_frame)

    def handle() -> None:
        try:
            raise limit
        except TimeLimit:
            raise ValueError("its own") from None

    with pytest.raises(ValueError, match="its own") as caught:
        handle()
    assert find_interrupt(caught.value, outside=limit) is None


def test_no_references_to_variables_of_other_frames_remain() -> None:
    class Value:
        pass

    def fail() -> None:
        value = Value()
        values.append(weakref.ref(value))
        raise TimeLimit

    values: list[weakref.ref[Value]] = []
    gc.disable()
    try:
        try:
            fail()
        except TimeLimit as error:
            is_interrupt(error)
        assert values[0]() is None
    finally:
        gc.enable()
