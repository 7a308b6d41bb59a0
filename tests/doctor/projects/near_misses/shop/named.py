from django.dispatch import Signal

opened = Signal()
closed = Signal()
