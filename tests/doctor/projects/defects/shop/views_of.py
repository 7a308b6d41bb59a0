# mypy: ignore-errors
class OrderView:
    pass
