import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx2
import jwt
import pytest
from fastapi import FastAPI
from fastapi_users import InvalidPasswordException
from fastapi_users.exceptions import UserNotExists
from pwdlib.hashers.argon2 import Argon2Hasher
from pwdlib.hashers.bcrypt import BcryptHasher
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.settings import Settings
from app.users import passwords, schemas
from app.users.manager import UserManager
from app.users.models import User
from app.users.store import UserDatabase
from testkit.performance.queries import assert_queries
from tests.fixtures.factories import UserFactory
from tests.fixtures.fast_auth import PASSWORD
from tests.fixtures.jobs import Jobs
from tests.fixtures.mock_services import MockServices

NEW_PASSWORD = "another horse battery staple"
OTHER_PASSWORD = "a horse that nobody has seen"


async def log_in(client: httpx2.AsyncClient, email: str, password: str) -> httpx2.Response:
    return await client.post("/api/v1/auth/login", data={"username": email, "password": password})


def token_in_mail(mock_services: MockServices) -> str:
    (email,) = mock_services.email.outbox
    return email.body.split()[-1]


class TestRegister:
    async def test_stores_the_user(self, client: httpx2.AsyncClient, session: AsyncSession) -> None:
        response = await client.post(
            "/api/v1/auth/register", json={"email": "ada@example.com", "password": PASSWORD}
        )

        assert response.status_code == 201
        body = response.json()
        assert body["email"] == "ada@example.com"
        assert body["is_active"]
        assert not re.search("password", response.text)
        user = await session.get_one(User, UUID(body["id"]))
        assert user.hashed_password.startswith("$argon2id$")

    async def test_makes_nobody_a_superuser(self, client: httpx2.AsyncClient) -> None:
        response = await client.post(
            "/api/v1/auth/register",
            json={"email": "eve@example.com", "password": PASSWORD, "is_superuser": True},
        )

        assert response.json()["is_superuser"] is False

    async def test_refuses_an_address_that_is_taken(
        self, client: httpx2.AsyncClient, user: User
    ) -> None:
        response = await client.post(
            "/api/v1/auth/register", json={"email": user.email.upper(), "password": PASSWORD}
        )

        assert response.status_code == 400
        assert response.json()["code"] == "REGISTER_USER_ALREADY_EXISTS"

    @pytest.mark.committed
    async def test_gives_an_address_to_one_of_many_who_ask_at_once(
        self, client: httpx2.AsyncClient
    ) -> None:
        account = {"email": "ada@example.com", "password": PASSWORD}

        responses = await asyncio.gather(
            *(client.post("/api/v1/auth/register", json=account) for _ in range(10))
        )

        assert sorted(response.status_code for response in responses) == [201] + [400] * 9
        codes = [response.json().get("code") for response in responses]
        assert codes.count("REGISTER_USER_ALREADY_EXISTS") == 9

    @pytest.mark.parametrize(
        "password",
        [
            *("short", "ada@example.com-1", "password", "Password1!", "12345678", " " * 8),
            *("x" * 129, "half a character \ud800"),
        ],
    )
    async def test_refuses_a_weak_password(self, client: httpx2.AsyncClient, password: str) -> None:
        account = json.dumps({"email": "ada@example.com", "password": password})
        response = await client.post(
            "/api/v1/auth/register",
            content=account,
            headers={"Content-Type": "application/json"},
        )

        assert response.status_code == 400
        assert response.json()["code"] == "REGISTER_INVALID_PASSWORD"

    @pytest.mark.parametrize("password", ["83920175648392017564", "#%7!9&$3@5^8*2(4)6_1"])
    async def test_takes_long_passwords_without_letters(
        self, client: httpx2.AsyncClient, password: str
    ) -> None:
        account = {"email": "ada@example.com", "password": password}
        response = await client.post("/api/v1/auth/register", json=account)

        assert response.status_code == 201

    @pytest.mark.parametrize("email", ["ada", "ädä@example.com", "a\0@example.com", None])
    async def test_refuses_what_is_no_address(
        self, client: httpx2.AsyncClient, email: str | None
    ) -> None:
        response = await client.post(
            "/api/v1/auth/register", json={"email": email, "password": PASSWORD}
        )

        assert response.status_code == 422
        assert PASSWORD not in response.text

    async def test_keeps_an_international_domain_in_ascii(self, client: httpx2.AsyncClient) -> None:
        response = await client.post(
            "/api/v1/auth/register", json={"email": "ada@bücher.com", "password": PASSWORD}
        )

        assert response.json()["email"] == "ada@xn--bcher-kva.com"

    async def test_may_tell_nobody_that_an_address_is_taken(
        self,
        client: httpx2.AsyncClient,
        user: User,
        mock_services: MockServices,
        override_settings: Callable[..., None],
    ) -> None:
        override_settings(register_tells_taken=False)

        response = await client.post(
            "/api/v1/auth/register", json={"email": user.email, "password": PASSWORD}
        )

        assert response.status_code == 201
        assert response.json()["id"] != str(user.id)
        (mail,) = mock_services.email.outbox
        assert (mail.to, mail.subject) == (user.email, "You already have an account")


