"""What holds for every request and every response, whatever the route."""

import asyncio
from functools import partial

from fastapi import FastAPI
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.database import SAFE_METHODS
from app.errors import problem
from app.settings import Settings

# As ASGI has them: in bytes, the names in lower case.
HEADERS = (
    # What may be kept says so itself; accounts and tokens must not be.
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
ENCRYPTED_HEADERS = (*HEADERS, (b"strict-transport-security", b"max-age=31536000"))
CONTENT_SECURITY_POLICY = HEADERS[1]
CLOSE = (b"connection", b"close")  # the next request of the client goes to another process


class Conventions:
    """HEAD is answered where GET is, no NUL and no huge body gets further, browsers are told to be
    careful, and errors that nobody has foreseen are answered like any other, and reported once.

    Starlette would answer them and raise them again, so that the server logs them a second time and
    closes the connection, with the next request of the client on it.
    """

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self.app = app
        self.limited_app = RequestBodyLimitMiddleware(app, max_body_size=max_body_size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        is_ending: asyncio.Event = scope["app"].state.shutdown
        has_started = False
        has_head = asyncio.Event()  # the client, which wants no more

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                headers = message["headers"]
                present = dict(headers)
                wanted = ENCRYPTED_HEADERS if scope["scheme"] == "https" else HEADERS
                headers += [header for header in wanted if header[0] not in present]
                if is_ending.is_set() and scope["http_version"] in ("1.0", "1.1"):
                    headers.append(CLOSE)
                if present.get(b"content-type", b"").startswith(b"text/html"):  # the documentation
                    headers.remove(CONTENT_SECURITY_POLICY)
            elif method == "HEAD":
                if has_head.is_set():
                    return
                has_head.set()
                message = {"type": message["type"], "body": b"", "more_body": False}
            await send(message)

        inner = self.app if method in SAFE_METHODS else self.limited_app
        if holds_nul(scope):
            inner = problem(400, "The URL holds a NUL.")
        elif method not in SAFE_METHODS and announced_size(scope) > self.limited_app.max_body_size:
            # Starlette's middleware would refuse it as plain text.
            inner = problem(413, "The body of the request is too large.")
        as_get = {**scope, "method": "GET"} if method == "HEAD" else scope
        try:
            if method == "HEAD":
                receive = partial(receive_until, has_head, receive)
            await inner(as_get, receive, send_with_headers)
            if method == "HEAD":
                scope.update(as_get, method=method)  # the log wants to know the route
        except Exception as error:
            if has_started:  # only a broken connection tells the client that this is not all of it
                raise
            answer = problem(500, "Something went wrong on our side.")
            await answer(scope, receive, send_with_headers)
            scope["app"].state.report_error(error)


async def receive_until(gone: asyncio.Event, receive: Receive) -> Message:
    """What the client says, or that it has gone, so that a stream ends."""
    going = asyncio.ensure_future(gone.wait())
    saying = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({going, saying}, return_when=asyncio.FIRST_COMPLETED)
        return saying.result() if saying.done() else {"type": "http.disconnect"}
    finally:
        going.cancel()
        saying.cancel()


def holds_nul(scope: Scope) -> bool:
    """No database could look for it."""
    return "\0" in scope["path"] or b"%00" in scope["query_string"]


def announced_size(scope: Scope) -> int:
    """Of the body, in bytes; 0 where the client does not say it in advance."""
    size = dict(scope["headers"]).get(b"content-length", b"")
    return int(size) if size.isdigit() else 0


def install_conventions(app: FastAPI, settings: Settings) -> None:
    app.add_middleware(Conventions, max_body_size=settings.max_body_size)
    if settings.cors_origins:
        from fastapi.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
        )
    if settings.allowed_hosts != ["*"]:
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.allowed_hosts)
