"""A test of two requests: a logged-in user creates a product, and it is read."""

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from app.products.models import Product
from app.products.repository import ProductRepository
from app.users.auth import create_jwt_strategy
from app.users.models import User
from fastapi import FastAPI
from fastapi_users_db_sqlalchemy import SQLAlchemyUserDatabase
from sqlalchemy.ext.asyncio import AsyncSession
from tests.fixtures.client import create_client

every = pytest.mark.parametrize("number", range(int(os.environ["TESTKIT_TESTS"])))

LAMP = {"name": "Lamp", "sku": "LAMP-1", "price": "19.99", "currency": "EUR"}
URL = "/api/v1/products"


async def create_and_read(client: httpx2.AsyncClient) -> None:
    response = await client.post(URL, json=LAMP)
    assert response.status_code == 201
    response = await client.get(f"{URL}/{response.json()['id']}")
    assert response.json()["sku"] == "LAMP-1"


@every
async def test_two_requests(number: int, user_client: httpx2.AsyncClient) -> None:
    await create_and_read(user_client)


@every
@pytest.mark.rollback
async def test_two_requests_rolled_back(number: int, user_client: httpx2.AsyncClient) -> None:
    await create_and_read(user_client)


@pytest.fixture(scope="module")
def user_in_memory() -> Iterator[User]:
    """From now on the application keeps its one user and its products in memory, and its sessions
    never connect; all else stays as it is."""
    user = User(id=uuid.uuid4(), email="ada@example.com", hashed_password="", is_active=True)
    products: dict[int, Product] = {}

    async def find_user(*_args: object) -> User:
        return user

    async def create(_self: object, values: dict[str, Any]) -> Product:
        product = Product(id=len(products) + 1, created_at=datetime.now(UTC), **values)
        return products.setdefault(product.id, product)

    async def find_product(_self: object, product_id: int) -> Product:
        return products[product_id]

    async def connect(*_args: object, **_kwargs: object) -> None:
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SQLAlchemyUserDatabase, "get", find_user)
        patch.setattr(ProductRepository, "create", create)
        patch.setattr(ProductRepository, "get", find_product)
        patch.setattr(AsyncSession, "connection", connect)
        yield user


@pytest.fixture
async def client_without_database(app: FastAPI, user_in_memory: User) -> httpx2.AsyncClient:
    token = await create_jwt_strategy(app.state.settings).write_token(user_in_memory)
    return create_client(app, token)


@every
async def test_two_requests_without_database(
    number: int, client_without_database: httpx2.AsyncClient
) -> None:
    await create_and_read(client_without_database)
