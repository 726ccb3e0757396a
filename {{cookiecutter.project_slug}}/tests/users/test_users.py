import httpx2
import pytest
from fastapi_users.exceptions import UserAlreadyExists
from sqlalchemy.ext.asyncio import AsyncSession

from app.users.manager import UserDatabase
from app.users.models import User
from tests.fixtures.factories import UserFactory
from tests.fixtures.fast_auth import PASSWORD


class TestMe:
    async def test_reads_the_own_account(self, user_client: httpx2.AsyncClient, user: User) -> None:
        response = await user_client.get("/api/v1/users/me")

        assert response.status_code == 200
        assert response.json()["email"] == user.email

    async def test_changes_the_own_account(self, user_client: httpx2.AsyncClient) -> None:
        response = await user_client.patch("/api/v1/users/me", json={"email": "new@example.com"})

        assert response.status_code == 200
        assert response.json()["email"] == "new@example.com"

    async def test_changes_the_own_password(
        self, user_client: httpx2.AsyncClient, user: User
    ) -> None:
        password = "another horse battery staple"

        response = await user_client.patch("/api/v1/users/me", json={"password": password})

        assert response.status_code == 200
        login = await user_client.post(
            "/api/v1/auth/login", data={"username": user.email, "password": password}
        )
        assert login.status_code == 200

    @pytest.mark.parametrize("token", [None, "not-a-token"])
    async def test_needs_a_token(self, client: httpx2.AsyncClient, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}

        response = await client.get("/api/v1/users/me", headers=headers)

        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"


class TestAdministration:
    async def test_superusers_read_change_and_delete_users(
        self, superuser_client: httpx2.AsyncClient, user: User
    ) -> None:
        url = f"/api/v1/users/{user.id}"

        assert (await superuser_client.get(url)).json()["email"] == user.email
        changed = await superuser_client.patch(url, json={"is_verified": True})
        assert changed.json()["is_verified"] is True
        assert (await superuser_client.delete(url)).status_code == 204
        assert (await superuser_client.get(url)).status_code == 404

    @pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
    async def test_users_are_refused(
        self, user_client: httpx2.AsyncClient, superuser: User, method: str
    ) -> None:
        response = await user_client.request(
            method, f"/api/v1/users/{superuser.id}", json={} if method == "PATCH" else None
        )

        assert response.status_code == 403

    async def test_nobody_makes_themselves_a_superuser(
        self, user_client: httpx2.AsyncClient
    ) -> None:
        response = await user_client.patch("/api/v1/users/me", json={"is_superuser": True})

        assert response.json()["is_superuser"] is False

    async def test_password_of_a_changed_user_works(
        self, superuser_client: httpx2.AsyncClient, user: User
    ) -> None:
        login = await superuser_client.post(
            "/api/v1/auth/login", data={"username": user.email, "password": PASSWORD}
        )

        assert login.status_code == 200


class TestStoring:
    """An address can be taken between the moment it was looked up and the moment it is stored."""

    async def test_refuses_a_new_user_whose_address_is_taken(
        self, session: AsyncSession, user: User
    ) -> None:
        with pytest.raises(UserAlreadyExists):
            await UserDatabase(session, User).create({"email": user.email, "hashed_password": ""})

    async def test_refuses_a_new_address_that_is_taken(
        self, session: AsyncSession, user_factory: UserFactory
    ) -> None:
        ada, eve = await user_factory.batch(2)

        with pytest.raises(UserAlreadyExists):
            await UserDatabase(session, User).update(eve, {"email": ada.email})
