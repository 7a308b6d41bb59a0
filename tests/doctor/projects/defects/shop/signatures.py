from django.core.signals import request_started
from django.db.models.signals import post_delete, post_migrate, post_save
from django.dispatch import Signal, receiver

from .models import Order

paid = Signal()


@receiver(post_save, sender=Order)  # D008
def misspelt(sender, instance, create, **kwargs):
    pass


@receiver(post_save, sender=Order)  # D008
def never_filled(sender, instance, create=False, **kwargs):
    pass


@receiver(post_delete, sender=Order)  # D008
def not_sent(sender, instance, created, **kwargs):
    pass


@receiver(post_save, sender=Order)  # D008
def positional(sender, /, **kwargs):
    pass


@receiver(request_started)  # D008
def other_server(sender, scope, **kwargs):
    pass


@receiver(paid)  # D008
def custom(sender, order, amount, **kwargs):
    pass


@receiver(post_migrate)  # D008
def flushed(app_config, plan, **kwargs):
    print(app_config)


class Orders:
    @receiver(post_save, sender=Order)  # D008
    def on_save(self, sender, **kwargs):
        pass


def pay(order):
    paid.send(sender=Order, order=order)


def no_kwargs(sender, instance, created):  # D008
    pass


def keyword_only(*, sender, save=False, **kwargs):
    pass


def wants_more(sender, instance, /, *, total, **kwargs):  # D008 D008
    pass


class Listener:
    def on_save(self, sender, instance, create, **kwargs):  # D008
        pass

    def listen(self):
        post_save.connect(self.on_save, sender=Order)


def connect_later():
    """Not called: with DEBUG on Django itself refuses a receiver without **kwargs."""
    post_save.connect(no_kwargs, sender=Order)
    post_save.connect(keyword_only, sender=Order)
    post_save.connect(wants_more, sender=Order)
