"""The app's part of the admin."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from blog.models import Comment, Post, Tag


class CommentInline(admin.TabularInline):
    model = Comment
    extra = 0


@admin.register(Post)
class PostAdmin(admin.ModelAdmin):
    list_display = ("title", "author", "published")
    # A field of the form and no inline: rows of the through model saved by an inline send no m2m_changed.
    filter_horizontal = ("tags",)
    readonly_fields = ("published",)
    inlines = (CommentInline,)
    actions = ("publish",)

    @admin.action(description="Publish selected posts")
    def publish(self, request: HttpRequest, queryset: QuerySet[Post]) -> None:
        for post in queryset:
            post.publish()


@admin.register(Tag)
class TagAdmin(admin.ModelAdmin):
    list_display = ("name",)
