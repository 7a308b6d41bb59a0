"""What recording needs to know of a model, worked out once: its label, its fields, how to name its objects."""

from __future__ import annotations

import logging
from functools import cache
from operator import itemgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from django.apps import apps
from django.db.models import Field, Model

from signalbox import conf
from signalbox.core import object_keys, query_guard
from signalbox.core.event import UNKNOWN
from signalbox.outbox import registry
from signalbox.serialization import encoder
from signalbox.serialization.diff import Fields, Untold
from signalbox.serialization.redaction import REDACTED, Redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("signalbox")

SCALAR = frozenset(
    {
        "AutoField",
        "BigAutoField",
        "BigIntegerField",
        "BooleanField",
        "CharField",
        "DateField",
        "DateTimeField",
        "DecimalField",
        "EmailField",
        "GenericIPAddressField",
        "IntegerField",
        "PositiveBigIntegerField",
        "PositiveIntegerField",
        "PositiveSmallIntegerField",
        "SlugField",
        "SmallAutoField",
        "SmallIntegerField",
        "TextField",
        "TimeField",
        "URLField",
        "UUIDField",
    }
)
"""Django's own field classes whose values JSON renders as they are."""

MUTABLE = frozenset({"JSONField", "ArrayField", "HStoreField", "FileField"})
"""Internal types of fields whose values are changed in place, so that a reference to the old value is not enough. A
project's own fields may hold anything, and are taken for such."""


