"""What holds for every request and every response."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from app.main import create_app
from app.settings import Settings
from tests.fixtures.client import create_client

REGISTER = "/api/v1/auth/register"


@pytest.fixture
def configured(settings: Settings) -> Callable[..., httpx2.AsyncClient]:
    """A client of an application with other settings."""

    def configure(**values: object) -> httpx2.AsyncClient:
        return create_client(create_app(settings.model_copy(update=values)))

    return configure


async def test_head_is_answered_like_get(client: httpx2.AsyncClient) -> None:
    response = await client.head("/health/live")

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "15"


async def test_head_of_a_stream_ends_it(settings: Settings) -> None:
    app = create_app(settings)
    ended: list[str] = []

    @app.get("/ticks")
    async def ticks() -> StreamingResponse:
        async def forever() -> AsyncIterator[str]:
            try:
                while True:
                    yield "tick"
                    await asyncio.sleep(0)
            finally:
                ended.append("ticks")

        return StreamingResponse(forever(), headers={"X-Name": "ticks"})

    response = await create_client(app).head("/ticks")

    assert (response.headers["x-name"], response.content) == ("ticks", b"")
    assert ended == ["ticks"]


async def test_head_of_a_route_that_reads_what_is_sent(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/echo")
    async def echo(request: Request) -> Response:
        return Response(headers={"X-Length": str(len(await request.body()))})

    response = await create_client(app).request("HEAD", "/echo", content=b"hello")

    assert response.headers["x-length"] == "5"


async def test_browsers_are_told_to_be_careful(client: httpx2.AsyncClient) -> None:
    headers = (await client.get("/health/live")).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "strict-transport-security" not in headers


async def test_browsers_come_back_encrypted(client: httpx2.AsyncClient) -> None:
    headers = (await client.get("https://test/health/live")).headers

    assert headers["strict-transport-security"]


async def test_documentation_may_run_its_scripts(client: httpx2.AsyncClient) -> None:
    assert "content-security-policy" not in (await client.get("/docs")).headers


async def test_page_may_have_a_policy_of_its_own(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("hello", headers={"Content-Security-Policy": "default-src 'self'"})

    response = await create_client(app).get("/page")

    assert response.headers.get_list("content-security-policy") == ["default-src 'self'"]


async def test_page_that_has_not_changed_keeps_its_headers(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/page")
    async def page() -> Response:
        return Response(status_code=304)

    response = await create_client(app).get("/page")

    assert "content-security-policy" not in response.headers


async def test_mounted_application_has_the_headers_too(settings: Settings) -> None:
    app = create_app(settings)
    mounted = FastAPI()
    app.mount("/admin", mounted)

    @mounted.get("/")
    async def home() -> str:
        return "hello"

    response = await create_client(app).get("/admin/")

    assert response.status_code == 200
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_documentation_is_for_developers(
    configured: Callable[..., httpx2.AsyncClient],
) -> None:
    async def status(**values: object) -> int:
        return (await configured(**values).get("/openapi.json")).status_code

    assert await status(environment="development") == 200
    assert await status(environment="production") == 404
    assert await status(environment="production", docs=True) == 200
    assert await status(environment="development", docs=False) == 404


@pytest.mark.parametrize("url", ["/health/live?a=%00", "/health/%00", f"{REGISTER}?limit=1%00"])
async def test_no_nul_gets_through(client: httpx2.AsyncClient, url: str) -> None:
    response = await client.get(url)

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


async def chunks() -> AsyncIterator[bytes]:
    yield b" " * 1000
    yield b" "


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_body_that_is_too_large_is_refused(
    configured: Callable[..., httpx2.AsyncClient], in_chunks: bool
) -> None:
    content = chunks() if in_chunks else b" " * 1001
    response = await configured(max_body_size=1000).post(REGISTER, content=content)

    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("size", "status"), [("1", 422), ("1001", 413)])
async def test_announced_size_may_have_zeros_in_front(
    configured: Callable[..., httpx2.AsyncClient], size: str, status: int
) -> None:
    """So many that Python refuses to read the number."""
    headers = {"Content-Length": "0" * 5000 + size}
    client = configured(max_body_size=1000)

    assert (await client.post(REGISTER, content=b" ", headers=headers)).status_code == status


@pytest.mark.parametrize("opening", ["[", '{"a":'])
async def test_body_that_is_too_deep_is_refused(client: httpx2.AsyncClient, opening: str) -> None:
    response = await client.post(REGISTER, content=opening * 100_000)

    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


async def test_only_named_hosts_are_answered(
    configured: Callable[..., httpx2.AsyncClient],
) -> None:
    client = configured(allowed_hosts=["api.example.com"])

    assert (await client.get("http://api.example.com/nowhere")).status_code == 404
    refused = await client.get("http://evil.example.com/nowhere")
    assert refused.status_code == 400
    assert refused.json()["code"] == "UNKNOWN_HOST"
    assert refused.headers["x-content-type-options"] == "nosniff"


async def test_probes_ask_for_an_address(configured: Callable[..., httpx2.AsyncClient]) -> None:
    client = configured(allowed_hosts=["api.example.com"])

    assert (await client.get("http://10.1.2.3:8000/health/live")).status_code == 200


async def test_what_a_proxy_takes_away_from_the_path(settings: Settings) -> None:
    """uvicorn puts the prefix back before the path."""
    app = create_app(settings.model_copy(update={"allowed_hosts": ["api.example.com"]}))
    app.root_path = "/shop"
    client = create_client(app)

    assert (await client.get("http://10.1.2.3/shop/health/live")).status_code == 200
    refused = await client.put("http://api.example.com/shop/api/v1/users/me")
    assert sorted(refused.headers["allow"].split(", ")) == ["GET", "HEAD", "PATCH"]


async def test_other_origins_are_let_in_by_name(
    configured: Callable[..., httpx2.AsyncClient],
) -> None:
    client = configured(cors_origins=["https://app.example.com"])

    for origin, allowed in (("https://app.example.com", True), ("https://evil.example", False)):
        response = await client.options(
            REGISTER, headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
        )
        assert ("access-control-allow-origin" in response.headers) == allowed
        answer = await client.get("/health/live", headers={"Origin": origin})
        assert "retry-after" in answer.headers["access-control-expose-headers"].lower()
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example, https://b.example,")

    assert Settings().cors_origins == ["https://a.example", "https://b.example"]


@pytest.mark.parametrize(
    ("path", "methods"), [("/api/v1/users/me", "GET, HEAD, PATCH"), ("/docs", "GET, HEAD")]
)
async def test_methods_of_all_routes_are_named(
    client: httpx2.AsyncClient, path: str, methods: str
) -> None:
    response = await client.put(path)

    assert response.status_code == 405
    assert sorted(response.headers["allow"].split(", ")) == methods.split(", ")
