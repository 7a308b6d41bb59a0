"""Posts, their tags and their comments."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from blog.own_signals import post_published


class Tag(models.Model):
    name = models.CharField(max_length=50, unique=True)

    def __str__(self) -> str:
        return self.name


class Post(models.Model):
    title = models.CharField(max_length=200)
    body = models.TextField(blank=True)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="posts")
    tags = models.ManyToManyField(Tag, blank=True, related_name="posts")
    published = models.BooleanField(default=False, editable=False)

    def __str__(self) -> str:
        return self.title

    def publish(self) -> None:
        """Publish the post and say so; a published post stays as it is."""
        if self.published:
            return
        self.published = True
        self.save(update_fields=["published"])
        post_published.send_robust(sender=type(self), post=self)


class Comment(models.Model):
    post = models.ForeignKey(Post, on_delete=models.CASCADE, related_name="comments")
    text = models.TextField()

    def __str__(self) -> str:
        return self.text[:50]
