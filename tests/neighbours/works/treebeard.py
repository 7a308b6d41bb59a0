"""django-treebeard: trees of each kind, which write rows by statements of their own."""

from __future__ import annotations

from typing import Any

from django.db import models, transaction
from treebeard.al_tree import AL_Node
from treebeard.mp_tree import MP_Node
from treebeard.ns_tree import NS_Node

from tests.neighbours.observing import Observer
from tests.neighbours.works import common


class PathNode(MP_Node):
    title = models.CharField(max_length=50, unique=True)
    data = models.JSONField(default=dict)
    node_order_by = ["title"]

    def __str__(self) -> str:
        return self.title


class NestedNode(NS_Node):
    title = models.CharField(max_length=50, unique=True)
    data = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.title


class AdjacentNode(AL_Node):
    title = models.CharField(max_length=50, unique=True)
    data = models.JSONField(default=dict)
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children_set", db_index=True)
    sib_order = models.PositiveIntegerField()

    def __str__(self) -> str:
        return self.title


def tree(model: Any) -> common.Subject:
    return common.Subject(
        model=model,
        values=lambda text: {"title": text, "data": {"n": [1]}},
        change={"data": {"n": [2]}},
        create=lambda values: model.add_root(**values),
        bulk=False,
    )


def work(observe: Observer) -> None:
    """Do the work with a tree of each kind, then move and delete branches."""
    for model in (PathNode, NestedNode, AdjacentNode):
        common.everything(observe, tree(model))
        branches(observe, model)
    common.requests(observe)


def branches(observe: Observer, model: Any) -> None:
    step = f"{model.__name__}: "

    def grow() -> Any:
        root = model.add_root(title=f"root {observe.how}")
        for number in range(3):
            child = root.add_child(title=f"child {number} {observe.how}")
            root = model.objects.get(pk=root.pk)
            for other in range(2):
                model.objects.get(pk=child.pk).add_child(title=f"leaf {number} {other} {observe.how}")
        return dump()

    def dump() -> Any:
        return [(one.title, one.get_depth(), one.get_children_count()) for one in model.get_tree()]

    def named(text: str) -> Any:
        return model.objects.get(title=f"{text} {observe.how}")

    def move() -> Any:
        position = "sorted-child" if getattr(model, "node_order_by", None) else "last-child"
        named("child 0").move(named("child 2"), pos=position)
        return dump()

    def move_back() -> Any:
        with transaction.atomic():
            named("child 1").move(named("child 2"), pos="sorted-child" if model is PathNode else "first-child")
            transaction.set_rollback(True)
        return dump()

    def move_wrongly() -> Any:
        named("child 2").move(named("child 0"), pos="sorted-child" if model is PathNode else "first-child")

    observe(f"{step}grow", grow)
    observe(f"{step}move", move)
    observe(f"{step}move that is rolled back", move_back)
    observe(f"{step}move below itself", move_wrongly)
    observe(f"{step}dump and load", model.dump_bulk)
    observe(f"{step}load", lambda: model.load_bulk([{"data": {"title": f"loaded {observe.how}"}}]))
    observe(f"{step}delete of a branch", lambda: (named("child 2").delete(), dump()))
    observe(f"{step}delete of roots", lambda: (model.objects.filter(depth_of(model)).delete(), dump()))


def depth_of(model: Any) -> models.Q:
    return models.Q(title__startswith="root") if model is not AdjacentNode else models.Q(parent=None)
