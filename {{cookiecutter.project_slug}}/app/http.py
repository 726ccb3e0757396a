"""What holds for every request and every response, whatever the route."""

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


class Conventions:
    """HEAD is answered where GET is, no NUL and no huge body gets further, and browsers are told to be
    careful."""

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self.app = app
        self.limited_app = RequestBodyLimitMiddleware(app, max_body_size=max_body_size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                present = dict(headers)
                wanted = ENCRYPTED_HEADERS if scope["scheme"] == "https" else HEADERS
                headers.extend(header for header in wanted if header[0] not in present)
                if present.get(b"content-type", b"").startswith(b"text/html"):  # the documentation
                    headers.remove(CONTENT_SECURITY_POLICY)
            elif method == "HEAD":
                message["body"] = b""
            await send(message)

        inner = self.app if method in SAFE_METHODS else self.limited_app
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            inner = problem(400, "The URL holds a NUL.")
        as_get = {**scope, "method": "GET"} if method == "HEAD" else scope
        await inner(as_get, receive, send_with_headers)


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
