"""The signals of Django: their arguments, senders and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, cast

import django
from django.dispatch import Signal
from django.utils.module_loading import import_string

START_UP_SIGNALS: Final = frozenset({"class_prepared", "connection_created"})
"""Signals that every process sends when it starts. They are counted by trace where only Django receives them."""

Group: TypeAlias = Literal["auth", "model", "request", "management", "test", "database", "task", "bulk", "custom"]
SenderKind: TypeAlias = Literal["model", "through", "class", "module", "app_config", "handler", "none", "any"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalInfo:
    """One signal, or one bulk operation for which Django sends no signal."""

    name: str
    """Short name as in the event's row: ``post_save``."""

    group: Group
    """The part of Django that sends it; ``bulk`` for bulk operations, ``custom`` for an application's signals."""

    path: str
    """Dotted path of the ``Signal`` object; empty if it has none."""

    args: Mapping[str, str]
    """Argument to its meaning, without ``sender`` and ``signal``, which every receiver is given."""

    optional: frozenset[str] = frozenset()
    """Arguments that not every send carries: a receiver must have a default for them, or take ``**kwargs``."""

    sender: str
    """The sender, in words."""

    sender_kind: SenderKind
    """The kind of sender, for programs: ``model`` (a model class), ``through`` (the model class of a many-to-many
    table), ``class`` (another class), ``module`` (a module's dotted name), ``app_config`` (an ``AppConfig``),
    ``handler`` (the class that handles requests), ``none`` (always ``None``) or ``any`` (any object)."""

    counterpart: str | None = None
    """Name of the signal at the other end of the same work, as ``pre_save`` to ``post_save``."""

    doc: str
    """Where Django documents it, below ``https://docs.djangoproject.com/en/<version>/``."""

    @property
    def description(self) -> str:
        """When it is sent, or what the bulk operation does."""
        return _DESCRIPTIONS[self.name]


_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "user_logged_in": "Sent when a user has logged in.",
    "user_logged_out": "Sent when logout() is called, before the session is flushed.",
    "user_login_failed": "Sent when authenticate() finds no user for the credentials.",
    "pre_init": "Sent when a model's __init__() begins, also for each row that a queryset loads.",
    "post_init": "Sent when a model's __init__() ends, also for each row that a queryset loads.",
    "pre_save": "Sent when a model's save() begins, before the row is written.",
    "post_save": "Sent when a model's save() has written the row.",
    "pre_delete": "Sent before an object is deleted, by its delete(), a queryset's delete() or a cascade.",
    "post_delete": "Sent when the row of an object has been deleted.",
    "m2m_changed": "Sent before and after objects are added to or removed from a many-to-many relation.",
    "class_prepared": "Sent when a model class has been defined and registered.",
    "request_started": "Sent when Django begins to process a request.",
    "request_finished": "Sent when the response has been delivered and is closed.",
    "got_request_exception": "Sent when a request ends in an exception that is not handled.",
    "pre_migrate": "Sent before the migrate command begins, for each app that has models.",
    "post_migrate": "Sent at the end of the commands migrate and flush, for each app that has models.",
    "setting_changed": "Sent when a test overrides a setting, and when it restores it.",
    "template_rendered": "Sent when a template is rendered in a test.",
    "connection_created": "Sent when the connection to a database has been opened.",
    "task_enqueued": "Sent when a task has been added to its queue.",
    "task_started": "Sent when a task begins to run.",
    "task_finished": "Sent when a task has ended, successfully or not.",
    "bulk_create": "Inserts many rows. Django sends no signal for it.",
    "bulk_update": "Updates some fields of many objects. Django sends no signal for it.",
    "update": "Updates all rows of a queryset by one statement. Django sends no signal for it.",
    "bulk_delete": "Deletes all rows of a queryset without loading them. Django sends no signal for it.",
}

_INSTANCE = "The object in question."
_RAW = "True while a fixture is loaded: don't query or change other rows, they may not be there yet."
_USING = "Alias of the database that is used."
_UPDATE_FIELDS = "Names of the fields in save(update_fields=…), as a frozenset; None if it writes all fields."
_ORIGIN = "The object or queryset whose delete() started this; for a cascaded object that is not the object itself."
_REQUEST = "The HttpRequest."
_TASK_RESULT = "The TaskResult: the task, its arguments, its state and, at the end, its return value or errors."
_MIGRATE = {
    "app_config": "The same as the sender.",
    "verbosity": "How much the command prints, from 0 to 3; a receiver's own output should follow it.",
    "interactive": "True if the command may ask questions on the terminal.",
    "using": "Alias of the database that is migrated.",
    "stdout": "Where the command writes its output. Django doesn't document this argument.",
}
_PLAN = "List of (migration, backwards) pairs that migrate {tense}; backwards is True where one is unapplied."
_APPS = "Registry of the models as they are {time} the migration; use it in place of the global one."
_MODEL_SENDER = "The model class."
_HANDLER_SENDER = "The class that handles the request, as django.core.handlers.wsgi.WSGIHandler."
_TASK_SENDER = "The class of the task backend."
_BULK_SENDER = "The model class of the rows."
_AUTH_DOC = "ref/contrib/auth/#django.contrib.auth.signals."

