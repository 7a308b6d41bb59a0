# mypy: ignore-errors
from django.dispatch import Signal

opened = Signal()
