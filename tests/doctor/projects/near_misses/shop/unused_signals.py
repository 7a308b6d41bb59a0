from django.dispatch import Signal, receiver

from .models import Order
from .tools import send_quietly

sent = Signal()
handed_on = Signal()
by_class = Signal()
by_annotated_class = Signal()
by_annotated_name = Signal()
another_name: Signal = by_annotated_name


@receiver([sent, handed_on, by_class, by_annotated_class, by_annotated_name])
def hears(sender, **kwargs):
    pass


def tell():
    sent.send(sender=Order)
    send_quietly(handed_on)
    another_name.send(sender=Order)


class Base:
    signal = None

    def tell(self):
        self.signal.send(sender=type(self))


class First(Base):
    signal = by_class


class Second(Base):
    signal: Signal = by_annotated_class


class Machine:
    started = Signal()
    stopped = Signal()

    def start(self):
        self.started.send(sender=Machine)


def stop(machine):
    machine.stopped.send(sender=Machine)


@receiver(Machine.stopped)
def hears_too(sender, **kwargs):
    pass
