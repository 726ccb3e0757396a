import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import AppError
from app.products.models import Product
from app.products.repository import ProductRepository
from tests.products.conftest import ProductFactory

URL = "/api/v1/products"
LAMP = {"name": "Lamp", "sku": "LAMP-1", "price": "19.99", "currency": "EUR"}


class TestCreate:
    async def test_stores_the_product(
        self, user_client: httpx2.AsyncClient, session: AsyncSession
    ) -> None:
        response = await user_client.post(URL, json=LAMP)

        assert response.status_code == 201
        body = response.json()
        assert body | LAMP == body
        product = await session.get_one(Product, body["id"])
        assert product.price == Decimal("19.99")
        assert abs(datetime.now(UTC) - product.created_at) < timedelta(minutes=1)

    @pytest.mark.usefixtures("each_isolation")
    @pytest.mark.parametrize("run", [1, 2])
    async def test_counts_from_one_in_every_test(
        self, user_client: httpx2.AsyncClient, run: int
    ) -> None:
        first = await user_client.post(URL, json=LAMP)
        second = await user_client.post(URL, json=LAMP | {"sku": "LAMP-2"})

        assert [response.json()["id"] for response in (first, second)] == [1, 2]

    async def test_needs_a_user(self, client: httpx2.AsyncClient) -> None:
        assert (await client.post(URL, json=LAMP)).status_code == 401

    async def test_refuses_a_sku_that_is_taken(
        self, user_client: httpx2.AsyncClient, session: AsyncSession
    ) -> None:
        await user_client.post(URL, json=LAMP)

        response = await user_client.post(URL, json=LAMP)

        assert response.status_code == 409
        assert response.json()["code"] == "SKU_TAKEN"
        assert await session.scalar(select(func.count()).select_from(Product)) == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            {"price": "0"},
            {"price": "-1"},
            {"price": "1.999"},
            {"price": "NaN"},
            {"price": "99999999999.99"},
            {"currency": "EURO"},
            {"currency": "ABC"},
            {"name": " "},
            {"name": "x" * 201},
            {"sku": None},
        ],
    )
    async def test_refuses_wrong_values(
        self, user_client: httpx2.AsyncClient, wrong: dict[str, Any]
    ) -> None:
        response = await user_client.post(URL, json=LAMP | wrong)

        assert response.status_code == 422
        assert response.json()["errors"][0]["loc"] == ["body", *wrong]


class TestList:
    async def test_is_empty_at_first(self, client: httpx2.AsyncClient) -> None:
        response = await client.get(URL)

        assert response.json() == {"items": [], "total": 0, "limit": 20, "offset": 0}

    async def test_goes_page_by_page(
        self, client: httpx2.AsyncClient, product_factory: ProductFactory
    ) -> None:
        products = await product_factory.batch(5)

        response = await client.get(URL, params={"limit": 2, "offset": 3})

        body = response.json()
        assert [item["id"] for item in body["items"]] == [product.id for product in products[3:]]
        assert body["total"] == 5

    @pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"offset": -1}])
    async def test_refuses_a_wrong_page(
        self, client: httpx2.AsyncClient, params: dict[str, int]
    ) -> None:
        assert (await client.get(URL, params=params)).status_code == 422


class TestRead:
    async def test_returns_the_product(
        self, client: httpx2.AsyncClient, product_factory: ProductFactory
    ) -> None:
        product = await product_factory(name="Lamp")

        response = await client.get(f"{URL}/{product.id}")

        assert response.status_code == 200
        assert response.json()["name"] == "Lamp"

    @pytest.mark.parametrize("number", ["0", "-1", str(2**31), str(2**63), str(2**64), "1" * 500])
    async def test_of_an_impossible_id(self, client: httpx2.AsyncClient, number: str) -> None:
        assert (await client.get(f"{URL}/{number}")).status_code == 422

    async def test_of_an_unknown_product(self, client: httpx2.AsyncClient) -> None:
        response = await client.get(f"{URL}/1")

        assert response.status_code == 404
        assert response.json() == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "code": "PRODUCT_NOT_FOUND",
            "detail": "There is no product 1.",
        }


