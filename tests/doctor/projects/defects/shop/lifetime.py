import functools
from functools import partial

from django.db import transaction
from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver

from . import handlers
from .models import Note, Order, Tag


def deleted(sender, **kwargs):
    pass


post_save.connect(deleted, sender=Order)  # D001
del deleted


@receiver(post_save, sender=Order)  # D002
def twin(sender, **kwargs):
    pass


@receiver(pre_save, sender=Order)
def twin(sender, **kwargs):
    pass


def rebound(sender, **kwargs):
    pass


post_save.connect(rebound, sender=Note)  # D002
rebound = None

for model in (Order, Note):

    @receiver(post_save, sender=model)  # D002
    def each(sender, **kwargs):
        pass


if Order:

    @receiver(post_save, sender=Tag)  # D002
    def chosen(sender, **kwargs):
        pass


def chosen(sender, **kwargs):
    pass


class Handler:
    def __call__(self, sender, **kwargs):
        pass

    def on_save(self, sender, **kwargs):
        pass


post_save.connect(lambda sender, **kwargs: None, sender=Tag)  # D003
post_save.connect(partial(twin, extra=1), sender=Tag)  # D003
post_save.connect(Handler().on_save, sender=Tag)  # D003
post_save.connect(Handler(), sender=Tag)  # D003
post_save.connect(functools.partial(twin, extra=2), sender=Tag)  # D003
post_save.connect(handlers.Handler().on_save, sender=Tag)  # D003
post_save.connect(handlers.Handler(), sender=Tag)  # D003


def connect():
    @receiver(post_save, sender=Tag)  # D003
    def inner(sender, **kwargs):
        pass

    def other(sender, **kwargs):
        pass

    handler = Handler()
    pre_save.connect(other, sender=Tag)  # D003
    pre_save.connect(handler.on_save, sender=Tag)  # D003


connect()


def make(extra):
    def made(sender, **kwargs):
        print(extra)

    return made


post_save.connect(make(1), sender=Tag)  # D003


class Connecting:
    def __init__(self):
        pre_save.connect(self.on_save, sender=Tag)  # D003

    def on_save(self, sender, **kwargs):
        pass


class Watching:
    def watch(self):
        pre_save.connect(self.on_save, sender=Tag)  # D003

    def on_save(self, sender, **kwargs):
        pass


def start():
    made = make(2)
    post_save.connect(made, sender=Tag)  # D003
    wrapped = functools.wraps(twin)(lambda *args, **kwargs: None)
    pre_save.connect(wrapped, sender=Tag)  # D003


def watch():
    watching = Watching()
    watching.watch()


Connecting()
start()
watch()


def connecting(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    post_save.connect(wrapper, sender=Tag)  # D003
    return function


@connecting
def undecorated(sender, **kwargs):
    pass


class Receivers:
    @staticmethod
    @receiver(post_save, sender=Tag)  # D002
    def on_save(sender, **kwargs):
        pass

    @staticmethod
    @receiver(pre_save, sender=Tag)
    def on_save(sender, **kwargs):
        pass


@receiver(post_save, sender=Tag)  # D002
@transaction.atomic
def atomic(sender, **kwargs):
    pass


@receiver(pre_save, sender=Tag)
@transaction.atomic
def atomic(sender, **kwargs):
    pass


@receiver(post_save, sender=Tag)  # D002
def opened(sender, **kwargs):
    pass


with open(__file__) as opened:
    pass
