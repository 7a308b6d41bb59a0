from django.dispatch import Signal

opened = Signal()
loaded = Signal()