class TestLogin:
    async def test_returns_a_token_that_works(self, client: httpx2.AsyncClient, user: User) -> None:
        response = await log_in(client, user.email, PASSWORD)

        assert response.status_code == 200
        token = response.json()["access_token"]
        me = await client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})
        assert me.json()["id"] == str(user.id)

    @pytest.mark.parametrize(
        ("email", "password"),
        [(None, "a wrong password"), ("nobody@example.com", PASSWORD), ("a\0@b.example", PASSWORD)],
    )
    async def test_refuses_wrong_credentials(
        self, client: httpx2.AsyncClient, user: User, email: str | None, password: str
    ) -> None:
        response = await log_in(client, email or user.email, password)

        assert response.status_code == 400
        assert response.json()["code"] == "LOGIN_BAD_CREDENTIALS"

    @pytest.mark.parametrize("email", ["ada@bücher.com", " Ada@XN--bcher-kva.com "])
    async def test_knows_every_spelling_of_an_address(
        self, client: httpx2.AsyncClient, user_factory: UserFactory, email: str
    ) -> None:
        await user_factory(email="ada@xn--bcher-kva.com")

        assert (await log_in(client, email, PASSWORD)).status_code == 200

    @pytest.mark.parametrize("route", ["login", "register"])
    async def test_address_of_any_length_is_refused_at_once(
        self, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, route: str
    ) -> None:
        """Parsing it would take minutes."""
        monkeypatch.setattr(schemas, "validate_email", None)
        email = "é" * 321 + "@example.com"
        body = {"username": email, "email": email, "password": PASSWORD}
        sent: dict[str, Any] = {"data" if route == "login" else "json": body}

        response = await client.post(f"/api/v1/auth/{route}", **sent)

        assert response.status_code == (400 if route == "login" else 422)

    async def test_refuses_half_a_character(self, client: httpx2.AsyncClient) -> None:
        """A client can send half of a surrogate pair, in an encoding of its choice."""
        fields = {"username": "+2AA-@b.example", "password": PASSWORD}
        parts = [
            f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        response = await client.post(
            "/api/v1/auth/login",
            content="".join([*parts, "--B--\r\n"]),
            headers={"Content-Type": "multipart/form-data; boundary=B; charset=utf-7"},
        )

        assert response.status_code == 400

    async def test_takes_a_hash_of_bcrypt(
        self, client: httpx2.AsyncClient, user: User, session: AsyncSession
    ) -> None:
        """bcrypt looks at the first 72 bytes of a password."""
        password = "x" * 80
        user.hashed_password = BcryptHasher(rounds=4).hash(password[:72])
        session.add(user)
        await session.commit()

        assert (await log_in(client, user.email, "y" * 80)).status_code == 400
        assert (await log_in(client, user.email, password)).status_code == 200
        await session.refresh(user)
        assert user.hashed_password.startswith("$argon2id$")

    async def test_refuses_an_inactive_user(
        self, client: httpx2.AsyncClient, user_factory: UserFactory
    ) -> None:
        user = await user_factory(is_active=False)

        response = await log_in(client, user.email, PASSWORD)

        assert response.status_code == 400

    async def test_logs_out_everywhere(self, user_client: httpx2.AsyncClient) -> None:
        assert (await user_client.post("/api/v1/auth/logout-everywhere")).status_code == 204

        response = await user_client.get("/api/v1/users/me")
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        ("claims", "key", "algorithm"),
        [
            ({}, None, "none"),
            ({}, "another-key-than-that-of-the-service", "HS256"),
            ({"exp": 1}, None, "HS256"),
            ({"aud": "another audience"}, None, "HS256"),
            ({"sub": "nobody"}, None, "HS256"),
            ({"sub": str(UUID(int=0))}, None, "HS256"),
            ({"sub": None}, None, "HS256"),
            ({"version": 7}, None, "HS256"),
        ],
    )
    async def test_refuses_a_forged_token(
        self,
        client: httpx2.AsyncClient,
        user: User,
        settings: Settings,
        claims: dict[str, Any],
        key: str | None,
        algorithm: str,
    ) -> None:
        valid = {"sub": str(user.id), "aud": ["fastapi-users:auth"], "version": 0}
        key = "" if algorithm == "none" else key or settings.secret_key.get_secret_value()
        token = jwt.encode(valid | claims, key, algorithm)

        response = await client.get(
            "/api/v1/users/me", headers={"Authorization": f"Bearer {token}"}
        )

        assert response.status_code == 401

    async def test_logout_answers(self, user_client: httpx2.AsyncClient) -> None:
        assert (await user_client.post("/api/v1/auth/logout")).status_code == 204


