from django.core.signals import request_started
from django.db.models.signals import post_migrate, post_save
from django.dispatch import Signal, receiver

from .models import Order

paid = Signal()
handed_on = Signal()
spread = Signal()


@receiver(post_save, sender=Order)
def spelt(sender, instance, created, **kwargs):
    pass


@receiver(post_save, sender=Order)
def own_default(sender, instance, notify=True, **kwargs):
    pass


@receiver(request_started)
def wsgi(sender, environ, **kwargs):
    pass


@receiver(paid)
def custom(sender, order, amount=None, **kwargs):
    pass


@receiver(handed_on)
def unknown(sender, whatever, **kwargs):
    pass


@receiver(post_migrate)
def flushed(app_config, plan=None, **kwargs):
    print(app_config)


@receiver(spread)
def any_of_them(sender, whatever, **kwargs):
    pass


@receiver(post_save, sender=Order)
def by_keyword(*, sender, instance, created=None, **kwargs):
    pass


class Orders:
    @staticmethod
    @receiver(post_save, sender=Order)
    def on_save(sender, **kwargs):
        pass


def pay(order):
    paid.send(sender=Order, order=order)
    paid.send(sender=Order, order=order, amount=1)
    send(handed_on, whatever=1)
    spread.send(sender=Order, **vars(order))


def send(signal, **arguments):
    signal.send(sender=None, **arguments)