class Plan:
    """One model's plan."""

    __slots__ = (
        "concrete",
        "ends",
        "fields",
        "foreign",
        "generated",
        "get",
        "has_str",
        "label",
        "mutable",
        "pk_places",
        "pks",
        "recorded",
        "returned",
        "secret_pk",
        "size",
        "state_pk",
    )

    def __init__(self, model: type[Model], config: conf.Config, redactor: Redactor) -> None:
        meta = model._meta
        left_out = conf.get_fields_by_option("exclude")
        self.label = encoder.column(meta.label, 200)
        self.concrete = meta.concrete_model or model
        relation = said_of_relation(model) if meta.auto_created else ""
        self.recorded = relation != "exclude" and (
            registry.is_subscribed_sender(meta.label) or not ignored(model, config)
        )
        concrete = list(meta.concrete_fields)
        self.size = len(concrete)
        attnames = tuple(field.attname for field in concrete)
        self.fields = Fields(
            names=tuple(field.name for field in concrete),
            attnames=attnames,
            secret=frozenset(
                field.name
                for field in concrete
                if is_secret(field, model, redactor) or (relation == "redact" and field.is_relation)
            ),
            to_python=tuple(field.to_python for field in concrete),
            special=frozenset(field.name for field in concrete if _scalar_type(field) not in SCALAR),
            redactor=redactor,
            excluded=frozenset(
                field.name
                for field in concrete
                if any(field.name in left_out.get(label, ()) for label in _labels(field, model))
            ),
            choices={field.name: dict(field.flatchoices) for field in concrete if field.choices},
            primary=frozenset(field.name for field in meta.pk_fields),
            to_text={field.name: _serializing(field) for field in concrete if _serializes(field)},
        )
        self.get: Callable[[dict[str, Any]], tuple[Any, ...]] = (
            itemgetter(*attnames) if len(attnames) > 1 else lambda state: (state[attnames[0]],)
        )
        self.mutable = tuple(
            i
            for i, field in enumerate(concrete)
            if field.get_internal_type() in MUTABLE or not type(field).__module__.startswith("django.")
        )
        self.generated = tuple(i for i, field in enumerate(concrete) if field.generated)
        """Places of the fields that the database computes."""
        self.returned = frozenset(field.attname for field in meta.db_returning_fields)
        """Attributes that an insert sets to what the database has made: an automatic key above all."""
        self.pk_places = tuple((attnames.index(field.attname), field.attname) for field in meta.pk_fields)
        """Places and attributes of the primary key."""
        self.foreign = {
            cast("Any", field).cache_name: (place, field.name)
            for place, field in enumerate(concrete)
            if field.is_relation and field.name not in self.fields.secret | self.fields.excluded
        }
        """Names under which objects that foreign keys point at are cached, to the field's place and name."""
        self.has_str = model.__str__ is not Model.__str__
        self.pks = list(meta.pk_fields)
        self.ends: list[Any] = (
            [] if relation or not meta.auto_created else [field for field in concrete if field.is_relation]
        )
        """Of a many-to-many relation's own table, the foreign keys; none where they are to be hidden."""
        self.state_pk = meta.pk.attname if len(meta.pk_fields) == 1 else None
        """The attribute that holds the primary key; none where it is composite."""
        self.secret_pk = encoder.has_secret_key(model, redactor)

    def key(self, instance: Model) -> str:
        """Return the primary key of ``instance`` as text; empty where it has none."""
        value = instance.pk if self.state_pk is None else instance.__dict__.get(self.state_pk)
        if type(value) is int and not self.secret_pk:
            return str(value)
        if type(value) is str and self.state_pk is not None:  # of a UUID there are several spellings
            try:
                value = self.pks[0].to_python(value)
            except Exception:  # noqa: BLE001 - a field's own code on what it can't read; then the text is the key
                return self.key_of(value)
        return self.key_of(value)

    def key_of(self, value: Any) -> str:
        """Return a primary key's value as text."""
        return object_keys.key_to_text(value, secret=self.secret_pk)

    def label_of(self, instance: Model, connection: BaseDatabaseWrapper | None) -> str:
        """Return what ``instance`` calls itself, without a query and without secrets; empty for Django's own name."""
        if not self.has_str:
            return ""
        refused = query_guard.block_queries(connection)
        state = instance.__dict__
        held = len(state)
        try:
            text = str(instance)
        except Exception:  # noqa: BLE001 - the model's own __str__, which may raise anything, or ask the database
            return ""
        finally:
            query_guard.unblock_queries(refused)
            if len(state) > held:  # a cached property, which would keep what is true now, or what a refusal made of it
                for name in list(state)[held:]:
                    del state[name]
        if self.fields.secret:
            text = self._without_secrets(text, instance)
        return encoder.clean(self.fields.redactor.text(text[:1000]))[:200]

    def _without_secrets(self, text: str, instance: Model) -> str:
        state = instance.__dict__
        for name, attname in zip(self.fields.names, self.fields.attnames, strict=True):
            value = state.get(attname) if name in self.fields.secret else None
            if value and (secret := str(value)) in text:
                text = text.replace(secret, REDACTED)
        return text

    def values(self, instance: Model) -> Sequence[Any]:
        """Return the values of the concrete fields that ``instance`` holds; ``UNKNOWN`` for deferred ones."""
        state = instance.__dict__
        try:
            return self.get(state)
        except KeyError:
            return [state.get(attname, UNKNOWN) for attname in self.fields.attnames]


def _serializes(field: Any) -> bool:
    """Tell whether the field says itself how its values become text: a project's own, or one of PostgreSQL's."""
    own = type(field)
    return not own.__module__.startswith("django.db.") and own.value_to_string is not Field.value_to_string


def _serializing(field: Any) -> Callable[[Any], Any]:
    """Return what makes a text of a value by the field's own ``value_to_string``, where it needs one."""

    def text(value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str, dict, list, Untold):
            return value
        try:
            return field.value_to_string(SimpleNamespace(**{field.attname: value}))
        except Exception:  # noqa: BLE001 - the field's own code, which may want a real object
            return value

    return text


def _scalar_type(field: Any) -> str:
    """Return the name of the field's class if it is Django's own; a foreign key is what it points at."""
    if field.is_relation and field.many_to_one and isinstance(field.related_model, type):
        field = field.target_field
    kind = type(field)
    return kind.__name__ if kind.__module__.startswith("django.db.models.fields") else ""


