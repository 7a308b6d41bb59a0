from django.contrib.auth.models import AbstractUser
from quiet.signals import loaded


class Member(AbstractUser):
    pass


loaded.send(sender=Member)
