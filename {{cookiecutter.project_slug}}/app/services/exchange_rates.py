"""Exchange rates from an HTTP API (Frankfurter's, or one that answers like it)."""

import asyncio
import logging
from decimal import Decimal
from time import monotonic
from typing import Annotated, Protocol

import httpx2
from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field, ValidationError

from app.errors import AppError
from app.services import provider

logger = logging.getLogger(__name__)

DEADLINE = 3.0  # seconds for the whole answer, however slowly it arrives
FRESH = 3600.0  # seconds; rates are made once a day
STALE = 86400.0  # seconds in which an old rate is better than none
LONGEST_ANSWER = 100_000  # bytes


class ExchangeRates(Protocol):
    async def rate(self, base: str, quote: str) -> Decimal:
        """How much of `quote` one unit of `base` is worth; raises `AppError` if nobody can say."""


class Answer(BaseModel):
    """The part of the answer that matters. A `Decimal` keeps the digits that a float would lose."""

    rates: dict[str, Annotated[Decimal, Field(gt=0, lt=10**12, allow_inf_nan=False)]]


class HTTPExchangeRates:
    """Asks at most once an hour for each pair, however many requests want to know it at the same time."""

    def __init__(self, http_client: httpx2.AsyncClient, url: str) -> None:
        self.http_client = http_client
        self.url = url
        self._known: dict[tuple[str, str], tuple[float, Decimal]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[Decimal]] = {}

    async def rate(self, base: str, quote: str) -> Decimal:
        pair = base, quote
        known_since, known = self._known.get(pair, (float("-inf"), Decimal()))
        age = monotonic() - known_since
        if age < FRESH:
            return known
        try:
            return await self._ask_once(pair)
        except AppError as error:
            if age > STALE or error.status != 503:
                raise
            logger.warning("no exchange rates available; those of %d s ago are used", age)
            return known

    async def _ask_once(self, pair: tuple[str, str]) -> Decimal:
        if pair not in self._asking:
            self._asking[pair] = asyncio.create_task(self._ask(*pair))
            self._asking[pair].add_done_callback(lambda _: self._asking.pop(pair))
        # A request that stops waiting does not stop it for the others.
        return await asyncio.shield(self._asking[pair])

    async def _ask(self, base: str, quote: str) -> Decimal:
        try:
            async with asyncio.timeout(DEADLINE):
                rate = Answer.model_validate_json(await self._read(base, quote)).rates[quote]
        except (httpx2.HTTPError, TimeoutError, ValidationError, KeyError, OSError) as error:
            raise AppError(
                503, "EXCHANGE_RATES_UNAVAILABLE", "Exchange rates are currently unavailable."
            ) from error
        self._known[base, quote] = monotonic(), rate
        return rate

    async def _read(self, base: str, quote: str) -> bytes:
        url, params = f"{self.url}/latest", {"base": base, "symbols": quote}
        async with self.http_client.stream("GET", url, params=params) as response:
            if response.status_code in (404, 422):
                raise AppError(
                    422, "UNKNOWN_EXCHANGE_RATE", f"There is no rate from {base} to {quote}."
                )
            response.raise_for_status()
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > LONGEST_ANSWER:
                    raise OSError("the answer is too long")
            return body


@provider
async def get_exchange_rates(app: FastAPI) -> ExchangeRates:
    return HTTPExchangeRates(app.state.http_client, app.state.settings.exchange_rates_url)


ExchangeRatesDep = Annotated[ExchangeRates, Depends(get_exchange_rates)]
