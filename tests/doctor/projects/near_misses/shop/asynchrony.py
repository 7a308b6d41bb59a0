from asgiref.sync import markcoroutinefunction
from django.contrib.auth.signals import user_logged_in
from django.dispatch import Signal, receiver

from .models import Order

shipped = Signal()
packed = Signal()


@receiver(user_logged_in)
async def rare(sender, **kwargs):
    pass


@receiver(shipped)
async def awaited(sender, **kwargs):
    pass


@receiver(packed)
def plain(sender, **kwargs):
    pass


async def ship():
    await shipped.asend(sender=Order)


def pack():
    packed.send(sender=Order)


class Marked:
    def __init__(self):
        markcoroutinefunction(self)

    async def __call__(self, sender, **kwargs):
        pass


marked = Marked()
user_logged_in.connect(marked)
