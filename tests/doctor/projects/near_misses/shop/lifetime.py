import functools
from functools import partial

from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver

from . import handlers
from .models import Note, Order, Tag

kept = []


def deleted(sender, **kwargs):
    pass


post_save.connect(deleted, sender=Order, weak=False)
del deleted


def gone(sender, **kwargs):
    pass


post_save.connect(gone, sender=Order)
post_save.disconnect(gone, sender=Order)


@receiver(post_save, sender=Order, weak=False)
def twin(sender, **kwargs):
    pass


@receiver(pre_save, sender=Order)
def twin(sender, **kwargs):
    pass


@receiver(post_save, sender=Note)
def listed(sender, **kwargs):
    pass


kept.append(listed)


@receiver(pre_save, sender=Note)
def listed(sender, **kwargs):
    pass


if Order:

    @receiver(post_save, sender=Tag)
    def either(sender, **kwargs):
        pass

else:

    @receiver(pre_save, sender=Tag)
    def either(sender, **kwargs):
        pass


@receiver(post_save, sender=Tag)
def alone(sender, **kwargs):
    def alone():  # another scope
        pass


class Handler:
    def __call__(self, sender, **kwargs):
        pass

    def on_save(self, sender, **kwargs):
        pass


handler = Handler()
given = partial(handler.on_save, extra=1)
post_save.connect(lambda sender, **kwargs: None, sender=Tag, weak=False)
post_save.connect(given, sender=Tag)
post_save.connect(handler.on_save, sender=Tag)
post_save.connect(handler, sender=Tag)


class Registered:
    all = []

    def __init__(self):
        self.all.append(self)

    def __call__(self, sender, **kwargs):
        pass

    def on_save(self, sender, **kwargs):
        pass


pre_save.connect(handlers.Single(), sender=Tag)
pre_save.connect(handlers.Single().on_save, sender=Tag)
pre_save.connect(functools.partial(handler, extra=1), sender=Tag, weak=False)
pre_save.connect(Registered(), sender=Tag)
pre_save.connect(Registered().on_save, sender=Tag)


def make(model):
    def inner(sender, **kwargs):
        pass

    post_save.connect(inner, sender=model)
    return inner


made = make(Note)


def watch(call):
    """For the time of a call."""

    def on_save(sender, **kwargs):
        pass

    post_save.connect(on_save, sender=Note)
    call()


watch(int)


def make_and_keep(extra):
    def made(sender, **kwargs):
        print(extra)

    kept.append(made)
    return made


@functools.lru_cache
def make_once(extra):
    def made(sender, **kwargs):
        print(extra)

    return made


post_save.connect(make_and_keep(1), sender=Tag)
post_save.connect(make_once(1), sender=Tag)


class Connecting:
    def __init__(self):
        pre_save.connect(self.on_save, sender=Tag)

    def on_save(self, sender, **kwargs):
        pass


connecting = Connecting()


class Watching:
    def __init__(self):
        kept.append(self)
        pre_save.connect(self.on_save, sender=Tag)

    def on_save(self, sender, **kwargs):
        pass


class Stopping:
    def watch(self):
        pre_save.connect(self.on_tag, sender=Tag)

    def stop(self):
        pre_save.disconnect(self.on_tag, sender=Tag)

    def on_tag(self, sender, **kwargs):
        pass


def start():
    if not kept:
        Connecting()
    wrapped = functools.wraps(deleted_before)(lambda *args, **kwargs: None)
    post_save.connect(wrapped, sender=Tag)
    return wrapped


def deleted_before(sender, **kwargs):
    pass


Watching()
Stopping().watch()
started = start()


def connecting_and_returning(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    post_save.connect(wrapper, sender=Tag)
    return wrapper


@connecting_and_returning
def decorated(sender, **kwargs):
    pass


class Receivers:
    @staticmethod
    @receiver(post_save, sender=Tag)
    def on_save(sender, **kwargs):
        pass

    @staticmethod
    @receiver(pre_save, sender=Tag)
    def on_update(sender, **kwargs):
        pass


@receiver(post_save, sender=Tag)
@functools.lru_cache
def cached(sender, **kwargs):
    pass
