from django.dispatch import Signal

told = Signal()
