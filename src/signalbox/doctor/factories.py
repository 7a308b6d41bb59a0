"""Functions that make another function, return it and keep it nowhere."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from signalbox.doctor.source_model import Function


def find_factory_product(factory: Function, functions_by_name: Mapping[str, Function]) -> Function | None:
    """Return the function that each call of ``factory`` makes anew; ``None`` if it returns another thing, or keeps it.

    Args:
        factory: What is called.
        named: Functions by dotted name.
    """
    if factory.decorators or factory.is_coroutine or isinstance(factory.node, ast.Lambda):
        return None  # a decorator may keep what is returned, as lru_cache does
    inside = list(ast.walk(factory.node))
    if any(isinstance(node, ast.Yield | ast.YieldFrom | ast.Global | ast.Nonlocal) for node in inside):
        return None
    last = factory.body[-1]
    if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Name):
        return None
    made = functions_by_name.get(f"{factory.dotted_name}.<locals>.{last.value.id}")
    if made is None or made.has_unknown_decorator or made.enclosing_function is not factory:
        return None
    own = {id(node) for node in ast.walk(made.node)}
    returns = [node for node in inside if isinstance(node, ast.Return) and id(node) not in own]
    uses = [node for node in inside if isinstance(node, ast.Name) and node.id == made.name]
    return made if len(returns) == len(uses) == 1 else None
