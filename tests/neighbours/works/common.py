"""The work that is done with the models of every site: each kind of write, read, transaction and failure."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from django.core import serializers
from django.db import connection, models, transaction
from django.test import Client

from tests.neighbours.observing import Observer

REQUESTS = (
    ("get", "/write/"),
    ("post", "/write/"),
    ("get", "/transaction/"),
    ("get", "/rollback/"),
    ("get", "/failure/"),
    ("get", "/query-failure/"),
    ("get", "/asynchronous/"),
    ("get", "/missing/"),
)


class Undone(Exception):
    """Ends a transaction that is meant to be rolled back."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that the work is done with, and the values of its objects."""

    model: Any
    values: Callable[[str], Mapping[str, Any]]
    """The values of the object whose unique field holds the text that is given."""
    change: Mapping[str, Any]
    """Other values, for the fields that updates write."""
    unique: str = "title"
    relation: str = ""
    """The many-to-many field."""
    related: Callable[[str], Any] = str
    """Makes an object for the many-to-many field."""
    create: Callable[[Mapping[str, Any]], Any] | None = None
    """Makes and saves an object, where the model does not create its objects by ``save()``."""
    bulk: bool = True
    """Whether objects may be created by ``bulk_create()``."""
    ignore: bool = True
    """Whether ``bulk_create(ignore_conflicts=True)`` works for the model."""
    updates: Mapping[str, Any] | None = None
    """Values for ``update()``, where these are not ``change``."""

    @property
    def objects(self) -> Any:
        return self.model._default_manager

    def made(self, text: str) -> Any:
        """Return an object that is not saved."""
        return self.model(**self.values(text))

    def saved(self, text: str) -> Any:
        """Return a new object."""
        if self.create is not None:
            return self.create(self.values(text))
        instance = self.made(text)
        instance.save()
        return instance

    def get(self, text: str) -> Any:
        return self.objects.get(**{self.unique: text})

    def named(self, *texts: str) -> Any:
        """Return the queryset of the objects whose unique field holds one of ``texts``."""
        return self.objects.filter(**{f"{self.unique}__in": texts}).order_by("pk")

    def changed(self, instance: Any) -> Any:
        for name, value in self.change.items():
            setattr(instance, name, value)
        return instance


def everything(observe: Observer, subject: Subject) -> None:
    """Do all of the work."""
    label = f"{subject.model._meta.model_name} {observe.how}"
    saves(observe, subject, label)
    if subject.bulk:
        bulk(observe, subject, label)
    if subject.relation:
        relations(observe, subject, label)
    transactions(observe, subject, label)
    failures(observe, subject, label)
    reads(observe, subject, label)
    deletes(observe, subject, label)


def saves(observe: Observer, subject: Subject, label: str) -> None:
    """Create, change and refresh single objects in autocommit."""
    texts = [f"{label} {number}" for number in range(3)]
    names = sorted(subject.change)
    step = f"{subject.model.__name__}: "

    def save_some() -> Any:
        instance = subject.changed(subject.get(texts[1]))
        instance.save(update_fields=names)
        return instance

    def save_deferred() -> Any:
        instance = subject.objects.only("pk").get(**{subject.unique: texts[1]})
        setattr(instance, names[0], subject.change[names[0]])
        instance.save()
        return instance

    def save_copy() -> Any:
        instance = subject.get(texts[0])
        twin = copy.copy(instance)
        deep = copy.deepcopy(instance)
        thawed = pickle.loads(pickle.dumps(instance))
        subject.changed(thawed).save()
        instance.refresh_from_db()
        return [sorted(set(vars(one)) - {"_state"}) for one in (instance, twin, deep, thawed)], instance, thawed

    def refresh() -> Any:
        instance = subject.get(texts[0])
        subject.changed(instance)
        instance.refresh_from_db(fields=names)
        return instance

    def save_asynchronously() -> Any:
        async def save() -> Any:
            instance = await subject.objects.aget(**{subject.unique: texts[2]})
            await subject.changed(instance).asave()
            return instance

        return async_to_sync(save)()

    def serialized() -> str:
        text: str = serializers.serialize("json", subject.named(texts[2]))
        for item in serializers.deserialize("json", text):
            item.save()
        return text

    for text in texts:
        observe(f"{step}create {text[-1]}", lambda text=text: subject.saved(text))
    observe(f"{step}save", lambda: subject.changed(subject.get(texts[0])).save())
    observe(f"{step}save of nothing new", lambda: subject.get(texts[0]).save())
    observe(f"{step}save of some fields", save_some)
    observe(f"{step}save of a deferred object", save_deferred)
    observe(f"{step}save of a copy", save_copy)
    observe(f"{step}refresh", refresh)
    observe(f"{step}asynchronous save", save_asynchronously)
    observe(f"{step}serialization", serialized)
    if subject.create is None:
        defaults = {name: value for name, value in subject.values("").items() if name != subject.unique}
        key = {subject.unique: f"{label} 3"}
        observe(f"{step}get_or_create 1", lambda: subject.objects.get_or_create(defaults, **key))
        observe(f"{step}get_or_create 2", lambda: subject.objects.get_or_create(defaults, **key))
        observe(f"{step}update_or_create", lambda: subject.objects.update_or_create(dict(subject.change), **key))