_SIGNALS = [
    SignalInfo(
        name="user_logged_in",
        group="auth",
        path="django.contrib.auth.signals.user_logged_in",
        args={"request": _REQUEST, "user": "The user who logged in."},
        sender="The model class of the user.",
        sender_kind="model",
        counterpart="user_logged_out",
        doc=f"{_AUTH_DOC}user_logged_in",
    ),
    SignalInfo(
        name="user_logged_out",
        group="auth",
        path="django.contrib.auth.signals.user_logged_out",
        args={"request": _REQUEST, "user": "The user who logged out; None if no user was logged in."},
        sender="The model class of the user; NoneType (the class, not None) if no user was logged in.",
        sender_kind="model",
        counterpart="user_logged_in",
        doc=f"{_AUTH_DOC}user_logged_out",
    ),
    SignalInfo(
        name="user_login_failed",
        group="auth",
        path="django.contrib.auth.signals.user_login_failed",
        args={
            "credentials": "What authenticate() was given, as a dict; Django masks values whose key looks secret.",
            "request": "The HttpRequest given to authenticate(); None if it was given none.",
        },
        sender="The dotted name of the module that authenticates: 'django.contrib.auth'.",
        sender_kind="module",
        doc=f"{_AUTH_DOC}user_login_failed",
    ),
    SignalInfo(
        name="pre_init",
        group="model",
        path="django.db.models.signals.pre_init",
        args={
            "args": "Positional arguments given to the model's __init__(), as a tuple.",
            "kwargs": "Keyword arguments given to the model's __init__(), as a dict.",
        },
        sender=_MODEL_SENDER,
        sender_kind="model",
        counterpart="post_init",
        doc="ref/signals/#pre-init",
    ),
    SignalInfo(
        name="post_init",
        group="model",
        path="django.db.models.signals.post_init",
        args={"instance": "The object just made; it may not be in the database."},
        sender=_MODEL_SENDER,
        sender_kind="model",
        counterpart="pre_init",
        doc="ref/signals/#post-init",
    ),
    SignalInfo(
        name="pre_save",
        group="model",
        path="django.db.models.signals.pre_save",
        args={"instance": _INSTANCE, "raw": _RAW, "using": _USING, "update_fields": _UPDATE_FIELDS},
        sender=_MODEL_SENDER,
        sender_kind="model",
        counterpart="post_save",
        doc="ref/signals/#pre-save",
    ),
    SignalInfo(
        name="post_save",
        group="model",
        path="django.db.models.signals.post_save",
        args={
            "instance": _INSTANCE,
            "created": "True if a row was inserted, False if one was updated.",
            "raw": _RAW,
            "using": _USING,
            "update_fields": _UPDATE_FIELDS,
        },
        sender=_MODEL_SENDER,
        sender_kind="model",
        counterpart="pre_save",
        doc="ref/signals/#post-save",
    ),
    SignalInfo(
        name="pre_delete",
        group="model",
        path="django.db.models.signals.pre_delete",
        args={"instance": _INSTANCE, "using": _USING, "origin": _ORIGIN},
        sender=_MODEL_SENDER,
        sender_kind="model",
        counterpart="post_delete",
        doc="ref/signals/#pre-delete",
    ),
    SignalInfo(
        name="post_delete",
        group="model",
        path="django.db.models.signals.post_delete",
        args={
            "instance": "The object. Its row was deleted; the instance still has its attributes and its key.",
            "using": _USING,
            "origin": _ORIGIN,
        },
        sender=_MODEL_SENDER,
        sender_kind="model",
        counterpart="pre_delete",
        doc="ref/signals/#post-delete",
    ),
    SignalInfo(
        name="m2m_changed",
        group="model",
        path="django.db.models.signals.m2m_changed",
        args={
            "instance": "The object whose relation changes; of the other model if reverse is True.",
            "action": "'pre_add', 'post_add', 'pre_remove', 'post_remove', 'pre_clear' or 'post_clear'.",
            "reverse": "True if the change was made from the far side of the field.",
            "model": "Class of the objects that are added, removed or cleared.",
            "pk_set": "Primary keys of the objects added or removed, as a set; None when the relation is cleared.",
            "using": _USING,
            **({"raw": _RAW} if django.VERSION >= (6, 1) else {}),
        },
        sender="The model class of the many-to-many table, as Post.tags.through.",
        sender_kind="through",
        doc="ref/signals/#m2m-changed",
    ),
    SignalInfo(
        name="class_prepared",
        group="model",
        path="django.db.models.signals.class_prepared",
        args={},
        sender="The model class that was just prepared. Most are sent before any AppConfig.ready() runs.",
        sender_kind="model",
        doc="ref/signals/#class-prepared",
    ),
    SignalInfo(
        name="request_started",
        group="request",
        path="django.core.signals.request_started",
        args={
            "environ": "The WSGI environ, a dict: headers, cookies and the server's environment. Sent under WSGI.",
            "scope": "The ASGI scope, a dict: headers, cookies and addresses. Sent under ASGI.",
        },
        optional=frozenset({"environ", "scope"}),
        sender=_HANDLER_SENDER,
        sender_kind="handler",
        counterpart="request_finished",
        doc="ref/signals/#request-started",
    ),
    SignalInfo(
        name="request_finished",
        group="request",
        path="django.core.signals.request_finished",
        args={},
        sender=_HANDLER_SENDER,
        sender_kind="handler",
        counterpart="request_started",
        doc="ref/signals/#request-finished",
    ),
    SignalInfo(
        name="got_request_exception",
        group="request",
        path="django.core.signals.got_request_exception",
        args={"request": "The HttpRequest; the exception itself is in sys.exc_info()."},
        sender="Always None.",
        sender_kind="none",
        doc="ref/signals/#got-request-exception",
    ),
    SignalInfo(
        name="pre_migrate",
        group="management",
        path="django.db.models.signals.pre_migrate",
        args={
            **_MIGRATE,
            "plan": _PLAN.format(tense="is going to run"),
            "apps": _APPS.format(time="before"),
        },
        sender="The AppConfig of an app that has models; sent once for each such app.",
        sender_kind="app_config",
        counterpart="post_migrate",
        doc="ref/signals/#pre-migrate",
    ),
    SignalInfo(
        name="post_migrate",
        group="management",
        path="django.db.models.signals.post_migrate",
        args={
            **_MIGRATE,
            "plan": _PLAN.format(tense="ran") + " Not sent by flush.",
            "apps": _APPS.format(time="after") + " Not sent by flush.",
        },
        optional=frozenset({"stdout", "plan", "apps"}),
        sender="The AppConfig of an app that has models; sent once for each such app.",
        sender_kind="app_config",
        counterpart="pre_migrate",
        doc="ref/signals/#post-migrate",
    ),
    SignalInfo(
        name="setting_changed",
        group="test",
        path="django.core.signals.setting_changed",
        args={
            "setting": "Name of the setting.",
            "value": "Its value after the change; None if the setting is removed again.",
            "enter": "True when the override begins, False when it ends.",
        },
        sender="The class of the settings object in force after the change.",
        sender_kind="class",
        doc="ref/signals/#setting-changed",
    ),
    SignalInfo(
        name="template_rendered",
        group="test",
        path="django.test.signals.template_rendered",
        args={"template": "The same as the sender.", "context": "The Context that it is rendered with."},
        sender="The Template that is rendered: the object, not its class.",
        sender_kind="any",
        doc="ref/signals/#template-rendered",
    ),
    SignalInfo(
        name="connection_created",
        group="database",
        path="django.db.backends.signals.connection_created",
        args={"connection": "The DatabaseWrapper that has connected; its alias names the database."},
        sender="The DatabaseWrapper class of the backend.",
        sender_kind="class",
        doc="ref/signals/#connection-created",
    ),
]

