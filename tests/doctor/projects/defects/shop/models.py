from django.conf import settings
from django.db import models


class Dated(models.Model):
    at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True


class Tag(models.Model):
    name = models.CharField(max_length=20)

    objects = models.Manager()
    named = models.Manager()


class Order(Dated):
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    tags = models.ManyToManyField(Tag)
    total = models.IntegerField(default=0)


class Express(Order):
    class Meta:
        proxy = True


class Note(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="notes")
    text = models.TextField()