class TestUpdate:
    async def test_changes_what_is_sent(
        self,
        user_client: httpx2.AsyncClient,
        product_factory: ProductFactory,
        session: AsyncSession,
    ) -> None:
        product = await product_factory(name="Lamp")

        response = await user_client.patch(f"{URL}/{product.id}", json={"price": "5"})

        assert response.status_code == 200
        assert response.json()["price"] == "5.00"
        stored = await session.get_one(Product, product.id)
        assert (stored.name, stored.price) == ("Lamp", Decimal("5.00"))

    async def test_needs_a_user(
        self, client: httpx2.AsyncClient, product_factory: ProductFactory
    ) -> None:
        product = await product_factory()

        response = await client.patch(f"{URL}/{product.id}", json={"price": "5"})

        assert response.status_code == 401

    async def test_refuses_a_sku_that_is_taken(
        self, user_client: httpx2.AsyncClient, product_factory: ProductFactory
    ) -> None:
        product, other = await product_factory.batch(2)

        response = await user_client.patch(f"{URL}/{product.id}", json={"sku": other.sku})

        assert response.status_code == 409

    async def test_refuses_null(
        self, user_client: httpx2.AsyncClient, product_factory: ProductFactory
    ) -> None:
        product = await product_factory()

        response = await user_client.patch(f"{URL}/{product.id}", json={"name": None})

        assert response.status_code == 422

    async def test_of_an_unknown_product(self, user_client: httpx2.AsyncClient) -> None:
        assert (await user_client.patch(f"{URL}/1", json={})).status_code == 404

    @pytest.mark.committed
    async def test_that_races_with_its_deletion(
        self, superuser_client: httpx2.AsyncClient, product_factory: ProductFactory
    ) -> None:
        for product in await product_factory.batch(5):
            url = f"{URL}/{product.id}"
            changes = [superuser_client.patch(url, json={"name": f"new {n}"}) for n in range(3)]

            *changed, deleted = await asyncio.gather(*changes, superuser_client.delete(url))

            assert deleted.status_code == 204
            assert {response.status_code for response in changed} <= {200, 404}

    async def test_of_a_product_that_has_just_gone(
        self, session: AsyncSession, product_factory: ProductFactory
    ) -> None:
        product = await product_factory()
        await session.execute(text("DELETE FROM products"))
        await session.commit()

        with pytest.raises(AppError, match="There is no product"):
            await ProductRepository(session).update(product, {"name": "new"})

    async def test_takes_no_other_mistake_for_a_taken_sku(
        self, session: AsyncSession, product_factory: ProductFactory
    ) -> None:
        product = await product_factory()

        with pytest.raises(IntegrityError):
            await ProductRepository(session).update(product, {"price": 0})


class TestDelete:
    async def test_removes_the_product(
        self,
        superuser_client: httpx2.AsyncClient,
        product_factory: ProductFactory,
        session: AsyncSession,
    ) -> None:
        product = await product_factory()

        response = await superuser_client.delete(f"{URL}/{product.id}")

        assert response.status_code == 204
        assert await session.get(Product, product.id) is None

    async def test_needs_a_superuser(
        self,
        client: httpx2.AsyncClient,
        user_client: httpx2.AsyncClient,
        product_factory: ProductFactory,
    ) -> None:
        product = await product_factory()

        assert (await client.delete(f"{URL}/{product.id}")).status_code == 401
        assert (await user_client.delete(f"{URL}/{product.id}")).status_code == 403

    async def test_of_an_unknown_product(self, superuser_client: httpx2.AsyncClient) -> None:
        assert (await superuser_client.delete(f"{URL}/1")).status_code == 404


@pytest.fixture(scope="class")
async def catalogue(class_session: AsyncSession) -> list[Product]:
    return await ProductFactory(class_session).batch(100)


class TestCatalogue:
    """An expensive arrangement, made once for the class."""

    async def test_first_page(
        self, superuser_client: httpx2.AsyncClient, catalogue: list[Product]
    ) -> None:
        await superuser_client.delete(f"{URL}/{catalogue[0].id}")

        assert (await superuser_client.get(URL)).json()["total"] == 99

    async def test_last_page(self, client: httpx2.AsyncClient, catalogue: list[Product]) -> None:
        response = await client.get(URL, params={"limit": 100, "offset": 90})

        assert [item["id"] for item in response.json()["items"]] == [p.id for p in catalogue[90:]]
