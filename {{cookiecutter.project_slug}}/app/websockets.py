"""What holds for every WebSocket, whatever the route."""

from contextlib import suppress

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.security.utils import get_authorization_scheme_param
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketState

from app.errors import problem
from app.http import holds_nul

BEARER = "bearer"
"""The protocol under which a browser offers its token, as it can send no header of its own with a WebSocket:
`new WebSocket(url, ["bearer", token])`."""
INTERNAL_ERROR = 1011


class WebSocketConventions:
    """A client that leaves is no error, and errors that nobody has foreseen are answered, and reported once.

    The server would log both with a traceback, and break off the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return

        async def send_with_protocol(message: Message) -> None:
            if message["type"] == "websocket.accept" and BEARER in scope["subprotocols"]:
                message["subprotocol"] = message["subprotocol"] or BEARER
            await send(message)

        socket = WebSocket(scope, receive, send_with_protocol)  # it knows how far they have come
        inner = problem(400, "The URL holds a NUL.") if holds_nul(scope) else self.app
        try:
            await inner(scope, socket.receive, socket.send)
            if socket.application_state is WebSocketState.CONNECTING:
                raise RuntimeError("The route has neither accepted the WebSocket nor closed it.")
        except Exception as error:
            if has_left(error):
                return
            with suppress(WebSocketDisconnect):
                if socket.application_state is WebSocketState.CONNECTED:
                    await socket.close(INTERNAL_ERROR)
                elif socket.application_state is WebSocketState.CONNECTING:
                    answer = problem(500, "Something went wrong on our side.")
                    await answer(scope, receive, send)
            scope["app"].state.report_error(error)


def has_left(error: Exception) -> bool:
    """Whether it says only that the client is gone, also to several tasks of a group."""
    if isinstance(error, ExceptionGroup):
        return all(map(has_left, error.exceptions))
    return isinstance(error, WebSocketDisconnect)


def bearer_token(socket: WebSocket) -> str:
    """From the header, or as browsers send it; empty if there is none."""
    match socket.scope["subprotocols"]:
        case [protocol, token] if protocol == BEARER:
            return str(token)
    scheme, token = get_authorization_scheme_param(socket.headers.get("authorization"))
    return token if scheme.lower() == BEARER else ""


def install_websocket_conventions(app: FastAPI) -> None:
    app.add_middleware(WebSocketConventions)
