import json

import httpx2
import pytest
from fastapi_users.exceptions import UserAlreadyExists
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import sessionmaker
from app.errors import AppError
from app.settings import Settings
from app.throttle import Throttle, Throttled
from app.users.manager import UserManager
from app.users.models import User
from app.users.schemas import UserCreate
from app.users.store import UserDatabase
from tests.fixtures.factories import UserFactory
from tests.fixtures.fast_auth import PASSWORD


class TestMe:
    async def test_refuses_half_a_character(self, user_client: httpx2.AsyncClient) -> None:
        """JSON can hold half of a surrogate pair, but it cannot be hashed."""
        for password, current, status in (
            ("half a character \ud800", PASSWORD, 400),
            ("another horse battery staple", "\ud800", 422),
        ):
            response = await user_client.patch(
                "/api/v1/users/me",
                content=json.dumps({"password": password, "current_password": current}),
                headers={"Content-Type": "application/json"},
            )
            assert response.status_code == status

    async def test_reads_the_own_account(self, user_client: httpx2.AsyncClient, user: User) -> None:
        response = await user_client.get("/api/v1/users/me")

        assert response.status_code == 200
        assert response.json()["email"] == user.email

    async def test_changes_the_own_address(self, user_client: httpx2.AsyncClient) -> None:
        response = await user_client.patch(
            "/api/v1/users/me", json={"email": "New@Example.com", "current_password": PASSWORD}
        )

        assert response.status_code == 200
        assert response.json()["email"] == "new@example.com"
        assert response.json()["is_verified"] is False

    async def test_changes_the_own_password(
        self, user_client: httpx2.AsyncClient, user: User
    ) -> None:
        password = "another horse battery staple"

        response = await user_client.patch(
            "/api/v1/users/me", json={"password": password, "current_password": PASSWORD}
        )

        assert response.status_code == 200
        login = await user_client.post(
            "/api/v1/auth/login", data={"username": user.email, "password": password}
        )
        assert login.status_code == 200
        assert (await user_client.get("/api/v1/users/me")).status_code == 401

    @pytest.mark.parametrize("change", [{"password": "a new password"}, {"email": "a@b.example"}])
    @pytest.mark.parametrize("known", [{}, {"current_password": "wrong"}])
    async def test_needs_the_password_to_change_it_or_the_address(
        self, user_client: httpx2.AsyncClient, change: dict[str, str], known: dict[str, str]
    ) -> None:
        response = await user_client.patch("/api/v1/users/me", json=change | known)

        assert response.status_code == 400
        assert response.json()["code"] == "UPDATE_USER_INVALID_PASSWORD"

    async def test_new_password_is_not_the_new_address(
        self, user_client: httpx2.AsyncClient
    ) -> None:
        change = {"email": "eve@example.com", "password": "eve@example.com"}

        response = await user_client.patch(
            "/api/v1/users/me", json=change | {"current_password": PASSWORD}
        )

        assert response.status_code == 400

    @pytest.mark.parametrize(
        "name", ["email", "password", "is_active", "is_superuser", "is_verified"]
    )
    async def test_sets_nothing_to_null(self, user_client: httpx2.AsyncClient, name: str) -> None:
        response = await user_client.patch("/api/v1/users/me", json={name: None})

        assert response.status_code == 422

    async def test_takes_no_address_of_somebody_else(
        self, user_client: httpx2.AsyncClient, superuser: User
    ) -> None:
        response = await user_client.patch(
            "/api/v1/users/me",
            json={"email": superuser.email.upper(), "current_password": PASSWORD},
        )

        assert response.status_code == 400
        assert response.json()["code"] == "UPDATE_USER_EMAIL_ALREADY_EXISTS"

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

    async def test_new_password_works(
        self, superuser_client: httpx2.AsyncClient, client: httpx2.AsyncClient, user: User
    ) -> None:
        new = "another good password"
        await superuser_client.patch(f"/api/v1/users/{user.id}", json={"password": new})

        login = await client.post(
            "/api/v1/auth/login", data={"username": user.email, "password": new}
        )

        assert login.status_code == 200


async def test_superusers_are_made_by_programs(session: AsyncSession, settings: Settings) -> None:
    manager = UserManager(UserDatabase(session, User), settings)

    user = await manager.create(
        UserCreate(email="root@example.com", password=PASSWORD, is_superuser=True)
    )

    assert user.is_superuser


async def test_attempts_are_counted_without_a_transaction(
    session: AsyncSession, settings: Settings, user: User
) -> None:
    """Redis may be slow, and others would wait for the transaction."""

    counted = []

    class Counting(Throttled):
        async def check(self, *_: object) -> None:
            counted.append(session.in_transaction())

    manager = UserManager(UserDatabase(session, User), settings, Counting(Throttle(settings), ""))
    found = await manager.user_db.get_by_email(user.email)
    assert found

    await manager.prove(found, PASSWORD)

    assert counted == [False]


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

    @pytest.mark.parametrize("is_new", [True, False])
    async def test_takes_no_other_mistake_for_that(
        self, session: AsyncSession, user: User, is_new: bool
    ) -> None:
        users, email = UserDatabase(session, User), user.email

        if is_new:
            storing = users.create({"email": "ada@example.com", "hashed_password": None})
        else:
            storing = users.update(user, {"hashed_password": None})

        with pytest.raises(IntegrityError) as caught:
            await storing

        assert email not in str(caught.value)

    async def test_says_that_a_user_has_just_gone(self, session: AsyncSession, user: User) -> None:
        await session.execute(text("DELETE FROM users"))
        await session.commit()

        with pytest.raises(AppError, match="deleted"):
            await UserDatabase(session, User).update(user, {"is_verified": True})

    @pytest.mark.committed  # another connection deletes it
    @pytest.mark.parametrize("is_gone", [True, False])
    async def test_says_that_a_user_goes_just_now(
        self, session: AsyncSession, user: User, monkeypatch: pytest.MonkeyPatch, is_gone: bool
    ) -> None:
        """The user is deleted between the commit and the moment it is read again."""

        async def refresh(_session: AsyncSession, instance: User) -> None:
            if is_gone:
                async with sessionmaker() as other:
                    await other.execute(text("DELETE FROM users"))
                    await other.commit()
            raise InvalidRequestError("Could not refresh instance")

        monkeypatch.setattr(AsyncSession, "refresh", refresh)

        expected = AppError if is_gone else InvalidRequestError
        with pytest.raises(expected):
            await UserDatabase(session, User).update(user, {"is_verified": True})
