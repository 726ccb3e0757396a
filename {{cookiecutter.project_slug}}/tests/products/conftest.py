from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.products.models import Product
from tests.fixtures.factories import Factory


class ProductFactory(Factory[Product]):
    """Products that cost 10.00 EUR."""

    model = Product

    def values(self, unique: str) -> dict[str, Any]:
        return {
            "name": f"Product {unique}",
            "sku": f"SKU-{unique}",
            "price": Decimal("10.00"),
            "currency": "EUR",
        }


@pytest.fixture
def product_factory(session: AsyncSession) -> ProductFactory:
    return ProductFactory(session)
