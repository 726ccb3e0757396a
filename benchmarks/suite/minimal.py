"""What the service is measured against: FastAPI and SQLAlchemy with the same query, and nothing else."""

import os
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    sku: Mapped[str]
    price: Mapped[int]
    currency: Mapped[str]
    created_at: Mapped[datetime]


class ProductRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    sku: str
    price: Decimal
    currency: str
    created_at: datetime


class Page(BaseModel):
    items: list[ProductRead]
    total: int
    limit: int
    offset: int


async def get_session():
    async with new_session() as session:
        yield session


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/api/v1/products")
async def list_products(
    session: Annotated[AsyncSession, Depends(get_session)], limit: int = 20, offset: int = 0
) -> Page:
    total = select(func.count()).select_from(Product).scalar_subquery()
    statement = select(Product, total).order_by(Product.id).limit(limit).offset(offset)
    rows = (await session.execute(statement)).all()
    items = [ProductRead.model_validate(product) for product, _ in rows]
    return Page(items=items, total=rows[0][1] if rows else 0, limit=limit, offset=offset)
