"""What holds for every request and every response, whatever the route."""

import asyncio
from functools import partial

from fastapi import FastAPI
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.database import SAFE_METHODS
from app.errors import path_in_app, problem
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
CLOSE = (b"connection", b"close")  # the next request of the client goes to another process
PROBES = "/health/"


class SecurityHeaders:
    """Tells browsers to be careful, whoever answers: it is outermost but for the access log, so that refusals have the
    headers too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = scope["app"]  # one that is mounted puts itself there

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = [*message.get("headers", ())]
                if message["status"] != 304:  # the client would change what it has kept
                    headers += missing_headers(scope, dict(headers))
                message["headers"] = headers
                if app.state.shutdown.is_set() and scope.get("http_version") in ("1.0", "1.1"):
                    message["headers"].append(CLOSE)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def missing_headers(scope: Scope, present: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """What a response with these headers lacks."""
    wanted = ENCRYPTED_HEADERS if scope["scheme"] in ("https", "wss") else HEADERS
    unwanted = set(present)
    if present.get(b"content-type", b"").startswith(b"text/html"):  # the documentation
        unwanted.add(b"content-security-policy")
    return [header for header in wanted if header[0] not in unwanted]


class NamedHosts:
    """Refuses requests under unknown host names, except for probes, which use an IP address.

    Starlette's middleware decides: it calls `accept` for a known name. Its own refusal, plain text, is dropped.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: list[str]) -> None:
        self.app = app
        self.allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_known = scope["type"] == "lifespan" or path_in_app(scope).startswith(PROBES)

        async def accept(*_: object) -> None:
            nonlocal is_known
            is_known = True

        async def send_nothing(_: Message) -> None:
            pass

        if not is_known:
            check = TrustedHostMiddleware(accept, self.allowed_hosts, www_redirect=False)
            await check(scope, receive, send_nothing)
        refusal = "This host name is not allowed."
        chosen = self.app if is_known else problem(400, refusal, code="UNKNOWN_HOST")
        await chosen(scope, receive, send)


class HeadAsGet:
    """Answers HEAD where GET is answered, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        head_is_sent = asyncio.Event()  # and with it all that the client wants

        async def send_head(message: Message) -> None:
            if head_is_sent.is_set():
                return
            if message["type"] != "http.response.start":
                head_is_sent.set()
                message = {"type": message["type"], "body": b"", "more_body": False}
            await send(message)

        # A copy: the server looks into the original to decide whether a body may follow.
        as_get = {**scope, "method": "GET"}
        try:
            await self.app(as_get, partial(receive_until, head_is_sent, receive), send_head)
        finally:
            scope.update(as_get, method="HEAD")  # the log wants to know the route


class Conventions:
    """No NUL and no huge body gets further, and unforeseen errors are answered like any other, and reported once.

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
        method, app = scope["method"], scope["app"]
        has_started = is_complete = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started, is_complete
            if message["type"] == "http.response.start":
                has_started = True
            else:
                is_complete = not message.get("more_body", False)
            await send(message)

        inner = self.app if method in SAFE_METHODS else self.limited_app
        if holds_nul(scope):
            inner = problem(400, "The URL contains a NUL character.")
        elif method not in SAFE_METHODS and announced_size(scope) > self.limited_app.max_body_size:
            # Starlette's middleware would refuse it as plain text.
            inner = problem(413, "The body of the request is too large.")
        try:
            await inner(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if not app.state.shutdown.is_set():  # else the server waits no longer
                raise
            if not has_started:
                answer = problem(503, "The process was shut down meanwhile.", code="SHUTTING_DOWN")
                await answer(scope, receive, send_and_note)
        except Exception as error:
            # In the middle of its body. Once the response is complete, reading the body is a mistake.
            has_left = isinstance(error, ClientDisconnect) and not is_complete
            if not has_started:
                answer = problem(500, "Something went wrong on our side.")
                if has_left:  # nobody reads it, but it is in the log
                    answer = problem(499, "The client disconnected.")
                await answer(scope, receive, send_and_note)
            # The server breaks off a response that has begun and not ended, so that the client notices.
            if not has_left:
                app.state.report_error(error)


async def receive_until(is_done: asyncio.Event, receive: Receive) -> Message:
    """The client's next message, or a disconnect once nothing more will be sent, so that a stream ends."""
    waiting = asyncio.ensure_future(is_done.wait())
    receiving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({waiting, receiving}, return_when=asyncio.FIRST_COMPLETED)
        return receiving.result() if receiving.done() else {"type": "http.disconnect"}
    finally:
        waiting.cancel()
        receiving.cancel()


def holds_nul(scope: Scope) -> bool:
    """Whether the URL contains a NUL character, which no database can look for."""
    return "\0" in scope["path"] or b"%00" in scope["query_string"]


def announced_size(scope: Scope) -> int:
    """Of the body, in bytes; 0 where the client does not say it in advance."""
    size = dict(scope["headers"]).get(b"content-length", b"").lstrip(b"0")
    return int(size) if size.isdigit() else 0


def install_conventions(app: FastAPI, settings: Settings) -> None:
    app.add_middleware(Conventions, max_body_size=settings.max_body_size)
    app.add_middleware(HeadAsGet)
    if settings.cors_origins:
        from fastapi.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    if settings.allowed_hosts != ["*"]:
        app.add_middleware(NamedHosts, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(SecurityHeaders)
