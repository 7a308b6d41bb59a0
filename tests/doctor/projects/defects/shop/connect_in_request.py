from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import Order


class Watcher:
    def on_save(self, sender, **kwargs):  # D018
        pass


for _ in range(30):
    post_save.connect(Watcher().on_save, sender=Order, weak=False)
