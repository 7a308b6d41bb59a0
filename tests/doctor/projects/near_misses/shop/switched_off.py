"""Imported only where a setting says so, and not here."""

from django.contrib.auth.signals import user_login_failed
from django.db.models.signals import post_save
from django.dispatch import receiver


@receiver(user_login_failed)
def on_failed_login(sender, credentials, **kwargs):
    print(credentials)


post_save.connect(lambda sender, **kwargs: None)
