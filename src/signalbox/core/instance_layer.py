"""Replaces methods of one object, such as the ``send`` of a signal, below what other libraries put on top."""

from __future__ import annotations

import weakref
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asgiref.sync import iscoroutinefunction

if TYPE_CHECKING:
    from collections.abc import Callable

_MISSING: Final[Any] = object()

T = TypeVar("T")


def get_referent(reference: weakref.ref[T]) -> T:
    """Return the object of ``reference``. Raises ``ReferenceError`` if it no longer exists."""
    found = reference()
    if found is None:
        raise ReferenceError("An object that methods were replaced for no longer exists.")
    return found


class InstanceLayer:
    """Replacements that are installed on one object, as the ``send`` methods of a signal.

    It differs from ``patching.Layer``: it has several methods of one object, which belong together.

    The layer does not keep the object alive. The functions that it installs do, unless ``is_weak``: the object is then
    in no reference cycle because of them, and they have no ``__wrapped__``, which would refer to it.
    """

    __slots__ = ("__weakref__", "_target", "functions", "is_active", "is_weak", "previous", "replacements")

    def __init__(self, target: Any, *, is_weak: bool = False) -> None:
        self._target = weakref.ref(target)
        self.is_weak = is_weak
        self.previous: dict[str, Any] = {}
        self.functions: dict[str, weakref.ref[Callable[..., Any]]] = {}
        """The functions that were installed. They refer to the layer, so it does not keep them alive."""
        self.replacements: dict[str, Callable[..., Any]] = {}
        self.is_active = True

    @property
    def target(self) -> Any:
        """The object. Raises ``ReferenceError`` if it no longer exists."""
        return get_referent(self._target)

    def get_original(self, name: str) -> Callable[..., Any]:
        """Return the bound method that the replacement takes the place of."""
        previous = self._get_previous(name)
        method: Any = getattr(type(self.target), name).__get__(self.target) if previous is _MISSING else previous
        return method  # type: ignore[no-any-return]

    def get_weak_original(self, name: str) -> Callable[..., Any]:
        """Return a function that calls what ``get_original()`` returns, without a reference to the object."""
        previous = self._get_previous(name)
        if previous is not _MISSING:
            return previous  # type: ignore[no-any-return]
        method, reference = getattr(type(self.target), name), self._target  # the replacement may keep the result

        def call_original(*args: Any, **kwargs: Any) -> Any:
            return method.__get__(get_referent(reference))(*args, **kwargs)

        return call_original

    def is_replaced_by_others(self, name: str) -> bool:
        """Return True if another library has replaced the method on this object before."""
        return self._get_previous(name) is not _MISSING

    def _get_previous(self, name: str) -> Any:
        """Return what the object itself had under ``name``, or ``_MISSING`` if the method is that of its class."""
        return self.previous[name] if name in self.functions else vars(self.target).get(name, _MISSING)

    def get_current(self, name: str) -> Callable[..., Any]:
        """Return the replacement if it is active, otherwise the original."""
        return self.replacements.get(name, self.get_original(name)) if self.is_active else self.get_original(name)

    def replace(self, name: str, replacement: Callable[..., Any], *, is_direct: bool = False) -> None:
        """Make ``replacement`` what the method does.

        ``is_direct`` says that the replacement itself calls the original while ``is_active`` is False, which saves a
        call of another function.
        """
        self.is_active = True
        namespace = vars(self.target)
        is_there = name in self.functions and namespace.get(name, _MISSING) is not self.previous[name]
        original = self.get_original(name)
        called = self.get_weak_original(name) if self.is_weak else original
        self.replacements[name] = replacement
        if is_there:  # perhaps below another library's function
            return
        self.previous[name] = namespace.get(name, _MISSING)
        replacements = self.replacements

        def call(*args: Any, **kwargs: Any) -> Any:
            return (replacements[name] if self.is_active else called)(*args, **kwargs)

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await (replacements[name] if self.is_active else called)(*args, **kwargs)

        function: Callable[..., Any] = call_async if iscoroutinefunction(original) else call
        if is_direct:
            function = replacement
        namespace[name] = update_wrapper(function, original)
        self.functions[name] = weakref.ref(function)
        if self.is_weak:
            del function.__wrapped__  # type: ignore[attr-defined]  # set by update_wrapper()

    def remove(self) -> bool:
        """Restore the predecessors and return True, or return False if another library's function is on top of one."""
        namespace = vars(self.target)
        self.is_active = False
        for name, function in list(self.functions.items()):
            if name not in namespace or namespace[name] is not function():
                continue
            if self.previous[name] is _MISSING:
                del namespace[name]
            else:
                namespace[name] = self.previous[name]
            del self.functions[name], self.previous[name], self.replacements[name]
        return not self.functions
