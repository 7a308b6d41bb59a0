"""Django REST framework: the responses of a resource with every method."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.urls import include, path
from rest_framework import decorators, exceptions, permissions, response, routers, serializers, test, viewsets

from tests.neighbours.observing import Observer
from tests.neighbours.works import books
from tests.neighbours.works.models import Book, Chapter


class ChapterSerializer(serializers.ModelSerializer):
    class Meta:
        model = Chapter
        fields = ["title"]


class BookSerializer(serializers.ModelSerializer):
    chapters = ChapterSerializer(many=True, required=False)

    class Meta:
        model = Book
        fields = "__all__"

    def create(self, validated_data: Any) -> Any:
        chapters = validated_data.pop("chapters", [])
        book = super().create(validated_data)
        Chapter.objects.bulk_create([Chapter(book=book, **chapter) for chapter in chapters])
        return book

    def update(self, instance: Any, validated_data: Any) -> Any:
        validated_data.pop("chapters", None)
        return super().update(instance, validated_data)


class BookViewSet(viewsets.ModelViewSet):
    queryset = Book.objects.order_by("pk")
    serializer_class = BookSerializer
    permission_classes = [permissions.IsAuthenticatedOrReadOnly]

    @decorators.action(detail=True, methods=["post"])
    @transaction.atomic
    def refuse(self, request: Any, pk: Any) -> Any:
        self.get_queryset().filter(pk=pk).update(title="Refused")
        raise exceptions.PermissionDenied

    @decorators.action(detail=False, methods=["post"])
    def empty(self, request: Any) -> Any:
        return response.Response(self.get_queryset().filter(title__startswith="Api").delete())


router = routers.DefaultRouter()
router.register("books", BookViewSet)


def paths() -> list[Any]:
    return [path("api/", include(router.urls))]


def work(observe: Observer) -> None:
    """Do the work with books, and send requests to the resource."""
    books.everything(observe)
    writer = books.author()
    client = test.APIClient(raise_request_exception=False)
    tag = books.BOOKS.related(f"Of the API, {observe.how}")
    new = {"title": f"Api, {observe.how}", "author": writer.pk, "tags": [tag.pk], "chapters": [{"title": "One"}]}

    def send(method: str, where: str, data: Any = None) -> Any:
        found = getattr(client, method)(where, data, format="json")
        return found, getattr(found, "data", None)

    observe("post without a login", lambda: send("post", "/api/books/", new))
    client.force_authenticate(User.objects.create_superuser(f"admin {observe.how}"))
    observe("post", lambda: send("post", "/api/books/", new))
    one = f"/api/books/{Book.objects.latest('pk').pk}/"
    observe("post of the same", lambda: send("post", "/api/books/", new))
    observe("get", lambda: send("get", one))
    observe("list", lambda: send("get", "/api/books/"))
    observe("put", lambda: send("put", one, {**new, "title": f"Api put, {observe.how}", "data": {"n": 1}}))
    observe("patch", lambda: send("patch", one, {"kind": "poems", "tags": []}))
    observe("patch that is wrong", lambda: send("patch", one, {"kind": "wrong"}))
    observe("refused action", lambda: send("post", f"{one}refuse/"))
    observe("options", lambda: send("options", one))
    observe("delete", lambda: send("delete", one))
    observe("delete again", lambda: send("delete", one))
    observe("action that deletes", lambda: send("post", "/api/books/empty/"))
