from django.dispatch import Signal, receiver

from .models import Order
from .tools import send_quietly

sent = Signal()
handed_on = Signal()


@receiver([sent, handed_on])
def hears(sender, **kwargs):
    pass


def tell():
    sent.send(sender=Order)
    send_quietly(handed_on)
