from django.dispatch import Signal, receiver

from .models import Order

unsent = Signal()  # D020
unsent_unheard = Signal()  # D020
unheard = Signal()  # D021


@receiver(unsent)
def waits(sender, **kwargs):
    pass


def tell():
    unheard.send(sender=Order)
