import os
from collections.abc import AsyncIterator

os.environ.setdefault("API_KEY", "key-of-tests")
os.environ.setdefault("DATABASE_URL", "sqlite+aiosqlite:///test.db")

import pytest
from httpx import ASGITransport, AsyncClient
from sqlmodel import SQLModel

from notes.database import engine
from notes.main import app


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
async def tables(anyio_backend: str) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.drop_all)
        await connection.run_sync(SQLModel.metadata.create_all)
    yield
    await engine.dispose()


@pytest.fixture
async def client(anyio_backend: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(
        transport=ASGITransport(app=app),
        base_url="http://test",
        headers={"X-Api-Key": "key-of-tests"},
    ) as client:
        yield client
