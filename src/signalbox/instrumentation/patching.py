"""Every method of Django that Signalbox replaces: what it is for, and what is not recorded without it.

A replaced method keeps its predecessor from the moment of the installation, also if that is the wrapper of another
library. A later wrapper of another library stays in place: the replacement below it is switched off and on.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import update_wrapper
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Final, Literal

import django

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CHECKED_VERSIONS: Final = ("5.2", "6.0", "6.1")
"""Feature releases of Django with which the test suite runs."""

EVERY_SIGNAL: Final = "*"

CONNECTION_METHODS: Final = (
    ("_commit", ""),
    ("_rollback", ""),
    ("_close", ""),
    ("_savepoint", "sid"),
    ("_savepoint_rollback", "sid"),
    ("_savepoint_commit", "sid"),
    ("_set_autocommit", "autocommit"),
)
SEND_METHODS: Final = ("send", "send_robust", "asend", "asend_robust")

_MODEL: Final = "django.db.models.base:Model"
_QUERYSET: Final = "django.db.models.query:QuerySet"
_COLLECTOR: Final = "django.db.models.deletion:Collector"
_COMPILER: Final = "django.db.models.sql.compiler"
_SUBQUERIES: Final = "django.db.models.sql.subqueries"
_DESCRIPTORS: Final = "django.db.models.fields.related_descriptors"
_ITEM_PARAMETERS: Final = "self source_field_name target_field_name objs"
_CONNECTION: Final = "django.db.backends.base.base:BaseDatabaseWrapper"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """A method or function that is replaced."""

    owner: str
    """The class or module that has it, as ``module:Class`` or ``module``."""
    name: str
    parameters: str
    """Names of its parameters in the newest version that was checked, separated by spaces."""
    reason: str
    lost_without: str
    """What is not recorded without it."""
    signals: tuple[str, ...] = ()
    """Names of the signals and operations whose events depend on it; ``"*"`` for all."""
    versions: tuple[str, ...] = CHECKED_VERSIONS
    """Feature releases of Django that have it and with which it was checked."""
    place: Literal["class", "instance", "manager"] = "class"
    """Where it is replaced: on the class or module itself, on instances of the class, or on classes of managers that
    the function creates."""

    @property
    def target(self) -> str:
        """Its dotted path."""
        return f"{self.owner.replace(':', '.')}.{self.name}"


PATCHES: Final[tuple[Patch, ...]] = (
    *(
        Patch(
            owner="django.dispatch.dispatcher:Signal",
            name=name,
            parameters="self sender named",
            place="instance",
            reason="Record a send, time its receivers, start and finish traces",
            lost_without="Sends of signals, requests and tasks",
            signals=(EVERY_SIGNAL,),
        )
        for name in SEND_METHODS
    ),
    Patch(
        owner="django.dispatch.dispatcher:Signal",
        name="_live_receivers",
        parameters="self sender",
        reason="Mute receivers within `signalbox.testing.mute_receivers()`",
        lost_without="Nothing; `mute_receivers()` does not work",
    ),
    *(
        Patch(
            owner=_CONNECTION,
            name=name,
            parameters=f"self {parameters}".strip(),
            place="instance",
            reason="Write events before COMMIT, follow savepoints and rollbacks",
            lost_without="Everything; recording does not start",
            signals=(EVERY_SIGNAL,),
        )
        for name, parameters in CONNECTION_METHODS
    ),
    Patch(
        owner=_CONNECTION,
        name="close_if_unusable_or_obsolete",
        parameters="self",
        place="instance",
        reason="Close connections after the trace of a request is written",
        lost_without="Nothing; each request opens another connection",
    ),
    *(
        Patch(
            owner=_CONNECTION,
            name=name,
            parameters=parameters,
            place="instance",
            reason="Block queries while `__str__` or an event processor runs",
            lost_without="Nothing; these callbacks can query",
        )
        for name, parameters in (
            ("cursor", "self"),
            ("chunked_cursor", "self"),
            ("savepoint", "self"),
            ("set_autocommit", "self autocommit force_begin_transaction_with_broken_autocommit"),
            ("commit", "self"),
            ("rollback", "self"),
            ("close", "self"),
        )
    ),
    Patch(
        owner=_MODEL,
        name="_save_table",
        parameters="self raw cls force_insert force_update using update_fields",
        reason="Record a saved row in the transaction of the row",
        lost_without="Changes of saved rows",
        signals=("post_save",),
    ),
    Patch(
        owner=_MODEL,
        name="from_db",
        parameters="db field_names values fetch_mode",
        reason="Keep the values that were read",
        lost_without="Old values of changed fields",
    ),
    Patch(
        owner=_MODEL,
        name="refresh_from_db",
        parameters="self using fields from_queryset",
        reason="Keep the values that were read again",
        lost_without="Old values of changed fields, after a refresh",
    ),
    Patch(
        owner="django.db.models.query_utils:DeferredAttribute",
        name="fetch_many",
        parameters="self instances",
        reason="Keep the values of deferred fields that were read for several objects",
        lost_without="Old values of these fields",
        versions=("6.1",),
    ),
    Patch(
        owner="django.db.models.base:ModelState",
        name="__getstate__",
        parameters="self",
        reason="Keep what is recorded out of pickles and copies",
        lost_without="Nothing; pickled objects contain their old values",
    ),
    Patch(
        owner=_COLLECTOR,
        name="delete",
        parameters="self",
        reason="Record the delete of one object for which Django sends nothing",
        lost_without="Deletes of single objects without receivers",
        signals=("post_delete",),
    ),
    Patch(
        owner=_COLLECTOR,
        name="_has_signal_listeners",
        parameters="self model",
        reason="Send `post_delete` for each object of a model with a durable receiver",
        lost_without="Deletes of querysets of such models, object by object",
        signals=("post_delete",),
    ),
    Patch(
        owner=_QUERYSET,
        name="bulk_create",
        parameters="self objs batch_size ignore_conflicts update_conflicts update_fields unique_fields",
        reason="Record the operation",
        lost_without="`bulk_create()`",
        signals=("bulk_create",),
    ),
    Patch(
        owner=_QUERYSET,
        name="bulk_update",
        parameters="self objs fields batch_size",
        reason="Record the operation",
        lost_without="`bulk_update()`",
        signals=("bulk_update",),
    ),
    Patch(
        owner=_QUERYSET,
        name="update",
        parameters="self kwargs",
        reason="Record the operation",
        lost_without="`update()` of querysets",
        signals=("update",),
    ),
    Patch(
        owner=_QUERYSET,
        name="_raw_delete",
        parameters="self using",
        reason="Record deletes that load no object",
        lost_without="Such deletes",
        signals=("bulk_delete",),
    ),
    Patch(
        owner=_QUERYSET,
        name="_insert",
        parameters="self objs fields returning_fields raw using on_conflict update_fields unique_fields",
        reason="Ask which rows an insert that ignores conflicts has added",
        lost_without="Keys of such inserts and of `add()`",
        signals=("m2m_changed",),
    ),
    Patch(
        owner=f"{_SUBQUERIES}:UpdateQuery",
        name="update_batch",
        parameters="self pk_list values using",
        reason="Record updates of a cascade, as by `SET_NULL`",
        lost_without="Such updates",
        signals=("update",),
    ),
    Patch(
        owner=f"{_SUBQUERIES}:DeleteQuery",
        name="delete_batch",
        parameters="self pk_list using",
        reason="Record deleted rows of a many-to-many relation",
        lost_without="Such deletes, if the rows were loaded",
        signals=("bulk_delete",),
    ),
    Patch(
        owner=f"{_COMPILER}:SQLUpdateCompiler",
        name="execute_sql",
        parameters="self result_type",
        reason="Ask which rows an update has changed",
        lost_without="Keys of `update()`",
    ),
    Patch(
        owner=f"{_COMPILER}:SQLDeleteCompiler",
        name="execute_sql",
        parameters="self result_type chunked_fetch chunk_size",
        reason="Ask which rows a delete has removed",
        lost_without="Keys of deletes and of `remove()`",
        signals=("m2m_changed",),
    ),
    Patch(
        owner=_DESCRIPTORS,
        name="create_forward_many_to_many_manager",
        parameters="superclass rel reverse",
        reason="Replace methods of the managers that it creates",
        lost_without="`add()` without receivers, and the keys of `add()`, `remove()` and `clear()`",
        signals=("m2m_changed",),
    ),
    *(
        Patch(
            owner=_DESCRIPTORS,
            name=f"create_forward_many_to_many_manager.ManyRelatedManager.{name}",
            parameters=parameters,
            place="manager",
            reason="Record which keys were added and removed",
            lost_without="These keys",
            signals=("m2m_changed",),
            versions=versions,
        )
        for name, parameters, versions in (
            (
                "_add_items",
                f"{_ITEM_PARAMETERS} through_defaults using raw",
                CHECKED_VERSIONS,
            ),
            ("_remove_items", f"{_ITEM_PARAMETERS} using raw", CHECKED_VERSIONS),
            ("clear", "self", ("5.2", "6.0")),
            ("_clear_base", "self using raw", ("6.1",)),
        )
    ),
    Patch(
        owner="django.core.management.base:BaseCommand",
        name="execute",
        parameters="self args options",
        reason="Start and finish the trace of a command",
        lost_without="Traces of commands",
    ),
    Patch(
        owner="django.test.testcases:SimpleTestCase",
        name="run",
        parameters="self result",
        reason="Start and finish the trace of a test",
        lost_without="Traces of tests of Django's runner",
    ),
)
"""All patches. ``docs/architecture.md`` shows the same table."""

_BY_TARGET: Final = {(patch.owner, patch.name): patch for patch in PATCHES}


# ------------------------------------------------------------------ is a patch applicable?


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
    owner = _resolve(_CONNECTION)
    return all(
        is_applicable(_BY_TARGET[_CONNECTION, name], getattr(owner, name, None)) for name, _ in CONNECTION_METHODS
    )


_refused_manager_methods: set[tuple[str, str]] = set()


def is_manager_method_applicable(name: str, method: Any) -> bool:
    """Return True if ``method`` of a many-to-many manager can be replaced."""
    patch = _BY_TARGET[_DESCRIPTORS, f"create_forward_many_to_many_manager.ManyRelatedManager.{name}"]
    if is_applicable(patch, method):
        return True
    _refused_manager_methods.add((patch.owner, patch.name))
    return False


# ------------------------------------------------------------------ replaced methods of classes

_MISSING: Final[Any] = object()


class Layer:
    """A replacement that is installed on a class or module."""

    __slots__ = ("function", "is_active", "name", "original", "owner", "previous")

    def __init__(self, owner: Any, name: str) -> None:
        self.owner = owner
        self.name = name
        self.previous = vars(owner).get(name, _MISSING)
        """What the class had, as in its ``__dict__``."""
        self.original: Callable[..., Any] = _get_inherited(owner, name)
        """What the replacement calls."""
        if self.previous is not _MISSING:
            self.original = getattr(self.previous, "__func__", self.previous)
        self.is_active = True
        self.function: Any = None
        """What the class has now."""

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
    is switched on in its place, below what another library has put on top.
    """

    def build(layer: Layer) -> Callable[..., Any]:
        original = layer.original

        def call(*args: Any, **kwargs: Any) -> Any:
            return (replacement if layer.is_active else original)(*args, **kwargs)

        return call

    return install_built(owner, name, build)


def install_built(owner: Any, name: str, build: Callable[[Layer], Callable[..., Any]]) -> Callable[..., Any]:
    """Replace a method by what ``build`` returns. For methods that are called very often.

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


# ------------------------------------------------------------------ what is active


@dataclass(frozen=True, slots=True)
class PatchState:
    """What became of a patch in this process."""

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
