"""Import products from a CSV file, with two statements for any number of them."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction
from shop.models import Product


class Command(BaseCommand):
    help = "Create and update products from a CSV file with the columns sku, name, price and stock."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)

    @transaction.atomic
    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        known = Product.objects.in_bulk(field_name="sku")
        created, changed = [], []
        with file.open(newline="") as rows:
            for row in csv.DictReader(rows):
                product = known.get(row["sku"])
                (changed if product else created).append(product := product or Product(sku=row["sku"]))
                product.name, product.price, product.stock = row["name"], Decimal(row["price"]), int(row["stock"])
        Product.objects.bulk_create(created)
        Product.objects.bulk_update(changed, ["name", "price", "stock"])
        self.stdout.write(f"{len(created)} products were created, {len(changed)} updated.")
