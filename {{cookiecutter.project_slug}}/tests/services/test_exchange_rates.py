import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection

from app.errors import AppError
from app.services import PROVIDERS
from app.services import exchange_rates as service
from app.services.exchange_rates import HTTPExchangeRates, get_exchange_rates

Handler = Callable[[httpx2.Request], Any]


def exchange_rates(handler: Handler) -> HTTPExchangeRates:
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    return HTTPExchangeRates(client, "https://rates.example/v1")


def refuse_connection(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused", request=request)


async def test_provider_makes_the_real_client(request_to_app: HTTPConnection) -> None:
    assert PROVIDERS["exchange_rates"] is get_exchange_rates
    assert isinstance(await get_exchange_rates(request_to_app), HTTPExchangeRates)


async def test_asks_for_one_rate() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url == "https://rates.example/v1/latest?base=EUR&symbols=USD"
        return httpx2.Response(200, json={"base": "EUR", "rates": {"USD": 1.1575}})

    assert await exchange_rates(answer).rate("EUR", "USD") == Decimal("1.1575")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda request: httpx2.Response(404), 422),
        (lambda request: httpx2.Response(500), 503),
        (lambda request: httpx2.Response(200, text="<html>"), 503),
        (lambda request: httpx2.Response(200, json={"rates": {}}), 503),
        (refuse_connection, 503),
    ],
    ids=["unknown currency", "server error", "no json", "no rate", "no server"],
)
async def test_says_that_there_is_no_rate(answer: Handler, status: int) -> None:
    with pytest.raises(AppError) as caught:
        await exchange_rates(answer).rate("EUR", "USD")

    assert caught.value.status == status


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "null", "NaN", '"abc"', '{"rates": []}', '{"rates": {"USD": null}}'),
        *('{"rates": {"USD": ?}}'.replace("?", v) for v in ("NaN", "1e30", "-1", "0", '"abc"')),
        pytest.param(" " * 200_000, id="endless"),
    ],
)
async def test_refuses_nonsense(text: str) -> None:
    with pytest.raises(AppError) as caught:
        await exchange_rates(lambda _: httpx2.Response(200, text=text)).rate("EUR", "USD")

    assert caught.value.status == 503


class Source:
    """Answers like the real one, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.works = True

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        await asyncio.sleep(0)
        return httpx2.Response(200 if self.works else 500, json={"rates": {"USD": 1.25}})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr(service, "monotonic", lambda: now[0])
    return now


async def test_many_at_once_are_one_question() -> None:
    source = Source()
    rates = exchange_rates(source)

    found = await asyncio.gather(*(rates.rate("EUR", "USD") for _ in range(100)))

    assert set(found) == {Decimal("1.25")}
    assert source.asked == 1


async def test_whoever_goes_takes_the_answer_from_nobody() -> None:
    rates = exchange_rates(Source())
    first, second = (asyncio.create_task(rates.rate("EUR", "USD")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == Decimal("1.25")


async def test_rate_is_good_for_an_hour_and_better_than_none_for_a_day(clock: list[float]) -> None:
    source = Source()
    rates = exchange_rates(source)
    for clock[0] in (0, 3599, 3601):
        await rates.rate("EUR", "USD")
    assert source.asked == 2

    source.works = False
    clock[0] = 3601 + 86399
    assert await rates.rate("EUR", "USD") == Decimal("1.25")
    clock[0] = 3601 + 86401
    with pytest.raises(AppError) as caught:
        await rates.rate("EUR", "USD")
    assert caught.value.status == 503


async def test_answer_that_drips_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.001)

    monkeypatch.setattr(service, "DEADLINE", 0.02)

    with pytest.raises(AppError) as caught:
        await exchange_rates(lambda _: httpx2.Response(200, content=drip())).rate("EUR", "USD")

    assert caught.value.status == 503