class TestResetPassword:
    async def test_sets_the_new_password(
        self, client: httpx2.AsyncClient, user: User, mock_services: MockServices
    ) -> None:
        response = await client.post("/api/v1/auth/forgot-password", json={"email": user.email})
        assert response.status_code == 202
        token = token_in_mail(mock_services)

        response = await client.post(
            "/api/v1/auth/reset-password", json={"token": token, "password": NEW_PASSWORD}
        )

        assert response.status_code == 200
        assert (await log_in(client, user.email, NEW_PASSWORD)).status_code == 200
        assert (await log_in(client, user.email, PASSWORD)).status_code == 400

    async def test_tells_nobody_which_addresses_are_known(
        self, client: httpx2.AsyncClient, mock_services: MockServices
    ) -> None:
        response = await client.post(
            "/api/v1/auth/forgot-password", json={"email": "nobody@example.com"}
        )

        assert response.status_code == 202
        assert mock_services.email.outbox == []

    async def test_takes_a_token_once(
        self, client: httpx2.AsyncClient, user: User, mock_services: MockServices
    ) -> None:
        await client.post("/api/v1/auth/forgot-password", json={"email": user.email})
        answer = {"token": token_in_mail(mock_services), "password": NEW_PASSWORD}
        weak = await client.post("/api/v1/auth/reset-password", json=answer | {"password": "weak"})
        assert weak.json()["code"] == "RESET_PASSWORD_INVALID_PASSWORD"

        first, second = [
            await client.post("/api/v1/auth/reset-password", json=answer) for _ in range(2)
        ]

        assert (first.status_code, second.status_code) == (200, 400)

    async def test_is_not_for_users_who_have_left(
        self,
        client: httpx2.AsyncClient,
        user: User,
        session: AsyncSession,
        mock_services: MockServices,
    ) -> None:
        await client.post("/api/v1/auth/forgot-password", json={"email": user.email})
        user.is_active = False
        session.add(user)
        await session.commit()

        response = await client.post(
            "/api/v1/auth/reset-password",
            json={"token": token_in_mail(mock_services), "password": NEW_PASSWORD},
        )

        assert response.status_code == 400

    async def test_refuses_a_wrong_token(self, client: httpx2.AsyncClient) -> None:
        response = await client.post(
            "/api/v1/auth/reset-password", json={"token": "wrong", "password": NEW_PASSWORD}
        )

        assert response.status_code == 400
        assert response.json()["code"] == "RESET_PASSWORD_BAD_TOKEN"


