from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.db import get_db
from shop.tables import Order

web = FastAPI(title="Shop")
Database = Annotated[AsyncSession, Depends(get_db)]


@web.post("/orders/{article}", status_code=201)
async def place_order(article: str, db: Database) -> int:
    order = Order(article=article)
    db.add(order)
    try:
        await db.commit()
    except IntegrityError:
        await db.rollback()
        raise HTTPException(409, "It is ordered already.") from None
    return order.number


@web.get("/orders")
async def list_orders(db: Database) -> list[str]:
    return list(await db.scalars(select(Order.article).order_by(Order.number)))
