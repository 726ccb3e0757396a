import httpx2
import pytest
from fastapi import HTTPException

from app.errors import AppError
from app.main import create_app
from app.settings import Settings


@pytest.fixture(scope="module")
def failing_client(settings: Settings) -> httpx2.AsyncClient:
    """A client of an application whose routes fail in every way."""
    app = create_app(settings)

    @app.get("/app-error")
    async def app_error() -> None:
        raise AppError(418, "TEAPOT", "It is a teapot.")

    @app.get("/http-exception")
    async def http_exception() -> None:
        raise HTTPException(401, "Who are you?", headers={"WWW-Authenticate": "Bearer"})

    @app.get("/crash")
    async def crash() -> None:
        raise RuntimeError("secret detail")

    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


async def test_application_error(failing_client: httpx2.AsyncClient) -> None:
    response = await failing_client.get("/app-error")

    assert response.status_code == 418
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank",
        "title": "I'm a Teapot",
        "status": 418,
        "code": "TEAPOT",
        "detail": "It is a teapot.",
    }


async def test_http_exception_keeps_its_headers(failing_client: httpx2.AsyncClient) -> None:
    response = await failing_client.get("/http-exception")

    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["code"] == "UNAUTHORIZED"
    assert response.json()["detail"] == "Who are you?"


async def test_crash_tells_nothing(failing_client: httpx2.AsyncClient) -> None:
    response = await failing_client.get("/crash")

    assert response.status_code == 500
    assert response.json()["code"] == "INTERNAL_SERVER_ERROR"
    assert "secret" not in response.text


@pytest.mark.parametrize(("method", "url", "status"), [("GET", "/no", 404), ("PUT", "/docs", 405)])
async def test_unknown_routes(
    failing_client: httpx2.AsyncClient, method: str, url: str, status: int
) -> None:
    response = await failing_client.request(method, url)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


async def test_documentation(failing_client: httpx2.AsyncClient) -> None:
    assert (await failing_client.get("/docs")).status_code == 200
    assert "/api/v1/users/me" in (await failing_client.get("/openapi.json")).json()["paths"]
