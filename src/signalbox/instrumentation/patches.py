"""Declares every method of Django that Signalbox replaces: its parameters, the reason, and what is lost without it.

This module is a table, which is why it is long. ``patching`` contains the mechanism.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

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
MANAGER_FACTORY_OWNER: Final = "django.db.models.fields.related_descriptors"
_ITEM_PARAMETERS: Final = "self source_field_name target_field_name objs"
CONNECTION_OWNER: Final = "django.db.backends.base.base:BaseDatabaseWrapper"


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
    """Events that are not recorded without it."""
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
            owner=CONNECTION_OWNER,
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
        owner="django.db.backends.sqlite3.base:DatabaseWrapper",
        name="_start_transaction_under_autocommit",
        parameters="self",
        place="instance",
        reason="Begin no transaction while another thread writes pending events to the same file",
        lost_without="Nothing; on SQLite a transaction can fail with `database is locked`",
    ),
    Patch(
        owner=CONNECTION_OWNER,
        name="close_if_unusable_or_obsolete",
        parameters="self",
        place="instance",
        reason="Close connections after the trace of a request is written",
        lost_without="Nothing; each request opens another connection",
    ),
    *(
        Patch(
            owner=CONNECTION_OWNER,
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
        owner=MANAGER_FACTORY_OWNER,
        name="create_forward_many_to_many_manager",
        parameters="superclass rel reverse",
        reason="Replace methods of the managers that it creates",
        lost_without="`add()` without receivers, and the keys of `add()`, `remove()` and `clear()`",
        signals=("m2m_changed",),
    ),
    *(
        Patch(
            owner=MANAGER_FACTORY_OWNER,
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
        owner="django.apps.config:AppConfig",
        name="ready",
        parameters="self",
        place="instance",
        reason="Find custom signals that apps import in `ready()`, once, after that of the last app",
        lost_without="Sends of these signals, until the first request or command",
    ),
    Patch(
        owner="django.core.management.base:BaseCommand",
        name="execute",
        parameters="self args options",
        reason="Start and finish the trace of a command",
        lost_without="Traces of commands",
    ),
    Patch(
        owner="django.core.management.base:BaseCommand",
        name="run_from_argv",
        parameters="self argv",
        reason="Use the trace of the process for the command of manage.py",
        lost_without="Nothing; the process and its command have two traces",
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
