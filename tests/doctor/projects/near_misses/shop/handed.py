"""Signals that other code sends: by a bound method, by name, or in a package that is not an installed app."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import till.counter
from asgiref.sync import sync_to_async
from django.db import transaction
from django.dispatch import Signal, receiver
from django.utils.module_loading import import_string

from . import heard_of
from . import named as events

on_commit = Signal()
submitted = Signal()
bound = Signal()
by_name_of_its_method = Signal()
threaded = Signal()
listed = Signal()
imported = Signal()
sent_outside = Signal()
sent_by_its_module = Signal()


@receiver(
    [
        on_commit,
        submitted,
        bound,
        by_name_of_its_method,
        threaded,
        listed,
        imported,
        sent_outside,
        sent_by_its_module,
        events.opened,
        events.closed,
        heard_of.told,
    ]
)
def hears(sender, **kwargs):
    pass


def pay(order):
    transaction.on_commit(partial(on_commit.send, sender=None, order=order))
    ThreadPoolExecutor().submit(submitted.send, None)


_send = bound.send


def tell():
    _send(sender=None)
    quickly = by_name_of_its_method.send_robust
    quickly(sender=None)


async def tell_later():
    await sync_to_async(threaded.send)(sender=None)


ACTIONS = {"list": listed.send_robust}


def tell_by_name(name):
    import_string("shop.handed.imported").send(sender=None)
    getattr(events, name).send(sender=None)


count = till.counter.count
