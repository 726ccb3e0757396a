from collections.abc import AsyncGenerator

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from shop.config import config


def make_engine(url: str) -> AsyncEngine:
    return create_async_engine(url, hide_parameters=True)


engine = make_engine(config.dsn)
Session = async_sessionmaker(engine, expire_on_commit=False)


async def get_db() -> AsyncGenerator[AsyncSession]:
    async with Session() as db:
        yield db
