"""The views of every site, with one kind of work each."""

from __future__ import annotations

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from tests.neighbours.works.models import Author, Book, Tag


def work(text: str) -> list[object]:
    """Write in each way, and return what the database answered."""
    writer, created = Author.objects.get_or_create(name="Of requests")
    book = Book.objects.create(title=text, author=writer)
    book.kind = Book.Kind.POEMS
    book.save()
    changed = Book.objects.filter(pk=book.pk).update(kind=Book.Kind.NOVEL)
    books = Book.objects.bulk_create([Book(title=f"{text} {n}", author=writer) for n in range(3)])
    book.tags.add(Tag.objects.get_or_create(name="Of requests")[0])
    with transaction.atomic():
        books[0].delete()
    deleted = Book.objects.filter(title__startswith=f"{text} ").delete()
    removed, _ = book.delete()
    return [created, changed, len(books), deleted, removed, Book.objects.filter(author=writer).count()]


@csrf_exempt
def write(request: HttpRequest) -> HttpResponse:
    return JsonResponse(work(f"By {request.method}"), safe=False)


@transaction.atomic
def in_transaction(request: HttpRequest) -> HttpResponse:
    return JsonResponse(work("In a transaction"), safe=False)


def rolled_back(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        found = work("Rolled back")
        transaction.set_rollback(True)
    return JsonResponse(found, safe=False)


def failing(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        work("Failing")
        raise LookupError("The view fails.")


def failing_query(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT missing FROM nowhere")
    return HttpResponse()


async def asynchronous(request: HttpRequest) -> HttpResponse:
    writer = await Author.objects.acreate(name=f"Asynchronous {await Author.objects.acount()}")
    await Author.objects.filter(pk=writer.pk).aupdate(name=f"{writer.name} changed")
    await writer.arefresh_from_db()
    name = writer.name
    await writer.adelete()
    return HttpResponse(name)
