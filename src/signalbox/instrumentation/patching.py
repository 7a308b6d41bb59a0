"""Replaces the methods of Django that ``patches`` declares, on classes and modules.

A replaced method keeps its predecessor from the moment of the installation, also if that is the wrapper of another
library. A later wrapper of another library stays in place: the replacement below it is switched off and on. Methods of
single objects, such as connections, are replaced by ``core.instance_layer``.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import update_wrapper
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Final

import django

from signalbox.instrumentation.patches import (
    CHECKED_VERSIONS,
    CONNECTION_METHODS,
    CONNECTION_OWNER,
    MANAGER_FACTORY_OWNER,
    PATCHES,
    Patch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_BY_TARGET: Final = {(patch.owner, patch.name): patch for patch in PATCHES}


# ------------------------------------------------------------------ applicable patches


def get_patch(owner: Any, name: str) -> Patch:
    """Return the declaration of a method of a class, or of a function of a module.

    Raises ``LookupError`` if it is not declared.
    """
    path = f"{owner.__module__}:{owner.__qualname__}" if isinstance(owner, type) else owner.__name__
    return _BY_TARGET[path, name]


def is_checked() -> bool:
    """Return False on a feature release of Django that is newer than those that were checked."""
    newest = CHECKED_VERSIONS[-1].split(".")
    return django.VERSION[:2] <= (int(newest[0]), int(newest[1]))


def is_applicable(patch: Patch, function: Any) -> bool:
    """Return True if ``patch`` can replace ``function``: its parameters are those that were checked.

    They are compared only on a newer release of Django. On the others, a wrapper of another library may hide them.
    """
    if is_checked():
        return function is not None
    if function is None:
        return False
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False
    return parameters == patch.parameters.split()


def find_inapplicable() -> list[Patch]:
    """Return the patches that are not applied, as this version of Django has another signature."""
    if is_checked():
        return []
    return [
        patch
        for patch in PATCHES
        if (patch.owner, patch.name) in _refused_manager_methods
        or (patch.place != "manager" and _exists(patch) and not _is_applicable_now(patch))
    ]


def _exists(patch: Patch) -> bool:
    """Return True if this version of Django is expected to have the method."""
    release = f"{django.VERSION[0]}.{django.VERSION[1]}"
    return release in patch.versions if is_checked() else CHECKED_VERSIONS[-1] in patch.versions


def _is_applicable_now(patch: Patch) -> bool:
    layer = _layers.get((patch.owner, patch.name))
    if layer is not None and layer.is_installed():
        return True
    return is_applicable(patch, getattr(_resolve(patch.owner), patch.name, None))


def _resolve(owner: str) -> Any:
    try:
        return resolve_name(owner)
    except (ImportError, AttributeError):
        return None


def has_connection_methods() -> bool:
    """Return True if the methods through which a connection calls its driver can be replaced."""
    owner = _resolve(CONNECTION_OWNER)
    return all(
        is_applicable(_BY_TARGET[CONNECTION_OWNER, name], getattr(owner, name, None)) for name, _ in CONNECTION_METHODS
    )


_refused_manager_methods: set[tuple[str, str]] = set()


def is_manager_method_applicable(name: str, method: Any) -> bool:
    """Return True if ``method`` of a many-to-many manager can be replaced."""
    patch = _BY_TARGET[MANAGER_FACTORY_OWNER, f"create_forward_many_to_many_manager.ManyRelatedManager.{name}"]
    if is_applicable(patch, method):
        return True
    _refused_manager_methods.add((patch.owner, patch.name))
    return False


# ------------------------------------------------------------------ replaced methods of classes

_MISSING: Final[Any] = object()


class Layer:
    """A replacement that is installed on a class or module.

    It differs from ``InstanceLayer``: it has one method, keeps its kind (such as a class method), and calls
    an inherited method as it is at the time of the call.
    """

    __slots__ = ("function", "is_active", "name", "original", "owner", "previous")

    def __init__(self, owner: Any, name: str) -> None:
        self.owner = owner
        self.name = name
        self.previous = vars(owner).get(name, _MISSING)
        """The value in the ``__dict__`` of the class before."""
        self.original: Callable[..., Any] = _get_inherited(owner, name)
        """The function that the replacement calls."""
        if self.previous is not _MISSING:
            self.original = getattr(self.previous, "__func__", self.previous)
        self.is_active = True
        self.function: Any = None
        """The value in the ``__dict__`` of the class now."""

    def is_installed(self) -> bool:
        """Return True if the replacement was not removed: it is on top, or another layer is on top of it."""
        return vars(self.owner).get(self.name, _MISSING) is not self.previous


def _get_inherited(owner: Any, name: str) -> Callable[..., Any]:
    """Return a function that calls the inherited method as it is then: another library may replace it later."""

    def call_inherited(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(owner, self), name)(*args, **kwargs)

    return call_inherited


_layers: dict[tuple[str, str], Layer] = {}


def install(owner: Any, name: str, replacement: Callable[..., Any]) -> Callable[..., Any]:
    """Replace a method or function by ``replacement`` and return its predecessor, which the replacement has to call.

    If this version of Django has another signature, nothing is replaced. If the replacement is installed already, it
    is switched on in its place, below a wrapper of another library.
    """
    # Python's message for wrong arguments contains this name.
    replacement.__qualname__ = getattr(getattr(owner, name, None), "__qualname__", replacement.__qualname__)

    def build(layer: Layer) -> Callable[..., Any]:
        original = layer.original

        def call(*args: Any, **kwargs: Any) -> Any:
            return (replacement if layer.is_active else original)(*args, **kwargs)

        return call

    return install_built(owner, name, build)


def install_built(owner: Any, name: str, build: Callable[[Layer], Callable[..., Any]]) -> Callable[..., Any]:
    """Replace a method by the function that ``build`` returns. For methods that are called very often.

    The function has to call ``layer.original`` only while ``layer.is_active`` is False.
    """
    patch = get_patch(owner, name)
    key = patch.owner, patch.name
    layer = _layers.get(key)
    if layer is not None and layer.is_installed():
        layer.is_active = True
        return layer.original
    layer = Layer(owner, name)
    if not is_applicable(patch, getattr(owner, name, None)):
        return layer.original
    function: Any = build(layer)
    template = layer.original if layer.previous is not _MISSING else getattr(owner, name)
    update_wrapper(function, template)
    layer.function = classmethod(function) if isinstance(layer.previous, classmethod) else function
    setattr(owner, name, layer.function)
    _layers[key] = layer
    return layer.original


def uninstall(owner: Any, name: str) -> None:
    """Restore the predecessor.

    If another library has put a wrapper on top, the replacement only calls the predecessor from now on.
    """
    patch = get_patch(owner, name)
    layer = _layers.get((patch.owner, patch.name))
    if layer is None:
        return
    layer.is_active = False
    if vars(owner).get(name) is not layer.function:
        return
    if layer.previous is _MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, layer.previous)
    del _layers[patch.owner, patch.name]


# ------------------------------------------------------------------ states


@dataclass(frozen=True, slots=True)
class PatchState:
    """The state of a patch in this process."""

    patch: Patch
    is_active: bool
    is_applicable: bool


def get_states(*, is_recording: bool) -> Iterator[PatchState]:
    """Yield the state of each patch that this version of Django has."""
    inapplicable = find_inapplicable()
    for patch in PATCHES:
        if not _exists(patch):
            continue
        layer = _layers.get((patch.owner, patch.name))
        is_active = is_recording if patch.place != "class" else layer is not None and layer.is_active
        yield PatchState(patch, is_active and patch not in inapplicable, patch not in inapplicable)


def find_dependent_signals(patches: Sequence[Patch]) -> dict[str, list[Patch]]:
    """Return the patches on which events depend, by the name of the signal; ``"*"`` is every signal."""
    found: dict[str, list[Patch]] = {}
    for patch in patches:
        for signal in patch.signals:
            found.setdefault(signal, []).append(patch)
    return found