def bulk(observe: Observer, subject: Subject, label: str) -> None:
    """Write many objects by one statement."""
    texts = [f"{label} bulk {number}" for number in range(8)]
    names = sorted(subject.change)
    step = f"{subject.model.__name__}: "

    def update_objects() -> Any:
        instances = [subject.changed(instance) for instance in subject.named(*texts[:4])]
        return subject.objects.bulk_update(instances, names), instances

    observe(f"{step}bulk_create", lambda: subject.objects.bulk_create([subject.made(text) for text in texts[:4]]))
    observe(
        f"{step}bulk_create in batches",
        lambda: subject.objects.bulk_create([subject.made(text) for text in texts[4:6]], batch_size=1),
    )
    if subject.ignore:
        observe(
            f"{step}bulk_create that ignores conflicts",
            lambda: len(
                subject.objects.bulk_create([subject.made(text) for text in texts[5:7]], ignore_conflicts=True)
            ),
        )
    observe(f"{step}bulk_create of nothing", lambda: subject.objects.bulk_create([]))
    observe(f"{step}bulk_create that fails", lambda: subject.objects.bulk_create([subject.made(texts[0])]))
    observe(f"{step}bulk_update", update_objects)
    updates = dict(subject.change if subject.updates is None else subject.updates)
    observe(f"{step}update", lambda: subject.named(*texts[2:5]).update(**updates))
    observe(f"{step}update of none", lambda: subject.named("none").update(**updates))
    observe(
        f"{step}update by an expression",
        lambda: subject.named(*texts[:2]).update(
            **{subject.unique: models.functions.Concat(models.F(subject.unique), models.Value(" more"))}
        ),
    )
    observe(f"{step}update that fails", lambda: subject.named(*texts[2:4]).update(**{subject.unique: texts[4]}))
    observe(f"{step}what was written", lambda: list(subject.objects.order_by("pk")))


def relations(observe: Observer, subject: Subject, label: str) -> None:
    """Change a many-to-many relation from both of its sides."""
    step = f"{subject.model.__name__}: "
    others = [subject.related(f"{label} other {number}") for number in range(4)]
    instance = subject.saved(f"{label} related")
    manager = getattr(instance, subject.relation)
    back = subject.model._meta.get_field(subject.relation).remote_field.get_accessor_name()

    def rolled_back() -> Any:
        with contextlib.suppress(Undone), transaction.atomic():
            manager.add(others[3])
            raise Undone
        return list(manager.order_by("pk"))

    observe(f"{step}add", lambda: manager.add(*others[:2]))
    observe(f"{step}add again", lambda: manager.add(*others[:3]))
    observe(f"{step}remove", lambda: manager.remove(others[0], others[3]))
    observe(f"{step}set", lambda: manager.set(others[1:]))
    observe(f"{step}add that is rolled back", rolled_back)
    observe(f"{step}create in a relation", lambda: manager.create(name=f"{label} other 9"))
    if back:
        observe(f"{step}add from the other side", lambda: getattr(others[0], back).add(instance))
        observe(f"{step}remove from the other side", lambda: getattr(others[0], back).remove(instance.pk))
    observe(f"{step}prefetched", lambda: [list(one.tags.all()) for one in prefetched(subject, f"{label} related")])
    observe(f"{step}clear", manager.clear)
    observe(f"{step}what is related", lambda: list(manager.order_by("pk")))