class TestVerify:
    async def test_verifies_the_address(
        self, client: httpx2.AsyncClient, user: User, mock_services: MockServices
    ) -> None:
        response = await client.post(
            "/api/v1/auth/request-verify-token", json={"email": user.email}
        )
        assert response.status_code == 202

        response = await client.post(
            "/api/v1/auth/verify", json={"token": token_in_mail(mock_services)}
        )

        assert response.status_code == 200
        assert response.json()["is_verified"] is True
        again = await client.post(
            "/api/v1/auth/verify", json={"token": token_in_mail(mock_services)}
        )
        assert again.json()["code"] == "VERIFY_USER_ALREADY_VERIFIED"
        await client.post("/api/v1/auth/request-verify-token", json={"email": user.email})
        assert len(mock_services.email.outbox) == 1

    async def test_account_that_is_locked_out_stays_as_it_is(
        self,
        client: httpx2.AsyncClient,
        user: User,
        session: AsyncSession,
        mock_services: MockServices,
    ) -> None:
        await client.post("/api/v1/auth/request-verify-token", json={"email": user.email})
        user.is_active = False
        await session.commit()

        answer = {"token": token_in_mail(mock_services)}
        assert (await client.post("/api/v1/auth/verify", json=answer)).status_code == 400

    async def test_refuses_a_wrong_token(self, client: httpx2.AsyncClient) -> None:
        response = await client.post("/api/v1/auth/verify", json={"token": "wrong"})

        assert response.status_code == 400
        assert response.json()["code"] == "VERIFY_USER_BAD_TOKEN"


class Meanwhile:
    """What others do while a password is hashed: what `meanwhile(...)` is given is called during the next hashing only."""

    def __init__(self) -> None:
        self.todo: list[Callable[[], Awaitable[httpx2.Response]]] = []
        self.answers: list[int] = []

    def __call__(self, todo: Callable[[], Awaitable[httpx2.Response]]) -> None:
        self.todo.append(todo)

    async def in_thread(self, function: Callable[..., object], *args: str) -> object:
        result = function(*args)
        if self.todo:
            self.answers.append((await self.todo.pop()()).status_code)
        return result


