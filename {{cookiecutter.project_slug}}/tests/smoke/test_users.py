import httpx2
import pytest

from tests.smoke.conftest import Step
from tests.smoke.server import Server

pytestmark = [pytest.mark.smoke, pytest.mark.network]


async def test_users(server: Server, step: Step) -> None:
    ada = {"username": "ada@example.com", "password": "correct horse battery staple"}

    async with httpx2.AsyncClient(base_url=server.url) as client:
        with step("register"):
            response = await client.post(
                "/api/v1/auth/register",
                json={"email": ada["username"], "password": ada["password"]},
            )
            assert response.status_code == 201, response.text
        with step("refuse a wrong password"):
            response = await client.post("/api/v1/auth/login", data=ada | {"password": "wrong"})
            assert response.status_code == 400, response.text
        with step("log in"):
            response = await client.post("/api/v1/auth/login", data=ada)
            assert response.status_code == 200, response.text
        with step("read the own account"):
            client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
            response = await client.get("/api/v1/users/me")
            assert response.status_code == 200, response.text
            assert response.json()["email"] == ada["username"]
