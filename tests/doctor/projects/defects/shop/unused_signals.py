from django.dispatch import Signal, receiver

from .models import Order

never_sent = Signal()  # D020
unused = Signal()  # D020
never_received = Signal()  # D021


@receiver(never_sent)
def waits(sender, **kwargs):
    pass


def tell():
    never_received.send(sender=Order)


class Machine:
    never_sent = Signal()  # D020
    started = Signal()  # D021

    def start(self):
        Machine.started.send(sender=Machine)


@receiver(Machine.never_sent)
def waits_too(sender, **kwargs):
    pass