def prefetched(subject: Subject, text: str) -> Any:
    return subject.named(text).prefetch_related(subject.relation)


def transactions(observe: Observer, subject: Subject, label: str) -> None:
    """Commit and roll back, with savepoints and by hand."""
    step = f"{subject.model.__name__}: "
    texts = [f"{label} transaction {number}" for number in range(9)]

    @contextlib.contextmanager
    def undone(**options: Any) -> Iterator[None]:
        with contextlib.suppress(Undone), transaction.atomic(**options):
            yield
            raise Undone

    def committed() -> Any:
        done: list[str] = []
        with transaction.atomic():
            instance = subject.saved(texts[0])
            transaction.on_commit(lambda: done.append("first"))
            subject.changed(instance).save()
            with transaction.atomic():
                subject.named(texts[0]).update(**{subject.unique: texts[1]})
                transaction.on_commit(lambda: done.append("second"))
            inside = list(done)
        return inside, done, instance

    def rolled_back() -> Any:
        done: list[str] = []
        with undone():
            instance = subject.saved(texts[2])
            transaction.on_commit(lambda: done.append("never"))
            subject.named(texts[1]).update(**{subject.unique: texts[2] + "x"})
            subject.named(texts[1]).delete()
        return done, instance, list(subject.named(*texts))

    def without_savepoint() -> Any:
        with transaction.atomic():
            subject.saved(texts[3])
            with undone():
                subject.saved(texts[4])
                subject.named(texts[3]).delete()
            with undone(savepoint=False):
                subject.saved(texts[4])
            return connection.needs_rollback

    def nested() -> Any:
        with transaction.atomic():
            subject.saved(texts[5])
            savepoint = transaction.savepoint()
            subject.saved(texts[6])
            transaction.savepoint_rollback(savepoint)
            savepoint = transaction.savepoint()
            subject.changed(subject.get(texts[5])).save()
            transaction.savepoint_commit(savepoint)
        return list(subject.named(*texts))

    def by_hand() -> Any:
        found = []
        transaction.set_autocommit(False)
        try:
            subject.saved(texts[7])
            found.append(transaction.get_autocommit())
            transaction.rollback()
            subject.saved(texts[8])
            transaction.commit()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        return found, list(subject.named(*texts))

    def durable() -> Any:
        with transaction.atomic(durable=True):
            subject.changed(subject.get(texts[8])).save()
        with transaction.atomic(), transaction.atomic(durable=True):
            pass

    def locked() -> Any:
        with transaction.atomic():
            instance = subject.objects.select_for_update().get(**{subject.unique: texts[8]})
            subject.changed(instance).save()
            return instance

    observe(f"{step}transaction", committed)
    observe(f"{step}rollback", rolled_back)
    observe(f"{step}rollback without a savepoint", without_savepoint)
    observe(f"{step}rollback to a savepoint", nested)
    observe(f"{step}transaction by hand", by_hand)
    observe(f"{step}durable transaction", durable)
    observe(f"{step}select_for_update", locked)