@pytest.mark.committed
class TestRaces:
    """An account that changes while somebody's password is hashed, for a tenth of a second."""

    @pytest.fixture
    def meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
        meanwhile = Meanwhile()
        monkeypatch.setattr(passwords, "in_thread", meanwhile.in_thread)
        return meanwhile

    async def reset(
        self, client: httpx2.AsyncClient, token: str, password: str = NEW_PASSWORD
    ) -> httpx2.Response:
        answer = {"token": token, "password": password}
        return await client.post("/api/v1/auth/reset-password", json=answer)

    async def token(
        self, client: httpx2.AsyncClient, user: User, mock_services: MockServices, route: str
    ) -> str:
        await client.post(f"/api/v1/auth/{route}", json={"email": user.email})
        return token_in_mail(mock_services)

    @pytest.mark.parametrize("first", ["change", "verification"])
    async def test_new_address_is_never_verified_by_the_old_one(
        self,
        client: httpx2.AsyncClient,
        user: User,
        user_client: httpx2.AsyncClient,
        mock_services: MockServices,
        meanwhile: Meanwhile,
        first: str,
    ) -> None:
        token = await self.token(client, user, mock_services, "request-verify-token")

        async def verify() -> httpx2.Response:
            return await client.post("/api/v1/auth/verify", json={"token": token})

        if first == "verification":
            meanwhile(verify)
        change = {"email": "victim@example.com", "current_password": PASSWORD}
        assert (await user_client.patch("/api/v1/users/me", json=change)).status_code == 200
        if first == "change":
            assert (await verify()).status_code == 400

        me = (await user_client.get("/api/v1/users/me")).json()
        assert (me["email"], me["is_verified"]) == ("victim@example.com", False)

    @pytest.mark.parametrize("step", ["the old one is verified", "the new one is hashed"])
    async def test_reset_is_not_undone_by_a_change(
        self,
        client: httpx2.AsyncClient,
        user: User,
        user_client: httpx2.AsyncClient,
        mock_services: MockServices,
        meanwhile: Meanwhile,
        step: str,
    ) -> None:
        """Somebody who knows the old password may change it at the same time."""
        token = await self.token(client, user, mock_services, "forgot-password")

        async def at_the_next_step() -> httpx2.Response:
            meanwhile(lambda: self.reset(client, token))
            return httpx2.Response(200)

        if step == "the old one is verified":
            meanwhile(lambda: self.reset(client, token))
        else:
            meanwhile(at_the_next_step)
        change = {"password": OTHER_PASSWORD, "current_password": PASSWORD}
        response = await user_client.patch("/api/v1/users/me", json=change)

        assert response.status_code == 400
        assert (await log_in(client, user.email, NEW_PASSWORD)).status_code == 200

    async def test_token_is_taken_once(
        self,
        client: httpx2.AsyncClient,
        user: User,
        mock_services: MockServices,
        meanwhile: Meanwhile,
    ) -> None:
        token = await self.token(client, user, mock_services, "forgot-password")
        meanwhile(lambda: self.reset(client, token))

        assert (await self.reset(client, token, OTHER_PASSWORD)).status_code == 400

        assert meanwhile.answers == [200]
        assert (await log_in(client, user.email, NEW_PASSWORD)).status_code == 200

    async def test_login_with_a_password_that_ends(
        self,
        client: httpx2.AsyncClient,
        user: User,
        session: AsyncSession,
        mock_services: MockServices,
        meanwhile: Meanwhile,
    ) -> None:
        """The hash may be made anew then, at the cost of today."""
        cheaper = Argon2Hasher(time_cost=2, memory_cost=8, parallelism=1)
        user.hashed_password = cheaper.hash(PASSWORD)
        session.add(user)
        await session.commit()
        token = await self.token(client, user, mock_services, "forgot-password")
        meanwhile(lambda: self.reset(client, token))

        assert (await log_in(client, user.email, PASSWORD)).status_code == 400

        assert (await log_in(client, user.email, NEW_PASSWORD)).status_code == 200

    async def test_user_who_is_deleted(
        self,
        client: httpx2.AsyncClient,
        user: User,
        superuser_client: httpx2.AsyncClient,
        meanwhile: Meanwhile,
    ) -> None:
        meanwhile(lambda: superuser_client.delete(f"/api/v1/users/{user.id}"))

        response = await log_in(client, user.email, PASSWORD)

        assert (response.status_code, response.json()["code"]) == (400, "LOGIN_BAD_CREDENTIALS")

    @pytest.mark.parametrize("route", ["reset-password", "verify"])
    async def test_token_of_a_user_who_is_deleted(
        self,
        client: httpx2.AsyncClient,
        user: User,
        mock_services: MockServices,
        monkeypatch: pytest.MonkeyPatch,
        route: str,
    ) -> None:
        asked = {"reset-password": "forgot-password", "verify": "request-verify-token"}[route]
        token = await self.token(client, user, mock_services, asked)
        lock = UserDatabase.lock

        async def delete_first(store: UserDatabase, user: User) -> None:
            await store.session.execute(delete(User))
            await lock(store, user)

        monkeypatch.setattr(UserDatabase, "lock", delete_first)
        answer = {"token": token, "password": NEW_PASSWORD}
        response = await client.post(f"/api/v1/auth/{route}", json=answer)

        assert (response.status_code, response.json()["code"][-9:]) == (400, "BAD_TOKEN")


@pytest.mark.parametrize(
    ("method", "route", "change"),
    [
        ("PATCH", "users/me", {"password": NEW_PASSWORD, "current_password": PASSWORD}),
        ("POST", "auth/logout-everywhere", None),
    ],
)
async def test_change_of_a_user_who_is_deleted(
    user_client: httpx2.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    route: str,
    change: dict[str, str] | None,
) -> None:
    async def lock(_store: UserDatabase, _user: User) -> None:
        raise UserNotExists

    monkeypatch.setattr(UserDatabase, "lock", lock)

    response = await user_client.request(method, f"/api/v1/{route}", json=change)

    assert (response.status_code, response.json()["code"]) == (404, "USER_NOT_FOUND")


async def test_commands_have_no_limit(
    user: User, session: AsyncSession, settings: Settings
) -> None:
    manager = UserManager(UserDatabase(session, User), settings)

    await manager.prove(user, PASSWORD)
    with pytest.raises(InvalidPasswordException):
        await manager.prove(user, None)


