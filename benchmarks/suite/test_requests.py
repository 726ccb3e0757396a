"""A test of two requests: a logged-in user creates a product, and it is read."""

import os
import uuid
from datetime import UTC, datetime
from typing import Annotated

import httpx
import pytest
from app.products.schemas import ProductCreate, ProductRead
from app.settings import Settings
from app.users.auth import auth_backend, create_jwt_strategy
from app.users.models import User
from fastapi import Depends, FastAPI
from fastapi_users.jwt import decode_jwt
from tests.fixtures.client import create_client

every = pytest.mark.parametrize("number", range(int(os.environ["TESTS"])))

LAMP = {"name": "Lamp", "sku": "LAMP-1", "price": "19.99", "currency": "EUR"}
URL = "/api/v1/products"


async def create_and_read(client: httpx.AsyncClient) -> None:
    response = await client.post(URL, json=LAMP)
    assert response.status_code == 201
    response = await client.get(f"{URL}/{response.json()['id']}")
    assert response.json()["sku"] == "LAMP-1"


@every
async def test_two_requests(number: int, user_client: httpx.AsyncClient) -> None:
    await create_and_read(user_client)


@every
@pytest.mark.committed
async def test_two_committed_requests(number: int, user_client: httpx.AsyncClient) -> None:
    await create_and_read(user_client)


Token = Annotated[str, Depends(auth_backend.transport.scheme)]


@pytest.fixture(scope="module")
def app_without_database() -> FastAPI:
    """The same two routes, with the same schemas and tokens, on a dictionary."""
    app = FastAPI()
    products: dict[int, ProductRead] = {}
    secret = Settings().secret_key.get_secret_value()

    async def current_user(token: Token) -> str:
        subject: str = decode_jwt(token, secret, ["fastapi-users:auth"])["sub"]
        return subject

    @app.post(URL, status_code=201)
    async def create(
        values: ProductCreate, _user: Annotated[str, Depends(current_user)]
    ) -> ProductRead:
        product_id = len(products) + 1
        products[product_id] = ProductRead(
            id=product_id, created_at=datetime.now(UTC), **values.model_dump()
        )
        return products[product_id]

    @app.get(URL + "/{product_id}")
    async def read(product_id: int) -> ProductRead:
        return products[product_id]

    return app


@pytest.fixture
async def client_without_database(app_without_database: FastAPI) -> httpx.AsyncClient:
    user = User(id=uuid.uuid4(), email="ada@example.com", hashed_password="")
    return create_client(
        app_without_database, await create_jwt_strategy(Settings()).write_token(user)
    )


@every
async def test_two_requests_without_database(
    number: int, client_without_database: httpx.AsyncClient
) -> None:
    await create_and_read(client_without_database)
