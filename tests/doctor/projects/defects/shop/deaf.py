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


class Machine:
    unsent = Signal()  # D020
    started = Signal()  # D021

    def start(self):
        Machine.started.send(sender=Machine)


@receiver(Machine.unsent)
def waits_too(sender, **kwargs):
    pass