async def test_hook_that_fails_sends_no_second_mail(
    client: httpx2.AsyncClient,
    user: User,
    jobs: Jobs,
    mock_services: MockServices,
    monkeypatch: pytest.MonkeyPatch,
    app: FastAPI,
) -> None:
    reported: list[Exception] = []

    async def fail(*_: object) -> None:
        raise OSError("no statistics")

    monkeypatch.setattr(UserManager, "on_after_forgot_password", fail)
    app.state.report_error = reported.append
    await client.post("/api/v1/auth/forgot-password", json={"email": user.email})
    for _ in range(2):
        await jobs.run_all()

    assert len(mock_services.email.outbox) == 1
    assert [str(error) for error in reported] == ["no statistics"]


async def test_hooks_of_fastapi_users_are_called(
    client: httpx2.AsyncClient, mock_services: MockServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("register", "login", "forgot_password", "reset_password", "request_verify"):

        async def hook(_manager: UserManager, _user: User, *_: object, name: str = name) -> None:
            called.append(name)

        monkeypatch.setattr(UserManager, f"on_after_{name}", hook)
    account = {"email": "ada@example.com", "password": PASSWORD}
    await client.post("/api/v1/auth/register", json=account)
    await log_in(client, account["email"], PASSWORD)
    await client.post("/api/v1/auth/request-verify-token", json=account)
    mock_services.email.outbox.clear()
    await client.post("/api/v1/auth/forgot-password", json=account)
    answer = {"token": token_in_mail(mock_services), "password": NEW_PASSWORD}
    await client.post("/api/v1/auth/reset-password", json=answer)

    expected = ["register", "login", "request_verify", "forgot_password", "reset_password"]
    assert called == expected


@pytest.mark.parametrize("route", ["login", "register", "forgot-password", "request-verify-token"])
async def test_takes_the_same_steps_for_every_address(
    client: httpx2.AsyncClient,
    user: User,
    jobs: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
) -> None:
    """Nobody learns from the time of an answer which addresses are known."""
    steps: list[str] = []

    async def in_thread(function: Callable[..., object], *args: str) -> object:
        steps.append("hashes")
        return function(*args)

    monkeypatch.setattr(passwords, "in_thread", in_thread)
    taken: list[list[str]] = []
    for email in (user.email, "nobody@example.com"):
        steps.clear()
        body = {"username": email, "email": email, "password": NEW_PASSWORD}
        sent: dict[str, Any] = {"data" if route == "login" else "json": body}
        with assert_queries(at_most=5) as statements:
            await client.post(f"/api/v1/auth/{route}", **sent)
        taken.append(steps + [statement.split()[0] for statement in statements])

    known, unknown = taken
    if route == "register":  # a new row is read again, in less than a hundredth of the hashing
        unknown.remove("SELECT")
    assert known == unknown
    assert ("hashes" in known) == (route in ("login", "register"))


async def test_log_holds_no_secret(
    client: httpx2.AsyncClient,
    user: User,
    session: AsyncSession,
    mock_services: MockServices,
    jobs: Jobs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    secrets = [user.email, PASSWORD, NEW_PASSWORD, user.hashed_password, "new@example.com"]
    account = {"email": user.email, "password": NEW_PASSWORD}

    await client.post("/api/v1/auth/register", json=account)  # it is taken
    await client.post("/api/v1/auth/register", json=account | {"email": "new@example.com"})
    secrets.append((await log_in(client, user.email, PASSWORD)).json()["access_token"])
    await client.get("/api/v1/users/me", headers={"Authorization": f"Bearer {secrets[-1]}"})
    await log_in(client, user.email, NEW_PASSWORD)
    await client.post("/api/v1/auth/forgot-password", json={"email": user.email})
    jobs.fail(OSError(f"550 <{user.email}> is unknown"))
    await jobs.run()
    await jobs.run_all()
    secrets.append(token_in_mail(mock_services))
    answer = {"token": secrets[-1], "password": NEW_PASSWORD}
    assert (await client.post("/api/v1/auth/reset-password", json=answer)).is_success
    session.add(User(email=user.email, hashed_password=user.hashed_password))
    with pytest.raises(IntegrityError) as refused:
        await session.commit()

    said = f"{caplog.text}\n{refused.value}"
    assert "failed (OSError" in said
    assert [secret for secret in secrets if secret in said] == []