def is_secret(field: Any, model: type[Model], redactor: Redactor) -> bool:
    """Tell whether a field's values are never stored: by its name, or as the setting says, of the model, of the one it
    is a proxy of or of a parent; or as the key of an object whose key is secret."""
    return redactor.is_secret(field.attname) or encoder.is_secret_field(field, model, redactor)


def _labels(field: Any, model: type[Model]) -> set[str]:
    """Return labels of the models of which is said how the field is recorded."""
    return {one._meta.label_lower for one in (model, field.model, model._meta.concrete_model or model)}


_configured = conf.configured_models


def configure(model: type[Model], **options: Any) -> None:
    """Say how one model is recorded: ``exclude`` and ``redact`` list fields, ``record=False`` leaves it out.

    The setting's ``MODELS`` does the same and wins. Raises ``TypeError`` for an option that there is not, and
    ``ValueError`` for a field that the model has not.
    """
    if not conf.is_valid_model_options(options):
        raise TypeError(f"configure() was given {options!r}; exclude=[...], redact=[...] or record=False was expected.")
    names = recorded_fields(model)
    for field in (*options.get("exclude", ()), *options.get("redact", ())):
        if field not in names:
            raise ValueError(
                f"{model._meta.label} has no field {field!r} that is recorded; it has {', '.join(sorted(names))}."
            )
    _configured[model._meta.label_lower] = options
    forget()


def recorded_fields(model: type[Model]) -> set[str]:
    """Return names of the fields of which ``exclude`` and ``redact`` can be said: those that lie in the table, and the
    many-to-many relations that the model itself declares."""
    meta = model._meta
    return {field.name for field in (*meta.concrete_fields, *meta.local_many_to_many)}


@cache
def said_of_relation(through: type[Model]) -> str:
    """Return what is said of the many-to-many field whose rows ``through`` holds: ``"exclude"``, ``"redact"`` or
    nothing."""
    for option in ("exclude", "redact"):
        said = conf.get_fields_by_option(cast("Any", option))
        if not said:
            continue
        for model in apps.get_models():
            fields: list[Any] = list(model._meta.local_many_to_many)
            names = said.get(model._meta.label_lower, ())
            if any(field.name in names and field.remote_field.through is through for field in fields):
                return option
    return ""


def ignored(model: type[Model], config: conf.Config) -> bool:
    """Tell whether the setting leaves ``model`` out; Signalbox's own tables always are."""
    meta = model._meta
    if meta.app_label == "signalbox":
        return True
    if registry.is_subscribed_sender(meta.label):
        return False
    if any(meta.app_label == name or meta.label_lower == name.lower() for name in config.IGNORE):
        return True
    concrete = meta.concrete_model or model
    said = {**conf.get_model_options(concrete._meta.label_lower), **conf.get_model_options(meta.label_lower)}
    return not said.get("record", True)


_plans: dict[type[Model], Plan] = {}
known: Final = _plans.get
"""Return the plan of a model that has one already: no call of Python's own, for what is done for every row."""
_redactor: Redactor | None = None


def redactor() -> Redactor:
    """Return the redactor that the setting asks for."""
    global _redactor
    if _redactor is None:
        _redactor = Redactor(conf.get().REDACT, conf.get_fields_by_option("redact"))
    return _redactor


def of(model: type[Model]) -> Plan:
    """Return the plan of ``model``."""
    plan = _plans.get(model)
    if plan is None:
        try:
            plan = Plan(model, conf.get(), redactor())
        except Exception:  # a field's own code; a model that can't be understood is not recorded
            logger.exception("%s can't be recorded.", model)
            plan = Plan.__new__(Plan)
            plan.concrete, plan.recorded, plan.mutable, plan.size = model, False, (), len(model._meta.concrete_fields)
        if model.__module__ != "__fake__":  # a migration's models live as long as the migration
            _plans[model] = plan
    return plan


def forget() -> None:
    """Work plans out anew: the setting has changed."""
    global _redactor
    _plans.clear()
    said_of_relation.cache_clear()
    _redactor = None
    registry.reset_redactor()
