"""The application's side of a WebSocket, as uvicorn implements it.

httpx2 emulates one for its own transport, and that is used here as far as it behaves the same. In addition, the
application is told which subprotocols the client offers, can read everything that was sent before the client left, and
cannot send anything after that. An error in it closes the connection, and is raised when the test leaves it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import httpx2
from httpx2.websockets._transport import ASGIWebSocketAsyncNetworkStream

logger = logging.getLogger(__name__)

Message = dict[str, Any]

SCHEMES = {"http": "ws", "https": "wss"}
CLOSES = {"websocket.close", "websocket.http.response.start"}
OPTIONAL: dict[str, Message] = {
    "websocket.close": {"code": 1000, "reason": ""},
    "websocket.http.response.start": {"headers": []},
}
"""Default values of the fields that a message may leave out."""
ANSWERS = CLOSES | {"websocket.accept"}
HANDSHAKE_TIMEOUT = 30.0  # seconds for an application to accept
GONE_TIMEOUT = 5.0  # seconds for an application to notice that the client has gone
NOBODY_LISTENS = (anyio.ClosedResourceError, anyio.BrokenResourceError)


class Connection(ASGIWebSocketAsyncNetworkStream):
    """A WebSocket connection. Raises the application's errors if `raises`; otherwise it answers as a server does."""

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        scope: Message,
        request: httpx2.Request,
        *,
        raises: bool,
        on_wait: Callable[[str, asyncio.Task[None]], None] | None,
    ) -> None:
        protocols = request.headers.get("sec-websocket-protocol", "")
        scope |= {
            "type": "websocket",
            "asgi": scope["asgi"] | {"spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": SCHEMES.get(scope["scheme"], scope["scheme"]),
            "subprotocols": [name.strip() for name in protocols.split(",") if name],
            "extensions": {"websocket.http.response": {}},
        }
        as_sent = scope | {"path": scope["raw_path"].decode()}
        # `self` is passed as the task group, of which only `start_soon()` is needed.
        super().__init__(app, as_sent, self, HANDSHAKE_TIMEOUT)  # type: ignore[arg-type]
        self.scope = scope
        self._path, self._raises, self._on_wait = scope["path"], raises, on_wait
        self._error: Exception | None = None
        self._has_answered = self._has_closed = False

    def start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = asyncio.create_task(function())

    async def open(self) -> httpx2.Response:
        try:
            _, answer = await self.__aenter__()
        except Exception:
            if self._error is not None and self._raises:
                raise self._error from None
            raise
        fields = (line.partition(b": ") for line in answer.split(b"\r\n")[1:] if line)
        return httpx2.Response(
            101,
            headers=[(name, value) for name, _, value in fields],
            extensions={"network_stream": self},
            stream=Ending(self),
        )

    async def aclose(self) -> None:
        """Tells the application that the client has gone, and waits for the application to end."""
        await self._receive_queue.send_stream.aclose()
        await self._send_queue.receive_stream.aclose()
        await asyncio.wait([self._task], timeout=GONE_TIMEOUT)

    def raise_error(self) -> None:
        """Raises the application's error, if there was one; called at the end."""
        if self._error is None or not self._raises:
            return
        # Starlette's exception, which ends a route that does not expect it. A server would only log it.
        if type(self._error).__name__ == "WebSocketDisconnect":
            logger.error("%s does not expect that a client goes", self._path, exc_info=self._error)
        else:
            raise self._error from None

    async def _run(self) -> None:
        try:
            await self.app(self.scope, self._receive, self._send)
            if not self._has_answered:
                raise RuntimeError("The application has not accepted the WebSocket, nor closed it.")
        except Exception as error:
            self._error = error
            await self._end("")
        else:
            await self._end("The application has ended, and has not closed the WebSocket.")
        finally:
            await self._send_queue.send_stream.aclose()

    async def _end(self, reason: str) -> None:
        """Sends the client what it has not been told yet: a response of status 500, or a close."""
        messages: list[Message] = []
        if not self._has_answered:
            messages = denial(500, b"Internal Server Error")
        elif not self._has_closed:
            messages = [{"type": "websocket.close", "code": 1011, "reason": reason}]
        with suppress(OSError):
            for message in messages:
                await self._send(message)

    async def receive(self, timeout: float | None = None) -> Message:  # noqa: ASYNC109
        """Returns the application's next message to the client, with defaults for what it left out."""
        message = await super().receive(timeout)
        return OPTIONAL.get(message["type"], {}) | message

    async def _receive(self) -> Message:
        stream = self._receive_queue.receive_stream
        is_waiting = not stream.statistics().current_buffer_used  # type: ignore[attr-defined]
        if is_waiting and self._on_wait is not None:
            self._on_wait(f"The WebSocket {self._path} waits for its client", self._task)
        try:
            return await stream.receive()
        except anyio.EndOfStream:
            return {"type": "websocket.disconnect", "code": 1005}

    async def _send(self, message: Message) -> None:
        is_denied = message["type"] == "websocket.close" and not self._has_answered
        self._has_answered |= message["type"] in ANSWERS
        self._has_closed |= message["type"] in CLOSES
        try:
            for sent in denial(403) if is_denied else [message]:
                await self._send_queue.send(sent)
        except NOBODY_LISTENS:
            # Starlette turns this into a `WebSocketDisconnect`.
            raise OSError("the client has gone") from None


def denial(status: int, body: bytes = b"") -> list[Message]:
    return [
        {"type": "websocket.http.response.start", "status": status},
        {"type": "websocket.http.response.body", "body": body},
    ]


class Ending(httpx2.AsyncByteStream):
    """The body of the response that opens a connection; closed when the test leaves the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def aclose(self) -> None:
        await self._connection.aclose()
        self._connection.raise_error()
