"""Do what a visitor of the pages can't: bulk operations, a rollback, and what tests do."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import connection, transaction
from django.template.loader import render_to_string
from django.test.utils import override_settings, setup_test_environment, teardown_test_environment

from blog.models import Comment, Post


class Command(BaseCommand):
    help = "Send the signals, and do the bulk operations, that no page of this site leads to."

    def handle(self, *args: Any, **options: Any) -> None:
        author, _ = get_user_model().objects.get_or_create(username="tourist")
        self.bulk(author)
        self.undone(author)
        self.as_tests_do()
        connection.close()
        connection.ensure_connection()
        author.delete()

    def bulk(self, author: Any) -> None:
        """The operations for which Django sends no signal."""
        posts = Post.objects.bulk_create(Post(title=f"Stop {number}", author=author) for number in range(3))
        for post in posts:
            post.body = "A view."
        Post.objects.bulk_update(posts, ["body"])
        author.posts.update(body="The same view.")
        Comment.objects.bulk_create(Comment(post=post, text="Nice.") for post in posts)
        Comment.objects.filter(post__in=posts).delete()
        posts[0].publish()

    def undone(self, author: Any) -> None:
        """Saved, sent, and never there."""
        with transaction.atomic():
            Post.objects.create(title="A stop that isn't on the line", author=author)
            transaction.set_rollback(True)

    def as_tests_do(self) -> None:
        """Override a setting and render a template under Django's test tools."""
        with override_settings(LANGUAGE_CODE="cy"):
            pass
        setup_test_environment()
        try:
            render_to_string("blog/post.html", {"post": Post(title="Rendered", body="By a test.")})
        finally:
            teardown_test_environment()
