"""What a process says before it ends; the whole of it needs processes, see docs/operating.md."""

import asyncio
import json
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from types import FrameType
from unittest.mock import AsyncMock

import httpx2
import pytest
from anyio import create_task_group
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from app.http import Conventions
from app.shutdown import announcing_shutdown, until_shutdown


@pytest.fixture
def ending(app: FastAPI) -> Iterator[asyncio.Event]:
    event: asyncio.Event = app.state.shutdown
    yield event
    event.clear()


async def test_readiness_says_so_and_others_are_answered(
    client: httpx2.AsyncClient, ending: asyncio.Event
) -> None:
    ending.set()

    ready = await client.get("/health/ready")
    products = await client.get("/health/live")

    assert (ready.status_code, ready.json()["code"]) == (503, "SHUTTING_DOWN")
    assert products.status_code == 200
    assert products.headers["connection"] == "close"


@pytest.mark.parametrize("has_begun", [False, True])
async def test_request_that_takes_too_long_is_answered(
    app: FastAPI, ending: asyncio.Event, has_begun: bool
) -> None:
    """The server cancels it when it waits no longer."""
    start = {"type": "http.response.start", "status": 200, "headers": []}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def route(_scope: Scope, _receive: Receive, send: Send) -> None:
        if has_begun:
            await send(start)
        raise asyncio.CancelledError

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "app": app}
    answer = partial(Conventions(route, max_body_size=0), scope, AsyncMock(), send)
    with pytest.raises(asyncio.CancelledError):
        await answer()
    sent.clear()
    ending.set()

    await answer()

    if has_begun:
        assert sent == [start]  # what has begun is broken off
    else:
        assert sent[0]["status"] == 503
        assert json.loads(sent[1]["body"])["code"] == "SHUTTING_DOWN"


class TestSignal:
    @pytest.fixture
    def stops(self) -> Iterator[list[int]]:
        """The signals that have reached the server."""
        received: list[int] = []

        def stop(number: int, _frame: FrameType | None) -> None:
            received.append(number)

        before = signal.signal(signal.SIGTERM, stop)
        yield received
        signal.signal(signal.SIGTERM, before)

    async def test_comes_later(
        self,
        app: FastAPI,
        stops: list[int],
        ending: asyncio.Event,
        override_settings: Callable[..., None],
    ) -> None:
        override_settings(shutdown_delay=0.01)
        with announcing_shutdown(app):
            signal.raise_signal(signal.SIGTERM)
            await ending.wait()
            assert not stops
            await asyncio.sleep(0.05)

        signal.raise_signal(signal.SIGTERM)
        assert stops == [signal.SIGTERM] * 2

    async def test_second_one_at_once(
        self, app: FastAPI, stops: list[int], ending: asyncio.Event
    ) -> None:
        with announcing_shutdown(app):
            signal.raise_signal(signal.SIGTERM)
            await ending.wait()
            signal.raise_signal(signal.SIGTERM)

        assert stops == [signal.SIGTERM]

    async def test_is_left_alone_where_nobody_waits_for_it(
        self, app: FastAPI, stops: list[int]
    ) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with announcing_shutdown(app):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    async def test_is_left_alone_in_threads(self, app: FastAPI, stops: list[int]) -> None:
        before = signal.getsignal(signal.SIGTERM)

        def run() -> None:
            with announcing_shutdown(app):
                found.append(signal.getsignal(signal.SIGTERM))

        found: list[object] = []
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

        assert found == [before]


class Ticks:
    """One tick, and then nothing; it takes a moment to clean up."""

    has_ended = False

    async def all(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            self.has_ended = True


class TestStream:
    async def test_ends_with_the_process(self, app: FastAPI, ending: asyncio.Event) -> None:
        ticks, seen = Ticks(), []

        async for tick in until_shutdown(app, ticks.all()):
            seen.append(tick)
            asyncio.get_running_loop().call_soon(ending.set)

        assert seen == [1]
        assert ticks.has_ended

    async def test_ends_with_its_reader(self, app: FastAPI) -> None:
        ticks = Ticks()

        async with aclosing(until_shutdown(app, ticks.all())) as stream:
            assert await anext(stream) == 1

        assert ticks.has_ended

    async def test_ends_with_its_client(self, app: FastAPI) -> None:
        """Starlette cancels the whole scope, at every `await`, while the items clean up."""
        ticks = Ticks()

        async def send_all() -> None:
            async for _ in until_shutdown(app, ticks.all()):
                pass

        async with create_task_group() as group:
            group.start_soon(send_all)
            await asyncio.sleep(0.01)
            group.cancel_scope.cancel()

        assert ticks.has_ended

    async def test_ends_by_itself(self, app: FastAPI) -> None:
        async def ticks() -> AsyncIterator[int]:
            yield 1
            yield 2

        assert [tick async for tick in until_shutdown(app, ticks())] == [1, 2]

    async def test_is_not_begun_later(self, app: FastAPI, ending: asyncio.Event) -> None:
        async def ticks() -> AsyncIterator[int]:
            await asyncio.Event().wait()
            yield 1

        ending.set()

        assert [tick async for tick in until_shutdown(app, ticks())] == []
