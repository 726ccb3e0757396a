"""All that the service knows about storing products."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.exc import StaleDataError

from app.database import SessionDep, violates_unique
from app.errors import AppError
from app.products.models import Product


class ProductRepository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def get(self, product_id: int) -> Product:
        product = await self.session.get(Product, product_id)
        if product is None:
            raise not_found(product_id)
        return product

    async def page(self, *, limit: int, offset: int) -> tuple[Sequence[Product], int]:
        """`limit` products in the order of their creation, and how many there are in all."""
        count = select(func.count()).select_from(Product)
        # One query instead of two, because each costs a round trip to the database.
        statement = select(Product, count.scalar_subquery()).order_by(Product.id)
        rows = (await self.session.execute(statement.limit(limit).offset(offset))).all()
        if rows:
            return [product for product, _ in rows], rows[0][1]
        return [], await self.session.scalar(count) or 0

    async def create(self, values: dict[str, Any]) -> Product:
        product = Product(**values)
        self.session.add(product)
        await self._commit(product)
        return product

    async def update(self, product: Product, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(product, name, value)
        await self._commit(product)

    async def delete(self, product: Product) -> None:
        await self.session.delete(product)
        await self.session.commit()

    async def release(self) -> None:
        """Ends the transaction, so that it blocks nothing while the request waits for other services."""
        await self.session.commit()

    async def _commit(self, product: Product) -> None:
        product_id, sku = product.id, product.sku
        try:
            await self.session.commit()
        except IntegrityError as error:
            await self.session.rollback()
            if not violates_unique(error, Product.__table__.c.sku):
                raise
            raise AppError(409, "SKU_TAKEN", f"Another product has the SKU {sku}.") from error
        except StaleDataError as error:  # somebody else has deleted it in the meantime
            await self.session.rollback()
            raise not_found(product_id) from error


def not_found(product_id: int) -> AppError:
    return AppError(404, "PRODUCT_NOT_FOUND", f"There is no product {product_id}.")


# Async, as FastAPI would call a class or a plain function in a thread.
async def get_product_repository(session: SessionDep) -> ProductRepository:
    return ProductRepository(session)


ProductRepositoryDep = Annotated[ProductRepository, Depends(get_product_repository)]
