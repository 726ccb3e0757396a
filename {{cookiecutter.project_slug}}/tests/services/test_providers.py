"""The clients of services are made once for each application, and closed with it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI

from app.main import create_app
from app.services import Services
from app.settings import Settings


async def test_makes_it_once_however_many_ask() -> None:
    built: list[FastAPI] = []

    async def build(app: FastAPI) -> object:
        built.append(app)
        await asyncio.sleep(0)
        return object()

    services = Services(FastAPI())
    first, *others = await asyncio.gather(*(services.get("slow", build) for _ in range(10)))

    assert len(built) == 1
    assert all(other is first for other in others)


@pytest.mark.network  # the engine is one as in production
async def test_what_is_yielded_is_closed_when_the_application_ends(settings: Settings) -> None:
    events: list[str] = []

    async def build(app: FastAPI) -> AsyncIterator[object]:
        events.append("opened")
        yield object()
        events.append("http client is closed" if app.state.http_client.is_closed else "closed")

    app = create_app(settings)
    async with app.router.lifespan_context(app):
        first = await app.state.services.get("queue", build)
        assert await app.state.services.get("queue", build) is first
        assert events == ["opened"]

    assert events == ["opened", "closed"]
