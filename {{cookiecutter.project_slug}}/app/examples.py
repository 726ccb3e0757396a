"""Example data of every domain, one line each, for `python -m app seed`."""

from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncSession

from app.products.examples import add_examples as products

EXAMPLES: tuple[Callable[[AsyncSession], Awaitable[None]], ...] = (products,)
