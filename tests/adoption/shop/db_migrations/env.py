import asyncio

from alembic import context
from shop.db import engine
from shop.tables import Table
from sqlalchemy import Connection


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Table.metadata)
    with context.begin_transaction():
        context.run_migrations()


async def run_on_engine() -> None:
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()


asyncio.run(run_on_engine())
