from django.dispatch import Signal

opened = Signal()