def failures(observe: Observer, subject: Subject, label: str) -> None:
    """Send what the database refuses, and raise exceptions in receivers."""
    step = f"{subject.model.__name__}: "
    texts = [f"{label} failing {number}" for number in range(4)]
    observe(f"{step}one to fail with", lambda: subject.saved(texts[0]))

    def raw(statement: str, *parameters: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    def broken() -> Any:
        with transaction.atomic():
            with contextlib.suppress(Exception):
                subject.saved(texts[0])
            return list(subject.named(*texts))

    def repaired() -> Any:
        with transaction.atomic():
            with contextlib.suppress(Exception), transaction.atomic():
                subject.saved(texts[0])
            subject.saved(texts[1])
        return list(subject.named(*texts))

    def failing_expression() -> Any:
        instance = subject.get(texts[0])
        setattr(instance, subject.unique, models.Func(function="nowhere"))
        instance.save()

    def refused(signal: str, action: Callable[[], Any]) -> Callable[[], Any]:
        def act() -> Any:
            observe.refusing = signal
            try:
                return action()
            finally:
                observe.refusing = ""

        return act

    observe(f"{step}create that fails", lambda: subject.saved(texts[0]))
    observe(f"{step}after a create that fails", lambda: connection.in_atomic_block)
    observe(f"{step}force_update of none", lambda: subject.made(texts[2]).save(force_update=True))
    observe(f"{step}failing statement", lambda: raw("SELECT missing FROM nowhere"))
    observe(f"{step}save of a failing expression", failing_expression)
    observe(f"{step}failing parameter", lambda: subject.objects.filter(pk="word").update(**subject.change))
    observe(f"{step}failing query", lambda: list(subject.objects.extra(where=["nowhere = 1"])))
    observe(f"{step}failing update", lambda: subject.objects.extra(where=["nowhere = 1"]).update(**subject.change))
    observe(f"{step}failing delete", lambda: subject.objects.extra(where=["nowhere = 1"]).delete())
    observe(f"{step}transaction that is broken", broken)
    observe(f"{step}transaction that goes on", repaired)
    observe(f"{step}pre_save that refuses", refused("pre_save", lambda: subject.saved(texts[2])))
    observe(f"{step}post_save that refuses", refused("post_save", lambda: subject.saved(texts[3])))
    observe(f"{step}post_delete that refuses", refused("post_delete", lambda: subject.get(texts[1]).delete()))
    observe(f"{step}what is left", lambda: list(subject.named(*texts)))


def reads(observe: Observer, subject: Subject, label: str) -> None:
    """Read in each way."""
    step = f"{subject.model.__name__}: "
    objects = subject.objects.order_by("pk")
    table = connection.ops.quote_name(subject.model._meta.db_table)
    observe(f"{step}list", lambda: list(objects.all()))
    observe(f"{step}values", lambda: list(objects.values()))
    observe(f"{step}iterator", lambda: list(objects.iterator(chunk_size=3)))
    observe(f"{step}in_bulk", lambda: objects.in_bulk([one.pk for one in objects[:3]]))
    observe(f"{step}first, last, count", lambda: (objects.first(), objects.last(), objects.count(), objects.exists()))
    observe(f"{step}deferred", lambda: [str(one) for one in objects.only("pk")[:3]])
    observe(f"{step}raw", lambda: list(subject.model.objects.raw(f"SELECT * FROM {table} ORDER BY 1")))
    observe(f"{step}aggregate", lambda: objects.aggregate(models.Count("pk"), models.Max("pk")))
    observe(f"{step}missing", lambda: subject.get(f"{label} nothing"))


def deletes(observe: Observer, subject: Subject, label: str) -> None:
    """Delete objects, singly and together."""
    step = f"{subject.model.__name__}: "
    texts = [f"{label} {number}" for number in range(4)]

    def delete() -> Any:
        instance = subject.get(texts[0])
        return instance.delete(), instance

    def delete_unsaved() -> Any:
        return subject.made(texts[0]).delete()

    def delete_twice() -> Any:
        instance, twin = subject.get(texts[1]), subject.get(texts[1])
        return instance.delete(), twin.delete()

    observe(f"{step}delete", delete)
    observe(f"{step}delete twice", delete_twice)
    observe(f"{step}delete of an object that is not saved", delete_unsaved)
    observe(f"{step}delete of a queryset", lambda: subject.named(*texts).delete())
    observe(f"{step}delete of none", lambda: subject.named("none").delete())
    observe(f"{step}fast delete", lambda: subject.named(texts[3])._raw_delete(connection.alias))
    observe(f"{step}what remains", lambda: list(subject.objects.order_by("pk")))


def requests(observe: Observer, *requests: tuple[str, str], host: str = "testserver") -> None:
    """Send requests, each a method and a path, through the test client; without any, to each path of every site."""
    client = Client(raise_request_exception=False, headers={"host": host})
    for method, path in requests or REQUESTS:
        observe(f"{method} {path}", partial(getattr(client, method), path))
