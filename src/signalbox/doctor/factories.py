"""Functions that create another function, return it and keep no reference to it."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from signalbox.doctor.source_model import Function


def find_factory_product(factory: Function, functions_by_name: Mapping[str, Function]) -> Function | None:
    """Return the function that each call of ``factory`` creates; ``None`` if that is uncertain.

    Args:
        factory: The function that is called.
        functions_by_name: Functions by dotted name.
    """
    if factory.decorators or factory.is_coroutine or isinstance(factory.node, ast.Lambda):
        return None  # a decorator may keep what is returned, as lru_cache does
    nodes = list(ast.walk(factory.node))
    if any(isinstance(node, ast.Yield | ast.YieldFrom | ast.Global | ast.Nonlocal) for node in nodes):
        return None
    last_statement = factory.body[-1]
    if not isinstance(last_statement, ast.Return) or not isinstance(last_statement.value, ast.Name):
        return None
    product = functions_by_name.get(f"{factory.dotted_name}.<locals>.{last_statement.value.id}")
    if product is None or product.has_unknown_decorator or product.enclosing_function is not factory:
        return None
    product_node_ids = {id(node) for node in ast.walk(product.node)}
    returns = [node for node in nodes if isinstance(node, ast.Return) and id(node) not in product_node_ids]
    uses = [node for node in nodes if isinstance(node, ast.Name) and node.id == product.name]
    return product if len(returns) == len(uses) == 1 else None
