"""How often somebody may try."""

import socket
import time
from collections.abc import Callable

import httpx2
import limits
import pytest
from fastapi import FastAPI
from limits.aio.storage import MemoryStorage

import app.settings
import app.throttle
from app.errors import AppError
from app.settings import Settings
from app.throttle import Memory, Throttle, client_network
from app.users.models import User
from testkit.asgi import ASGITransport
from tests.fixtures.fast_auth import PASSWORD


async def log_in(client: httpx2.AsyncClient, email: str) -> httpx2.Response:
    return await client.post("/api/v1/auth/login", data={"username": email, "password": PASSWORD})


@pytest.mark.parametrize("run", [1, 2])  # the second one begins anew
async def test_too_many_logins(
    client: httpx2.AsyncClient, user: User, throttled: Callable[[str], None], run: int
) -> None:
    throttled("3/minute")
    for _ in range(3):
        assert (await log_in(client, user.email)).status_code == 200

    response = await log_in(client, user.email)

    assert (response.status_code, response.json()["code"]) == (429, "TOO_MANY_TRIES")
    assert 0 < int(response.headers["retry-after"]) <= 60


async def test_client_that_tries_many_addresses(
    client: httpx2.AsyncClient, throttled: Callable[[str], None]
) -> None:
    throttled("3/minute")

    statuses = [(await log_in(client, f"{n}@example.com")).status_code for n in range(4)]

    assert statuses == [400, 400, 400, 429]


async def test_refused_client_takes_no_try_from_others(
    client: httpx2.AsyncClient, app: FastAPI, throttled: Callable[[str], None]
) -> None:
    throttled("3/minute")
    for number in range(3):
        await log_in(client, f"{number}@example.com")
    for _ in range(3):
        assert (await log_in(client, "victim@example.com")).status_code == 429

    transport = ASGITransport(app, client=("10.1.2.3", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as owner:
        assert (await log_in(owner, "victim@example.com")).status_code == 400


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::FFFF:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_client_of_many_addresses_is_one(host: str, counted: str) -> None:
    assert client_network(host) == counted


async def test_spelling_makes_no_other_address(
    client: httpx2.AsyncClient, app: FastAPI, throttled: Callable[[str], None]
) -> None:
    throttled("3/minute")
    statuses = []
    for number in range(4):
        transport = ASGITransport(app, client=(f"10.1.2.{number}", 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as other:
            statuses.append((await log_in(other, " " * number + "Ada@Example.com")).status_code)

    assert statuses == [400, 400, 400, 429]


async def test_changing_the_own_password(
    user_client: httpx2.AsyncClient, throttled: Callable[[str], None]
) -> None:
    """Somebody who has found a token cannot guess the password without limit."""
    throttled("3/minute")
    change = {"email": "new@example.com", "current_password": "a guess"}

    responses = [await user_client.patch("/api/v1/users/me", json=change) for _ in range(4)]

    assert [response.status_code for response in responses] == [400, 400, 400, 429]


@pytest.mark.parametrize("route", ["register", "forgot-password", "request-verify-token"])
async def test_other_routes(
    client: httpx2.AsyncClient, throttled: Callable[[str], None], route: str
) -> None:
    throttled("1/hour")
    account = {"email": "ada@example.com", "password": PASSWORD}

    first, second = [await client.post(f"/api/v1/auth/{route}", json=account) for _ in range(2)]

    assert first.is_success
    assert second.status_code == 429


async def test_counts_by_itself_while_redis_is_away(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable(MemoryStorage):
        async def acquire_entry(self, *_args: object, **_kwargs: object) -> bool:
            raise OSError("no Redis")

    monkeypatch.setattr(app.throttle, "redis_storage", lambda _url: Unreachable())
    throttle = Throttle(settings.model_copy(update={"redis_url": "redis://redis"}))

    await throttle.check("login", "1/minute", "ada@example.com", "127.0.0.1")
    with pytest.raises(Exception, match="Too many"):
        await throttle.check("login", "1/minute", "ada@example.com", "127.0.0.1")

    assert "throttling in memory (OSError)" in caplog.text


async def test_redis_that_nobody_reaches(
    client: httpx2.AsyncClient,
    throttled: Callable[[str], None],
    override_settings: Callable[..., None],
) -> None:
    throttled("3/minute")
    override_settings(redis_url="redis://127.0.0.1:1")

    statuses = [(await log_in(client, "ada@example.com")).status_code for _ in range(4)]

    assert statuses == [400, 400, 400, 429]


@pytest.mark.network
async def test_redis_that_says_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert app.settings.REDIS_TIMEOUT < 1
    monkeypatch.setattr(app.settings, "REDIS_TIMEOUT", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        throttle = Throttle(settings.model_copy(update={"redis_url": url}))

        await throttle.check("login", "1/minute", "ada@example.com", "127.0.0.1")

    assert "throttling in memory (TimeoutError)" in caplog.text


async def test_counts_in_redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that counts in the same way replaces Redis here."""
    monkeypatch.setattr(app.throttle, "redis_storage", lambda _url: MemoryStorage())
    throttle = Throttle(settings.model_copy(update={"redis_url": "redis://redis"}))

    await throttle.check("login", "1/minute", "ada@example.com", "127.0.0.1")
    with pytest.raises(AppError) as refused:
        await throttle.check("login", "1/minute", "ada@example.com", "127.0.0.1")

    assert 0 < int((refused.value.headers or {})["Retry-After"]) <= 60


class TestMemory:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        return now

    def test_window_moves(self, now: list[float]) -> None:
        memory, item = Memory(), limits.parse("2/minute")
        waits = []
        for now[0] in (100, 110, 120, 159, 160, 165, 170):
            waits.append(memory.hit(item, "login", "ada"))

        assert waits == [None, None, 40, 1, None, 5, None]

    def test_nothing_is_allowed(self, now: list[float]) -> None:
        memory = Memory()

        assert memory.hit(limits.parse("0/hour"), "register", "ada") == 3600
        assert memory._ends == {}

    def test_forgets_who_no_longer_counts(
        self, now: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app.throttle, "KEPT_UNCHECKED", 3)
        memory, item = Memory(), limits.parse("1/minute")
        for number in range(9):
            assert memory.hit(item, str(number)) is None
        assert memory.hit(item, "0") == 60
        now[0] += 60
        for number in range(9, 30):
            memory.hit(item, str(number))

        assert len(memory._ends) == 21
        assert memory.hit(item, "9") == 60