if django.VERSION >= (6, 0):
    _SIGNALS += [
        SignalInfo(
            name="task_enqueued",
            group="task",
            path="django.tasks.signals.task_enqueued",
            args={"task_result": _TASK_RESULT},
            sender=_TASK_SENDER,
            sender_kind="class",
            doc="ref/signals/#task-enqueued",
        ),
        SignalInfo(
            name="task_started",
            group="task",
            path="django.tasks.signals.task_started",
            args={"task_result": _TASK_RESULT},
            sender=_TASK_SENDER,
            sender_kind="class",
            counterpart="task_finished",
            doc="ref/signals/#task-started",
        ),
        SignalInfo(
            name="task_finished",
            group="task",
            path="django.tasks.signals.task_finished",
            args={"task_result": _TASK_RESULT},
            sender=_TASK_SENDER,
            sender_kind="class",
            counterpart="task_started",
            doc="ref/signals/#task-finished",
        ),
    ]

_SIGNALS += [
    SignalInfo(
        name=name,
        group="bulk",
        path="",
        args={},
        sender=_BULK_SENDER,
        sender_kind="model",
        doc=f"ref/models/querysets/#{anchor}",
    )
    for name, anchor in [
        ("bulk_create", "bulk-create"),
        ("bulk_update", "bulk-update"),
        ("update", "update"),
        ("bulk_delete", "delete"),
    ]
]

BUILTIN_SIGNALS: Final[Mapping[str, SignalInfo]] = MappingProxyType({entry.name: entry for entry in _SIGNALS})
"""The signals of the installed Django by name, in the order of Django's groups, and then the bulk operations."""


def import_signal(info: SignalInfo) -> Signal:
    """Import the ``Signal`` object of ``entry``.

    Raises:
        ValueError: the entry has no ``Signal`` object, as a bulk operation.
        ImportError: the path leads nowhere.
    """
    if not info.path:
        raise ValueError(f"{info.name!r} has no Signal object: Django sends none. Look at entry.path first.")
    return cast(Signal, import_string(info.path))
