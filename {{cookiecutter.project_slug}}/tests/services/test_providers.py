"""The providers make real clients, once for each application, and only when they are needed."""

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI, Request

from app.services import PROVIDERS, Services
from app.services.email import SMTPEmailSender, get_email
from app.services.exchange_rates import HTTPExchangeRates, get_exchange_rates
from app.services.language import LocalLanguageDetector, get_language
from app.settings import Settings


@pytest.fixture
def request_to_app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Request:
    model = ModuleType("py3langid")
    model.classify = lambda text: ("en", -1.5)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "py3langid", model)
    app = FastAPI()
    app.state.settings = settings
    app.state.services = Services(app)
    app.state.http_client = None
    return Request({"type": "http", "app": app})


@pytest.mark.parametrize(
    ("provider", "client"),
    [
        (get_email, SMTPEmailSender),
        (get_exchange_rates, HTTPExchangeRates),
        (get_language, LocalLanguageDetector),
    ],
)
async def test_makes_the_real_client(request_to_app: Request, provider: Any, client: type) -> None:
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


def test_every_service_is_registered() -> None:
    assert {"email", "exchange_rates", "language"} <= PROVIDERS.keys()
