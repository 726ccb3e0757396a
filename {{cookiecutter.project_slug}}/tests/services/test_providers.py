"""The providers make real clients, once for each application, and only when they are needed."""

import asyncio
import sys
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from app.main import create_app
from app.services import PROVIDERS, Services
from app.services.email import SMTPEmailSender, get_email
from app.services.exchange_rates import HTTPExchangeRates, get_exchange_rates
from app.services.language import LocalLanguageDetector, get_language
from app.settings import Settings


@pytest.fixture
def request_to_app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> HTTPConnection:
    model = ModuleType("py3langid")
    model.classify = lambda text: ("en", -1.5)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "py3langid", model)
    app = FastAPI()
    app.state.settings = settings
    app.state.services = Services(app)
    app.state.http_client = None
    return HTTPConnection({"type": "http", "app": app})


@pytest.mark.parametrize(
    ("provider", "client"),
    [
        (get_email, SMTPEmailSender),
        (get_exchange_rates, HTTPExchangeRates),
        (get_language, LocalLanguageDetector),
    ],
)
async def test_makes_the_real_client(
    request_to_app: HTTPConnection, provider: Any, client: type
) -> None:
    assert isinstance(await provider(request_to_app), client)


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


def test_every_service_is_registered() -> None:
    assert {"email", "exchange_rates", "language"} <= PROVIDERS.keys()
