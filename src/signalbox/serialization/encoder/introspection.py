"""Reads classes and attributes of any object without running its code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MemberDescriptorType
from typing import Any

from signalbox.core.text import sanitize_text
from signalbox.serialization.encoder.limits import MAX_KEY_LENGTH

# Read the attributes of the class itself: a metaclass can replace them.
mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__

qualname: Callable[[type], str] = type.__dict__["__qualname__"].__get__

_module: Callable[[type], object] = type.__dict__["__module__"].__get__

_class_vars: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__


def get_class_path(kind: type) -> str:
    """Return `module.Class`, or `Class` if the module's name is not a text."""
    name = qualname(kind)[:MAX_KEY_LENGTH]
    try:
        module = _module(kind)
    except AttributeError:  # it was created outside of a module
        module = None
    return sanitize_text(f"{module[:MAX_KEY_LENGTH]}.{name}" if type(module) is str else name)


def class_placeholder(value: object) -> str:
    """Return the text that replaces a value of an unknown class: the name of the class."""
    return f"<{get_class_path(type(value))}>"


def unreadable_placeholder(value: object) -> str:
    """Return the placeholder of a value whose own code raised an error."""
    return f"<{get_class_path(type(value))}: cannot be read>"


def get_instance_dict(value: object) -> dict[str, Any]:
    """Return the attributes of an object without calling its `__getattribute__` and its properties."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:  # a class with __slots__
        return {}
    return attributes if type(attributes) is dict else {}


def get_class_var(kind: type, name: str) -> Any:
    """Return an attribute that a class or one of its bases defines, or None."""
    for base in mro(kind):
        if name in (defined := _class_vars(base)):
            return defined[name]
    return None


def get_dataclass_fields(value: object) -> list[tuple[str, Any]] | None:
    """Return the fields of a dataclass with their values, except those with `repr=False`. None for other objects."""
    kind = type(value)
    fields = get_class_var(kind, "__dataclass_fields__")
    if type(fields) is not dict:
        return None
    attributes = get_instance_dict(value)
    pairs = []
    for name, field in fields.items():
        if not field.repr:
            continue
        slot = get_class_var(kind, name)
        if name in attributes:
            pairs.append((name, attributes[name]))
        elif type(slot) is MemberDescriptorType:
            pairs.append((name, slot.__get__(value, kind)))
    return pairs
