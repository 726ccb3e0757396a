"""What the tests of the isolation work with: a table of their own, and an application on it."""

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import SessionDep
from testkit.asgi import ASGITransport
from testkit.isolation import Isolation
from tests.fixtures.canaries import Canary


async def count_canaries(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(Canary)) or 0


@pytest.fixture(scope="session")
def aviary() -> FastAPI:
    """An application that keeps canaries, through the sessions of the service."""
    app = FastAPI()

    @app.post("/canaries/{name}")
    async def keep(name: str, session: SessionDep) -> bool:
        session.add(Canary(name=name))
        try:
            await session.commit()
        except IntegrityError:
            return False
        return True

    @app.patch("/canaries/{name}")
    async def rename(name: str, new: str, session: SessionDep) -> None:
        canary = (await session.scalars(select(Canary).where(Canary.name == name))).one()
        canary.name = new
        await session.commit()

    return app


@pytest.fixture
def own_app() -> FastAPI:
    """An application to which a test adds routes of its own."""
    return FastAPI()


def create_client(app: FastAPI) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=ASGITransport(app), base_url="http://test")


@pytest.fixture
def own_client(own_app: FastAPI, database_isolation: Isolation) -> httpx2.AsyncClient:
    return create_client(own_app)


@pytest.fixture
def keeper(aviary: FastAPI, database_isolation: Isolation) -> httpx2.AsyncClient:
    """A client of the application that keeps canaries."""
    return create_client(aviary)
