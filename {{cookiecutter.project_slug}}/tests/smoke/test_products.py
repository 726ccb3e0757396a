import httpx2
import pytest
from sqlalchemy import update

from app.engine import create_engine
from app.users.models import User
from tests.smoke.conftest import Step
from tests.smoke.server import Server

pytestmark = [pytest.mark.smoke, pytest.mark.network]

URL = "/api/v1/products"
LAMP = {"name": "Lamp", "sku": "LAMP-1", "price": "20.00", "currency": "EUR"}


async def make_superuser(server: Server, email: str) -> None:
    engine = create_engine(server.database_url)
    async with engine.begin() as connection:
        await connection.execute(
            update(User).where(User.__table__.c.email == email).values(is_superuser=True)
        )
    await engine.dispose()


async def test_products(server: Server, step: Step) -> None:
    bob = {"username": "bob@example.com", "password": "correct horse battery staple"}

    async with httpx2.AsyncClient(base_url=server.url) as client:
        with step("log in as a superuser"):
            await client.post(
                "/api/v1/auth/register",
                json={"email": bob["username"], "password": bob["password"]},
            )
            await make_superuser(server, bob["username"])
            response = await client.post("/api/v1/auth/login", data=bob)
            assert response.status_code == 200, response.text
            client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
        with step("create a product"):
            response = await client.post(URL, json=LAMP)
            assert response.status_code == 201, response.text
            product_url = f"{URL}/{response.json()['id']}"
        with step("list the products"):
            response = await client.get(URL)
            assert response.json()["total"] == 1, response.text
        with step("convert its price"):
            response = await client.get(f"{product_url}/price", params={"currency": "USD"})
            assert response.json() == {"price": "25.00", "currency": "USD"}
        with step("delete it"):
            assert (await client.delete(product_url)).status_code == 204
            assert (await client.get(product_url)).status_code == 404
