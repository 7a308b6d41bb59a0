"""Run by hand: nothing has to import it."""

from django.db.models.signals import post_save

from .models import Order


def on_save(sender, **kwargs):
    pass


post_save.connect(on_save, sender=Order)

if __name__ == "__main__":
    Order().save()
