"""A transport for httpx2 that calls an ASGI application in this process, as a server would.

httpx2's own transport returns a response only when the application has ended, so an endless stream never begins. Here a
response begins with its headers, and its chunks arrive one by one. If it is closed early, the application is told that
the client has gone. A response that is read to its end is complete only when the application has ended, including
background tasks, and an error in the application is raised. Sending what uvicorn would not send is an error too.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx2

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]
OnEvent = Callable[[str, asyncio.Task[None]], None]

ASGI = {"version": "3.0", "spec_version": "2.3"}  # as uvicorn has it
GONE_TIMEOUT = 5.0  # seconds for an application to notice that the client has gone
FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
CONTROL_CHARACTER = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
WITHOUT_BODY = (204, 304)


class ASGITransport(httpx2.AsyncBaseTransport):
    """`client` is the address that requests seem to come from. `on_wait` is called when a route goes on for as long as
    its client stays, and `on_answer` when a response is complete; both get a sentence that says so, and the
    application's task."""

    def __init__(
        self,
        app: App,
        *,
        raise_app_exceptions: bool = True,
        client: tuple[str, int] = ("127.0.0.1", 123),
        on_wait: OnEvent | None = None,
        on_answer: OnEvent | None = None,
    ) -> None:
        self.app = app
        self.raise_app_exceptions = raise_app_exceptions
        self.client = client
        self.on_wait = on_wait
        self.on_answer = on_answer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        scope: dict[str, Any] = {
            "asgi": ASGI,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port),
            "client": self.client,
            "state": {},
        }
        if request.headers.get("upgrade") == "websocket":
            return await self._connect(scope, request)
        scope |= {"type": "http", "http_version": "1.1", "method": request.method}
        return await Exchange(self, scope, request).response()

    async def _connect(self, scope: dict[str, Any], request: httpx2.Request) -> httpx2.Response:
        # Imported here: it takes 50 ms, and needs wsproto.
        from testkit.websockets import Connection

        connection = Connection(
            self.app, scope, request, raises=self.raise_app_exceptions, on_wait=self.on_wait
        )
        return await connection.open()


class Exchange:
    """One request and its response. The application runs in a task of its own."""

    def __init__(
        self, transport: ASGITransport, scope: dict[str, Any], request: httpx2.Request
    ) -> None:
        self._transport = transport
        self._request_body = aiter(request.stream)  # type: ignore[arg-type]
        self._is_request_read = False
        self._is_head = scope["method"] == "HEAD"
        self._method, self._path = scope["method"], scope["path"]
        self._is_event_stream = False
        self._is_told = False
        """Whether the client has already received the application's error, if there is one."""
        self._start: Message | None = None
        self._chunks: list[bytes] = []
        self._is_complete = False
        self._missing: int | None = None
        """Bytes of the body that are still to come, if its length was announced."""
        self._changed = asyncio.Event()
        """Set when there is something for the client: the beginning of the response, a chunk or the end."""
        self._taken = asyncio.Event()
        """Set when the client has taken all chunks."""
        self._gone = asyncio.Event()
        self._task = asyncio.create_task(self._run(scope))

    async def _run(self, scope: dict[str, Any]) -> None:
        try:
            await self._transport.app(scope, self._receive, self._send)
        finally:
            self._changed.set()

    async def _receive(self) -> Message:
        if self._is_complete:  # a server allows no more reading
            return {"type": "http.disconnect"}
        if not self._is_request_read:
            try:
                return {
                    "type": "http.request",
                    "body": await anext(self._request_body),
                    "more_body": True,
                }
            except StopAsyncIteration:
                self._is_request_read = True
                return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert self._start is None, "the application starts a second response"
            self._begin(message)
            # The client is told right away, unless the rest follows immediately.
            asyncio.get_running_loop().call_soon(self._changed.set)
            return
        assert self._start is not None, "the application sends a body before it starts a response"
        assert not self._is_complete, "the application sends more than it has announced"
        if self._gone.is_set():
            await asyncio.sleep(0)  # otherwise it might never notice
            return
        body, more_body = message.get("body", b""), message.get("more_body", False)
        if self._missing is not None:
            self._missing -= len(body)
            assert self._missing >= 0, "the application sends more than its Content-Length"
            is_whole = more_body or self._missing == 0
            assert is_whole, "the application sends less than its Content-Length"
        if body and not self._is_head:
            self._chunks.append(body)
        if not more_body:
            self._is_complete = True
            self._gone.set()
            if self._transport.on_answer is not None:
                what = f"The response to {self._method} {self._path} was complete"
                self._transport.on_answer(what, self._task)
            return
        if self._is_event_stream and self._transport.on_wait is not None:
            self._transport.on_wait(f"The event stream {self._path} goes on", self._task)
        self._changed.set()
        if self._chunks:  # the application waits if the client does not read
            self._taken.clear()
            await self._taken.wait()

    def _begin(self, start: Message) -> None:
        assert start["status"] in range(200, 600), f"{start['status']} is no status of HTTP"
        missing = 0 if start["status"] in WITHOUT_BODY else None
        for name, value in start.get("headers", []):
            is_valid = FIELD_NAME.fullmatch(name) and not CONTROL_CHARACTER.search(value)
            assert is_valid, f"the application sends what is no header: {name!r}: {value!r}"
            field = name.lower()
            if field == b"content-length":
                missing = int(value)
            elif field == b"content-type":
                self._is_event_stream = value.startswith(b"text/event-stream")
        self._missing = None if self._is_head else missing
        self._start = start

    async def response(self) -> httpx2.Response:
        try:
            while self._start is None and not self._task.done():
                await self._changed.wait()
                self._changed.clear()
        except asyncio.CancelledError:  # a time-out of the client
            await self.close()
            raise
        if self._start is None:
            self._raise()
            self._start, self._is_complete = {"status": 500}, True
        headers = self._start.get("headers", [])
        return httpx2.Response(self._start["status"], headers=headers, stream=Body(self))

    async def body(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                yield self._chunks.pop(0)
            self._taken.set()
            if self._is_complete or self._task.done():
                break
            await self._changed.wait()
            self._changed.clear()
        await asyncio.wait([self._task])
        self._raise()
        if not self._is_complete:
            raise httpx2.RemoteProtocolError("the application has not ended its response")

    def _raise(self) -> None:
        self._is_told = True
        error = self._error()
        if error is not None and self._transport.raise_app_exceptions:
            raise error

    def _error(self) -> BaseException | None:
        return None if self._task.cancelled() else self._task.exception()

    async def close(self) -> None:
        """Called when the client has gone, possibly before the end of the response."""
        self._gone.set()
        self._taken.set()
        if not self._task.done():
            await asyncio.wait([self._task], timeout=GONE_TIMEOUT)
        if not self._task.done():  # it does not check whether anybody listens
            self._task.cancel()
            await asyncio.wait([self._task])
        if not self._is_told and (error := self._error()) is not None:
            # There is nobody left to receive the error. A server would log it.
            logger.error("%s has failed after the client had gone", self._path, exc_info=error)


class Body(httpx2.AsyncByteStream):
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._exchange.body()

    async def aclose(self) -> None:
        await self._exchange.close()
