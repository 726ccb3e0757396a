"""One module per outside system: a protocol, the real client, and a provider.

A provider is the dependency that routes ask for. It makes the client when it is first needed, so
what is heavy is imported inside the provider and nowhere else. The test suite finds every provider
of this package and asks for a fake, so that no test reaches the outside by accident.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import isasyncgenfunction
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.requests import HTTPConnection

Client = TypeVar("Client")
Build = Callable[[FastAPI], Awaitable[Client] | AsyncIterator[Client]]
Provider = Callable[[HTTPConnection], Awaitable[Client]]

PROVIDERS: dict[str, Provider[Any]] = {}
"""Every provider by its service: `get_email` is here as `email`."""


def provider(build: Build[Client]) -> Provider[Client]:
    """Turns `async def get_<service>(app) -> Client` into a dependency.

    A client that has to be closed is yielded, as in `async with connect() as client: yield client`. The code after
    the `yield` runs when the application ends.

    The client is built once for each application. An override in `app.dependency_overrides` would
    do for the tests too, but a single one makes FastAPI inspect every dependency of every request
    again, which more than doubles what a request costs.
    """
    service = build.__name__.removeprefix("get_")

    async def provide(connection: HTTPConnection) -> Client:
        client: Client = await connection.app.state.services.get(service, build)
        return client

    # Not `functools.wraps`: FastAPI would look at what is wrapped, and ask the request for `app`.
    provide.__name__ = build.__name__
    provide.__module__ = build.__module__
    provide.__doc__ = build.__doc__
    PROVIDERS[service] = provide
    return provide


async def service(app: FastAPI, provider: Provider[Client]) -> Client:
    """The client of a provider, outside of requests."""
    return await provider(HTTPConnection({"type": "http", "app": app}))


class Services:
    """The clients that an application has built so far."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._clients: dict[str, Any] = {}
        self._open = AsyncExitStack()
        self._building: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, service: str, build: Build[Any]) -> Any:
        async with self._building[service]:
            if service not in self._clients:
                self._clients[service] = await self._build(build)
            return self._clients[service]

    async def _build(self, build: Build[Any]) -> Any:
        if isasyncgenfunction(build):
            return await self._open.enter_async_context(asynccontextmanager(build)(self._app))
        made: Any = build(self._app)
        return await made

    async def close(self) -> None:
        """Closes the clients that were yielded, the newest first."""
        self._clients.clear()
        await self._open.aclose()
