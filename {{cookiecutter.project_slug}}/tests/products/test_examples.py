from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.products.examples import EXAMPLES, add_examples
from app.products.models import Product


async def test_examples_are_added_once(session: AsyncSession) -> None:
    for _ in range(2):
        await add_examples(session)
        await session.commit()

    assert await session.scalar(select(func.count(Product.id))) == len(EXAMPLES)
