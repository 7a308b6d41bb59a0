from django.db.models.signals import post_save
from django.dispatch import Signal, receiver

from .models import Order

shipped = Signal()
packed = Signal()


@receiver(post_save, sender=Order)  # D019
async def slow_bridge(sender, **kwargs):
    pass


@receiver(shipped)  # D019
async def no_bridge(sender, **kwargs):
    pass


@receiver(packed)  # D019
def thread(sender, **kwargs):
    pass


async def ship():
    shipped.send(sender=Order)
    await packed.asend(sender=Order)


class Asynchronous:
    async def __call__(self, sender, **kwargs):  # D019
        pass


asynchronous = Asynchronous()
post_save.connect(asynchronous, sender=Order)
