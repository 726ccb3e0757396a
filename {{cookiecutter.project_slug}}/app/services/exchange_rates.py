"""Exchange rates from an HTTP API (Frankfurter's, or one that answers like it)."""

from decimal import Decimal
from typing import Annotated, Protocol

import httpx2
from fastapi import Depends, FastAPI

from app.errors import AppError
from app.services import provider


class ExchangeRates(Protocol):
    async def rate(self, base: str, quote: str) -> Decimal:
        """How much of `quote` one unit of `base` is worth; `AppError` when nobody can say."""


class HTTPExchangeRates:
    def __init__(self, http_client: httpx2.AsyncClient, url: str) -> None:
        self.http_client = http_client
        self.url = url

    async def rate(self, base: str, quote: str) -> Decimal:
        try:
            response = await self.http_client.get(
                f"{self.url}/latest", params={"base": base, "symbols": quote}
            )
            if response.status_code in (404, 422):
                raise AppError(
                    422, "UNKNOWN_EXCHANGE_RATE", f"There is no rate from {base} to {quote}."
                )
            response.raise_for_status()
            # A float would lose digits on the way.
            return Decimal(str(response.json()["rates"][quote]))
        except (httpx2.HTTPError, ValueError, KeyError) as error:
            raise AppError(
                503, "EXCHANGE_RATES_UNAVAILABLE", "The exchange rates cannot be reached now."
            ) from error


@provider
async def get_exchange_rates(app: FastAPI) -> ExchangeRates:
    return HTTPExchangeRates(app.state.http_client, app.state.settings.exchange_rates_url)


ExchangeRatesDep = Annotated[ExchangeRates, Depends(get_exchange_rates)]
