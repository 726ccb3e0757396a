from decimal import Decimal

import httpx2

from app.errors import AppError
from tests.fixtures.mock_services import MockServices
from tests.products.conftest import ProductFactory


async def test_converts_at_the_latest_rate(
    client: httpx2.AsyncClient, product_factory: ProductFactory, mock_services: MockServices
) -> None:
    product = await product_factory(price=Decimal("10.00"), currency="EUR")
    mock_services.exchange_rates.rates["EUR", "USD"] = Decimal("1.2345")

    response = await client.get(f"/api/v1/products/{product.id}/price", params={"currency": "USD"})

    assert response.status_code == 200
    assert response.json() == {"price": "12.34", "currency": "USD"}


async def test_asks_nobody_for_the_own_currency(
    client: httpx2.AsyncClient, product_factory: ProductFactory
) -> None:
    product = await product_factory(currency="EUR")

    response = await client.get(f"/api/v1/products/{product.id}/price", params={"currency": "EUR"})

    assert response.json()["price"] == "10.00"


async def test_passes_on_that_there_is_no_rate(
    client: httpx2.AsyncClient, product_factory: ProductFactory, mock_services: MockServices
) -> None:
    product = await product_factory()

    class NoRates:
        async def rate(self, base: str, quote: str) -> Decimal:
            raise AppError(503, "EXCHANGE_RATES_UNAVAILABLE", "Not now.")

    mock_services.exchange_rates = NoRates()  # type: ignore[assignment]

    response = await client.get(f"/api/v1/products/{product.id}/price", params={"currency": "USD"})

    assert response.status_code == 503


async def test_refuses_what_is_no_currency(
    client: httpx2.AsyncClient, product_factory: ProductFactory
) -> None:
    product = await product_factory()

    response = await client.get(f"/api/v1/products/{product.id}/price", params={"currency": "X"})

    assert response.status_code == 422


async def test_of_an_unknown_product(client: httpx2.AsyncClient) -> None:
    response = await client.get("/api/v1/products/1/price", params={"currency": "USD"})

    assert response.status_code == 404


async def test_language_of_the_name(
    client: httpx2.AsyncClient, product_factory: ProductFactory, mock_services: MockServices
) -> None:
    product = await product_factory(name="Stehlampe")
    mock_services.language.languages["Stehlampe"] = "de"

    response = await client.get(f"/api/v1/products/{product.id}/language")

    assert response.json() == {"language": "de"}
