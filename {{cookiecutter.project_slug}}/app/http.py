"""What holds for every request and every response, whatever the route."""

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import problem
from app.settings import Settings

HEADERS = {
    # What may be kept says so itself; accounts and tokens must not be.
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STRICT_TRANSPORT_SECURITY = "max-age=31536000"


class Conventions:
    """HEAD is answered where GET is, no NUL gets further, and browsers are told to be careful."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", STRICT_TRANSPORT_SECURITY)
                if headers.get("Content-Type", "").startswith("text/html"):  # the documentation
                    del headers["Content-Security-Policy"]
            elif scope["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        inner = self.app
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            inner = problem(400, "The URL holds a NUL.")
        as_get = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        await inner(as_get, receive, send_with_headers)


def install_conventions(app: FastAPI, settings: Settings) -> None:
    app.add_middleware(Conventions)
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
