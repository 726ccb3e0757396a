"""Transactions mean to the application what they mean in production."""

import asyncio

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import SessionDep, sessionmaker
from tests.fixtures.canaries import Canary
from tests.isolation.conftest import count_canaries

overlapping = pytest.mark.filterwarnings("ignore::testkit.isolation.RequestsOverlapped")


async def test_what_a_request_does_not_commit_is_lost(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @own_app.post("/forgetful")
    async def forgetful(request_session: SessionDep) -> None:
        request_session.add(Canary(name="Ada"))
        await request_session.flush()

    await own_client.post("/forgetful")

    assert await count_canaries(session) == 0


async def test_rollback_takes_back_only_what_was_not_committed(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @own_app.post("/regretful")
    async def regretful(request_session: SessionDep) -> None:
        request_session.add(Canary(name="kept"))
        await request_session.commit()
        request_session.add(Canary(name="lost"))
        await request_session.flush()
        await request_session.rollback()

    session.add(Canary(name="arranged"))
    await session.commit()

    await own_client.post("/regretful")

    names = (await session.scalars(select(Canary.name).order_by(Canary.name))).all()
    assert names == ["arranged", "kept"]


async def test_integrity_error_leaves_the_session_usable(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @own_app.post("/twice")
    async def create_twice(request_session: SessionDep) -> int:
        request_session.add(Canary(name="Ada"))
        await request_session.commit()
        request_session.add(Canary(name="Ada"))
        try:
            await request_session.commit()
        except IntegrityError:
            await request_session.rollback()
        return await count_canaries(request_session)

    response = await own_client.post("/twice")

    assert response.json() == 1
    assert await count_canaries(session) == 1


async def test_error_in_a_request_leaves_nothing(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @own_app.post("/fails")
    async def fails(request_session: SessionDep) -> None:
        request_session.add(Canary(name="Ada"))
        await request_session.flush()
        raise HTTPException(400)

    assert (await own_client.post("/fails")).status_code == 400
    assert await count_canaries(session) == 0


async def test_nested_savepoints(session: AsyncSession) -> None:
    session.add(Canary(name="outer"))
    async with session.begin_nested():
        session.add(Canary(name="inner"))
        await session.flush()
        innermost = await session.begin_nested()
        session.add(Canary(name="inner"))
        with pytest.raises(IntegrityError):
            await session.flush()
        await innermost.rollback()
    await session.commit()

    assert await count_canaries(session) == 2


async def test_test_may_read_before_a_request_writes(
    keeper: httpx2.AsyncClient, session: AsyncSession
) -> None:
    assert await count_canaries(session) == 0

    assert (await keeper.post("/canaries/Ada")).json() is True

    assert await count_canaries(session) == 1
    await session.rollback()
    assert await count_canaries(session) == 1


async def test_test_sees_what_a_request_changed(
    keeper: httpx2.AsyncClient, session: AsyncSession
) -> None:
    stored = Canary(name="Ada")
    session.add(stored)
    await session.commit()

    await keeper.patch("/canaries/Ada", params={"new": "Eve"})

    assert (await session.get_one(Canary, stored.id)).name == "Eve"
    assert stored.name == "Eve"


@overlapping
async def test_twenty_requests_at_once(keeper: httpx2.AsyncClient, session: AsyncSession) -> None:
    responses = await asyncio.gather(*(keeper.post(f"/canaries/{n}") for n in range(20)))

    assert [response.json() for response in responses] == [True] * 20
    assert await count_canaries(session) == 20


@overlapping
async def test_twenty_requests_for_one_name(keeper: httpx2.AsyncClient) -> None:
    responses = await asyncio.gather(*(keeper.post("/canaries/Ada") for _ in range(20)))

    assert sorted(response.json() for response in responses) == [False] * 19 + [True]


@overlapping
async def test_background_task_with_a_session_of_its_own(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        async with sessionmaker.begin() as own_session:
            own_session.add(Canary(name="task"))

    @own_app.post("/background")
    async def background(request_session: SessionDep) -> None:
        request_session.add(Canary(name="request"))
        await request_session.flush()
        tasks.append(asyncio.create_task(work()))
        await request_session.commit()

    await own_client.post("/background")
    await tasks[0]

    assert await count_canaries(session) == 2


async def test_foreign_keys_are_enforced(session: AsyncSession) -> None:
    await session.execute(text("CREATE TABLE testkit_owners (id INTEGER PRIMARY KEY)"))
    await session.execute(
        text("CREATE TABLE testkit_pets (owner_id INTEGER REFERENCES testkit_owners (id))")
    )
    await session.commit()

    with pytest.raises(IntegrityError):
        await session.execute(text("INSERT INTO testkit_pets VALUES (1)"))
