from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.products.models import Product

EXAMPLES = (
    ("EXAMPLE-1", "Notebook", "4.90", "EUR"),
    ("EXAMPLE-2", "Fountain pen", "24.00", "EUR"),
    ("EXAMPLE-3", "Ink, black", "8.50", "USD"),
    ("EXAMPLE-4", "Desk lamp", "59.00", "GBP"),
    ("EXAMPLE-5", "Paper clips", "1.20", "EUR"),
)


async def add_examples(session: AsyncSession) -> None:
    """Adds the example products that are not there yet."""
    present = set(await session.scalars(select(Product.sku)))
    for sku, name, price, currency in EXAMPLES:
        if sku not in present:
            session.add(Product(sku=sku, name=name, price=Decimal(price), currency=currency))
