"""What holds for every WebSocket, whatever the route."""

import asyncio
import traceback
from contextlib import suppress

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.security.utils import get_authorization_scheme_param
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketState

from app.errors import leaf_errors, problem
from app.http import holds_nul

BEARER = "bearer"
"""The subprotocol with which a browser sends its token, because it cannot set headers for a WebSocket:
`new WebSocket(url, ["bearer", token])`. Real subprotocols may follow."""
UNSUPPORTED_DATA, INTERNAL_ERROR = 1003, 1011
READERS = [
    reader.__code__
    for reader in (WebSocket.receive_text, WebSocket.receive_bytes, WebSocket.receive_json)
]


class WebSocketConventions:
    """Treats it as normal that a client leaves, and answers and reports each unexpected error once.

    The server would log both with a traceback, and break off the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        app = scope["app"]  # one that is mounted puts itself there
        has_left = False

        async def receive_and_note() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = message["type"] == "websocket.disconnect"
            return message

        async def send_and_note(message: Message) -> None:
            nonlocal has_left
            if message["type"] == "websocket.accept" and BEARER in scope["subprotocols"]:
                message["subprotocol"] = message.get("subprotocol") or BEARER
            try:
                await send(message)
            except OSError as error:
                has_left = True
                raise WebSocketDisconnect(1006) from error

        async def send_or_deny(message: Message) -> None:
            """Answers with a problem if a WebSocket is closed before it is accepted; a server sends a bare 403."""
            is_denied = message["type"] == "websocket.close"
            if is_denied and socket.application_state is WebSocketState.CONNECTING:
                is_found = "endpoint" in scope
                detail = message.get("reason") or "The WebSocket was refused."
                denial = problem(403, detail) if is_found else problem(404, "Not Found")
                await denial(scope, socket.receive, socket.send)
            else:
                await socket.send(message)

        # Starlette's own keeps the state of both sides.
        socket = WebSocket(scope, receive_and_note, send_and_note)
        inner = problem(400, "The URL contains a NUL character.") if holds_nul(scope) else self.app
        try:
            await inner(scope, socket.receive, send_or_deny)
            if socket.application_state is WebSocketState.CONNECTING:
                raise RuntimeError("The route has neither accepted the WebSocket nor closed it.")
        except asyncio.CancelledError:
            if not app.state.shutdown.is_set():  # else the server waits no longer
                raise
            if socket.application_state is WebSocketState.CONNECTING:
                answer = problem(503, "The process was shut down meanwhile.", code="SHUTTING_DOWN")
                with suppress(WebSocketDisconnect):
                    await answer(scope, receive, send_and_note)
        except Exception as error:
            errors = list(leaf_errors(error))
            if has_left and all(isinstance(error, WebSocketDisconnect) for error in errors):
                return
            if any(map(is_unreadable, errors)):
                with suppress(WebSocketDisconnect):
                    await socket.close(UNSUPPORTED_DATA)
                return
            with suppress(WebSocketDisconnect):
                if socket.application_state is WebSocketState.CONNECTED:
                    await socket.close(INTERNAL_ERROR)
                elif socket.application_state is WebSocketState.CONNECTING:
                    answer = problem(500, "Something went wrong on our side.")
                    await answer(scope, receive, send_and_note)
            app.state.report_error(error)


def is_unreadable(error: Exception) -> bool:
    """Whether a message is not what the route asks for: bytes instead of text, for example, or invalid JSON."""
    frames = traceback.walk_tb(error.__traceback__)
    is_read = any(frame.f_code in READERS for frame, _ in frames)
    return is_read and isinstance(error, (KeyError, ValueError, RecursionError))


def bearer_token(socket: WebSocket) -> str:
    """Returns the token from the header, or from the subprotocols, as browsers send it; empty if there is none."""
    match socket.scope["subprotocols"]:
        case [protocol, token, *_] if protocol == BEARER:
            return str(token)
    scheme, token = get_authorization_scheme_param(socket.headers.get("authorization"))
    return token if scheme.lower() == BEARER else ""


def install_websocket_conventions(app: FastAPI) -> None:
    app.add_middleware(WebSocketConventions)
