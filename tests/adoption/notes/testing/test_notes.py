import pytest
from httpx import AsyncClient
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from notes.database import engine
from notes.models import Note

pytestmark = pytest.mark.anyio


async def test_starts_empty(client: AsyncClient) -> None:
    assert (await client.get("/notes")).json() == []


async def test_creates_a_note(client: AsyncClient) -> None:
    response = await client.post("/notes", json={"title": "Tea"})

    assert response.status_code == 201
    async with AsyncSession(engine) as session:
        assert [note.title for note in await session.exec(select(Note))] == ["Tea"]


@pytest.mark.parametrize("title", ["Tea", "Milk", "Bread"])
async def test_refuses_a_title_twice(client: AsyncClient, title: str) -> None:
    await client.post("/notes", json={"title": title})

    assert (await client.post("/notes", json={"title": title})).status_code == 409
    assert len((await client.get("/notes")).json()) == 1


async def test_deletes_a_note(client: AsyncClient) -> None:
    note = (await client.post("/notes", json={"title": "Tea"})).json()

    assert (await client.delete(f"/notes/{note['id']}")).status_code == 204
    assert (await client.get("/notes")).json() == []


async def test_needs_the_key(client: AsyncClient) -> None:
    assert (await client.get("/notes", headers={"X-Api-Key": "no"})).status_code == 401
