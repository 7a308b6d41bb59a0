class OrderView:
    pass
