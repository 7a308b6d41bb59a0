"""Describes a model for recording, once: its label, its fields and the labels of its objects."""

from __future__ import annotations

import time
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack, cast

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model
from django.utils.choices import BaseChoiceIterator, CallableChoiceIterator

from signalbox import conf
from signalbox.core import interrupts, loggers, object_keys, query_guard
from signalbox.core.event import UNKNOWN
from signalbox.core.text import fit_column, sanitize_text
from signalbox.pipeline import processors
from signalbox.serialization import encoder, field_values
from signalbox.serialization.configured_redactor import get_redactor, reset_redactor
from signalbox.serialization.diff import FieldSet
from signalbox.serialization.redaction import REDACTED, Redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

logger = loggers.get_logger("recording")

SCALAR_FIELD_TYPES = frozenset(
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

MUTABLE_FIELD_TYPES = frozenset({"JSONField", "ArrayField", "HStoreField", "FileField"})
"""Internal types of fields whose values can be changed in place, so that the old value has to be copied.

Custom fields are treated like these."""


class ModelMetadata:
    """The description of one model."""

    __slots__ = (
        "concrete_model",
        "db_returning_attnames",
        "field_count",
        "fields",
        "foreign_keys",
        "generated_positions",
        "has_secret_pk",
        "has_str",
        "is_complete",
        "is_recorded",
        "keeps_old_values",
        "label",
        "m2m_policy",
        "mutable_positions",
        "mutable_positions_by_names",
        "pk_attname",
        "pk_fields",
        "pk_positions",
        "row_getter",
        "through_fields",
    )

    def __init__(self, model: type[Model], config: conf.Config, redactor: Redactor) -> None:
        meta = model._meta
        excluded_fields = conf.get_fields_by_option("exclude")
        self.label = fit_column(meta.label, 200)
        self.concrete_model = meta.concrete_model or model
        self.is_complete = True
        """False if a part could not be described. It is described again later."""
        self.m2m_policy = _find_m2m_policy(model)
        """``"exclude"`` or ``"redact"`` if the model's rows are a many-to-many field with this option."""
        relation = self.m2m_policy if meta.auto_created else ""
        self.is_recorded = relation != "exclude" and (
            processors.wants_sender(meta.label) or not is_ignored(model, config)
        )
        self.keeps_old_values = bool(self.is_recorded and _get_options(model).get("old_values", True))
        """Whether the values that a row had when it was read are kept."""
        concrete = list(meta.concrete_fields)
        self.field_count = len(concrete)
        attnames = tuple(field.attname for field in concrete)
        recorders = tuple(field_values.build_recorder(field, redactor) for field in concrete)
        self.fields = FieldSet(
            names=tuple(field.name for field in concrete),
            attnames=attnames,
            secret=frozenset(
                field.name
                for field in concrete
                if is_redacted_field(field, model, redactor) or (relation == "redact" and field.is_relation)
            ),
            to_python=tuple(field.to_python for field in concrete),
            non_scalar=frozenset(field.name for field in concrete if not _is_scalar(field)),
            redactor=redactor,
            excluded=frozenset(
                field.name
                for field in concrete
                if any(field.name in excluded_fields.get(label, ()) for label in _get_model_labels(field, model))
            ),
            choices={field.name: labels for field in concrete if (labels := self._get_choices(field))},
            primary_key=frozenset(field.name for field in meta.pk_fields),
            recorders=recorders,
            exact_types=tuple(
                recorder.exact_types | {dict, list} if recorder.is_json else recorder.exact_types
                for recorder in recorders
            ),
            json_positions=tuple(i for i, recorder in enumerate(recorders) if recorder.is_json),
        )
        self.row_getter: Callable[[dict[str, Any]], tuple[Any, ...]] = (
            itemgetter(*attnames) if len(attnames) > 1 else lambda state: (state[attnames[0]],)
        )
        self.mutable_positions = tuple(
            i
            for i, field in enumerate(concrete)
            if not type(field).__module__.startswith("django.") or field.get_internal_type() in MUTABLE_FIELD_TYPES
        )
        self.mutable_positions_by_names: dict[tuple[str, ...], Sequence[int]] = {}
        """Positions of mutable values in rows that were read in part, by the names of their fields."""
        self.generated_positions = tuple(i for i, field in enumerate(concrete) if field.generated)
        """Positions of the fields that the database computes."""
        self.db_returning_attnames = frozenset(field.attname for field in meta.db_returning_fields)
        """Attributes that an insert sets to values of the database, such as an automatic key."""
        self.pk_positions = tuple((attnames.index(field.attname), field.attname) for field in meta.pk_fields)
        """Positions and attributes of the primary key."""
        self.foreign_keys = {
            cast("Any", field).cache_name: (position, field.name)
            for position, field in enumerate(concrete)
            if field.is_relation and field.name not in self.fields.secret | self.fields.excluded
        }
        """Position and name of each foreign key, by the name under which its related object is cached."""
        self.has_str = model.__str__ is not Model.__str__
        self.pk_fields = list(meta.pk_fields)
        self.through_fields: list[Any] = (
            [] if relation or not meta.auto_created else [field for field in concrete if field.is_relation]
        )
        """The foreign keys of an automatic many-to-many table. Empty if they are not recorded."""
        self.pk_attname = meta.pk.attname if len(meta.pk_fields) == 1 else None
        """The attribute of the primary key; None if it is composite."""
        self.has_secret_pk = encoder.has_secret_pk(model, redactor)

    def _get_choices(self, field: Any) -> dict[Any, Any]:
        """Return the labels of a field's choices.

        Callable choices are not called: they may query, and what they return may change. Other choices of the
        application's own classes are evaluated without queries.
        """
        if not isinstance(field.choices, list | tuple | BaseChoiceIterator) or isinstance(
            field.choices, CallableChoiceIterator
        ):
            return {}
        try:
            return query_guard.call_without_queries(lambda: dict(field.flatchoices or ()), connection=None)
        except Exception as error:
            interrupts.raise_if_interrupt(error)
            self.is_complete = False
            logger.warning("The choices of %s.%s are recorded without labels.", self.label, field.name, exc_info=True)
            return {}

    def get_key(self, instance: Model) -> str:
        """Return the primary key of ``instance`` as text; empty if it has none."""
        value = instance.pk if self.pk_attname is None else instance.__dict__.get(self.pk_attname)
        if type(value) is int and not self.has_secret_pk:
            return str(value)
        if type(value) is str and self.pk_attname is not None:  # a UUID has several spellings
            try:
                value = self.pk_fields[0].to_python(value)
            except Exception as error:  # noqa: BLE001 - the field's own code; the text is then the key
                interrupts.raise_if_interrupt(error)
                return self.format_key(value)
        return self.format_key(value)

    def format_key(self, value: Any) -> str:
        """Return the value of a primary key as text."""
        if len(self.pk_fields) == 1 and not object_keys.has_text(value):
            value = _prepare_value(self.pk_fields[0], value)
        if self.has_secret_pk:
            return object_keys.key_to_text(value, secret=True)
        return object_keys.key_to_text(value, redact=self.fields.redactor.redact_data)

    def hides(self, name: str) -> bool:
        """Return True if the values of the field are not recorded, or if the model could not be described."""
        fields = getattr(self, "fields", None)
        return fields is None or name in fields.secret or name in fields.excluded

    def get_label(self, instance: Model, connection: BaseDatabaseWrapper | None) -> str:
        """Return ``str(instance)`` without secrets; empty if the model has no ``__str__`` or if it fails.

        Queries within it are blocked. At most 200 characters are returned.
        """
        if not self.has_str:
            return ""
        return query_guard.call_without_queries(self.build_label, instance, connection=connection)

    def build_label(self, instance: Model) -> str:
        """Return the label of ``instance`` within ``call_without_queries()``. The model has a ``__str__``."""
        state = instance.__dict__
        before = state.copy()
        try:
            text = str(instance)
        except Exception as error:  # noqa: BLE001 - the model's own __str__ may raise any exception
            interrupts.raise_if_interrupt(error)
            return ""
        finally:
            # A cached property would keep its present value, and an assignment would be saved later.
            if len(state) != len(before) or not all(map(is_, state.values(), before.values())):
                state.update(before)
                for name in state.keys() - before.keys():
                    del state[name]
        if self.fields.secret:
            text = self._mask_secrets(text, instance)
        return sanitize_text(self.fields.redactor.redact_text(text[:1000]))[:200]

    def _mask_secrets(self, text: str, instance: Model) -> str:
        state = instance.__dict__
        for name, attname in zip(self.fields.names, self.fields.attnames, strict=True):
            value = state.get(attname) if name in self.fields.secret else None
            if value and (secret := str(value)) in text:
                text = text.replace(secret, REDACTED)
        return text

    def get_values(self, instance: Model) -> Sequence[Any]:
        """Return the values of the concrete fields of ``instance``; ``UNKNOWN`` for deferred ones."""
        state = instance.__dict__
        try:
            return self.row_getter(state)
        except KeyError:
            return [state.get(attname, UNKNOWN) for attname in self.fields.attnames]


def get_labels(instances: Iterable[Model]) -> list[str]:
    """Return the label of each instance as ``get_label()`` does. To block queries once costs less than each time."""
    described = [(get_metadata(one.__class__), one) for one in instances]
    return query_guard.call_without_queries(
        lambda: [metadata.build_label(one) if metadata.has_str else "" for metadata, one in described], connection=None
    )


def _prepare_value(field: Any, value: Any) -> Any:
    """Return ``value`` as the field prepares it for the database, or ``value`` itself if that fails."""
    try:
        return field.get_db_prep_value(value, connections[DEFAULT_DB_ALIAS], prepared=False)
    except Exception as error:  # noqa: BLE001 - the field's own code
        interrupts.raise_if_interrupt(error)
        return value


def _is_scalar(field: Any) -> bool:
    """Return True if the values of ``field`` are those of one of Django's own scalar fields."""
    django_class = field_values.get_django_class(field_values.get_value_field(field))
    return django_class is not None and django_class.__name__ in SCALAR_FIELD_TYPES


def is_redacted_field(field: Any, model: type[Model], redactor: Redactor) -> bool:
    """Return True if the values of a field are never stored.

    The reason is its name, the setting of ``model``, of a parent or of the concrete model of a proxy, or a foreign key
    to an object whose key is secret.
    """
    return redactor.is_secret(field.attname) or encoder.is_secret_field(field, model, redactor)


def _get_model_labels(field: Any, model: type[Model]) -> set[str]:
    """Return labels of the models whose options apply to the field."""
    return {one._meta.label_lower for one in (model, field.model, model._meta.concrete_model or model)}


_model_options = conf.configured_models


class ModelOptions(TypedDict, total=False):
    """Keyword arguments of ``configure_model``."""

    exclude: list[str] | tuple[str, ...] | set[str] | frozenset[str]
    redact: list[str] | tuple[str, ...] | set[str] | frozenset[str]
    clear: list[str] | tuple[str, ...] | set[str] | frozenset[str]
    record: bool
    old_values: bool


def configure_model(model: type[Model], **options: Unpack[ModelOptions]) -> None:
    """Set how changes of one model are recorded. The setting's ``MODELS`` takes precedence.

    Call it in ``AppConfig.ready()``. Another call for the same model replaces the options of the first.

    Args:
        model: The model class.
        exclude: Names of fields that are not recorded.
        redact: Names of fields whose changes are recorded without the values.
        clear: Names of fields that a package encrypts and whose values are recorded in clear text.
        record: ``False`` records no events of the model.
        old_values: ``False`` does not keep the values of rows that are read. Events contain only new values.

    Raises:
        TypeError: An option is unknown or has a wrong type.
        ValueError: The model has no such field, or it is not stored in the model's table.
    """
    if not conf.is_valid_model_options(options):
        raise TypeError(
            f"configure_model() was given {options!r}; exclude=[...], redact=[...], clear=[...], record=False "
            "or old_values=False was expected."
        )
    names = get_recordable_fields(model)
    for field in (*options.get("exclude", ()), *options.get("redact", ()), *options.get("clear", ())):
        if field not in names:
            raise ValueError(
                f"{model._meta.label} has no field {field!r} that is recorded; it has {', '.join(sorted(names))}."
            )
    _model_options[model._meta.label_lower] = dict(options)
    clear_cache()


def get_recordable_fields(model: type[Model]) -> set[str]:
    """Return the names that ``exclude`` and ``redact`` accept: fields of the table, and the model's own
    many-to-many fields.
    """
    meta = model._meta
    return {field.name for field in (*meta.concrete_fields, *meta.local_many_to_many)}


def get_m2m_policy(through: type[Model]) -> str:
    """Return the option of the many-to-many field whose rows ``through`` holds, or an empty text."""
    return get_metadata(through).m2m_policy


def _find_m2m_policy(through: type[Model]) -> str:
    for option in ("exclude", "redact"):
        options = conf.get_fields_by_option(cast("Any", option))
        if not options:
            continue
        for model in apps.get_models():
            fields: list[Any] = list(model._meta.local_many_to_many)
            names = options.get(model._meta.label_lower, ())
            if any(field.name in names and field.remote_field.through is through for field in fields):
                return option
    return ""


def is_ignored(model: type[Model], config: conf.Config) -> bool:
    """Return True if the settings exclude ``model``. Signalbox's own models are always excluded."""
    meta = model._meta
    if meta.app_label == "signalbox":
        return True
    if processors.wants_sender(meta.label):
        return False
    if any(meta.app_label == name or meta.label_lower == name.lower() for name in config.IGNORE):
        return True
    return not _get_options(model).get("record", True)


def _get_options(model: type[Model]) -> dict[str, Any]:
    """Return the options of ``model``. A proxy inherits those of its concrete model."""
    meta = model._meta
    concrete = meta.concrete_model or model
    return {**conf.get_model_options(concrete._meta.label_lower), **conf.get_model_options(meta.label_lower)}


_metadata_cache: dict[type[Model], ModelMetadata] = {}
get_cached_metadata: Final = _metadata_cache.get
"""Return the metadata of a model that was described completely, otherwise None.

The method of the dict saves a call of a Python function for each row."""

_incomplete: dict[type[Model], tuple[float, ModelMetadata]] = {}
"""Models that could not be described completely, with the time to describe them again, in seconds."""

RETRY_SECONDS: Final = 60.0
"""Seconds until a model that could not be described is described again."""

HISTORICAL_MODULE: Final = "__fake__"
"""The module of the models that migrations use."""

_HISTORICAL_ATTRIBUTE: Final = "_signalbox_metadata"
"""On a model of a migration, which exists only during the migration: its metadata, with ``_cleared_count``."""

_cleared_count = 0


def get_metadata(model: type[Model]) -> ModelMetadata:
    """Return the metadata of ``model``."""
    metadata = _metadata_cache.get(model)
    if metadata is not None:
        return metadata
    if model.__module__ == HISTORICAL_MODULE:
        kept = model.__dict__.get(_HISTORICAL_ATTRIBUTE)
        if kept is None or kept[0] != _cleared_count:
            kept = _cleared_count, _describe(model)
            setattr(model, _HISTORICAL_ATTRIBUTE, kept)
        return cast("ModelMetadata", kept[1])
    incomplete = _incomplete.get(model)
    if incomplete is not None and time.monotonic() < incomplete[0]:
        return incomplete[1]
    metadata = _describe(model)
    if metadata.is_complete:
        _metadata_cache[model] = metadata
        _incomplete.pop(model, None)
    else:
        _incomplete[model] = time.monotonic() + RETRY_SECONDS, metadata
    return metadata


def _describe(model: type[Model]) -> ModelMetadata:
    try:
        return ModelMetadata(model, conf.get(), get_redactor())
    except Exception as error:  # a field's own code; a model that can't be described is not recorded
        interrupts.raise_if_interrupt(error)
        logger.exception("%s can't be recorded.", model)
        metadata = ModelMetadata.__new__(ModelMetadata)
        metadata.concrete_model, metadata.field_count = model, len(model._meta.concrete_fields)
        metadata.is_recorded = metadata.keeps_old_values = metadata.is_complete = False
        metadata.mutable_positions = ()
        metadata.m2m_policy = ""
        metadata.label, metadata.has_str = fit_column(model._meta.label, 200), False
        metadata.pk_attname, metadata.pk_fields, metadata.has_secret_pk = None, [], True
        return metadata


def clear_cache() -> None:
    """Describe models again, after a setting has changed."""
    global _cleared_count
    _cleared_count += 1
    _metadata_cache.clear()
    _incomplete.clear()
    reset_redactor()
