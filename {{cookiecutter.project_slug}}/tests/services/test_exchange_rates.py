from collections.abc import Callable
from decimal import Decimal

import httpx2
import pytest

from app.errors import AppError
from app.services.exchange_rates import HTTPExchangeRates

Handler = Callable[[httpx2.Request], httpx2.Response]


def exchange_rates(handler: Handler) -> HTTPExchangeRates:
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    return HTTPExchangeRates(client, "https://rates.example/v1")


def refuse_connection(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused", request=request)


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
