import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import BackgroundTasks, HTTPException
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from app.errors import AppError, problem
from app.main import create_app
from app.settings import Settings
from app.users.schemas import UserRead
from app.users.store import UserDatabase
from tests.fixtures.client import create_client


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

    @app.get("/any-json")
    async def any_json() -> None:
        raise HTTPException(409, [{"field": "name", "reason": "is taken"}])

    @app.get("/with-a-code")
    async def with_a_code() -> None:
        raise HTTPException(409, {"code": "OUT", "reason": "None is left.", "left": 0})

    @app.get("/gone")
    async def gone() -> None:
        raise ClientDisconnect  # as reading a body does

    @app.get("/without-a-body/{status}")
    async def without_a_body(status: int) -> None:
        raise HTTPException(status)

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        def crash() -> None:
            raise RuntimeError("secret detail")

        tasks.add_task(crash)
        return "done"

    @app.get("/large")
    async def large() -> None:
        raise HTTPException(413, "It is too large.")

    @app.get("/group/{how}")
    async def group(how: str) -> None:
        async def fail() -> None:
            if how == "in another way":
                raise HTTPException(404, "There is none.")
            raise AppError(418, "TEAPOT", "It is a teapot.")

        async def crash() -> None:
            raise RuntimeError("secret detail")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(crash() if how == "unforeseen" else fail())

    @app.get("/crash")
    async def crash() -> None:
        raise RuntimeError("secret detail")

    @app.get("/wrong-model", response_model=UserRead)
    async def wrong_model() -> dict[str, str]:
        return {"email": "ada@example.com"}

    @app.get("/breaks-off")
    async def breaks_off() -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            yield "first"
            raise RuntimeError("secret detail")

        return StreamingResponse(chunks())

    return create_client(app)


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


async def test_detail_may_be_any_json(failing_client: httpx2.AsyncClient) -> None:
    problem = (await failing_client.get("/any-json")).json()

    assert (problem["code"], problem["detail"]) == ("CONFLICT", "Conflict")
    assert problem["errors"] == [{"field": "name", "reason": "is taken"}]


async def test_detail_may_have_a_code(failing_client: httpx2.AsyncClient) -> None:
    problem = (await failing_client.get("/with-a-code")).json()

    assert (problem["code"], problem["detail"]) == ("OUT", "None is left.")
    assert problem["errors"] == {"left": 0}


async def test_client_that_breaks_off_is_no_error(
    failing_client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await failing_client.get("/gone")).status_code == 499
    assert "unexpected error" not in caplog.text


@pytest.mark.parametrize("status", [204, 304])
async def test_status_that_has_no_body(failing_client: httpx2.AsyncClient, status: int) -> None:
    response = await failing_client.get(f"/without-a-body/{status}")

    assert (response.status_code, response.content) == (status, b"")
    assert "content-length" not in response.headers


async def test_name_of_a_status_is_that_of_the_standard(
    failing_client: httpx2.AsyncClient,
) -> None:
    """The names in `http.HTTPStatus` differ between versions of Python."""
    problem = (await failing_client.get("/large")).json()

    assert (problem["code"], problem["title"]) == ("CONTENT_TOO_LARGE", "Content Too Large")


async def test_status_without_a_name() -> None:
    document = json.loads(bytes(problem(499, "The client disconnected.").body))

    assert (document["code"], document["title"]) == ("STATUS_499", "Status 499")


@pytest.mark.parametrize(
    ("how", "status"), [("foreseen", 418), ("in another way", 404), ("unforeseen", 500)]
)
async def test_error_in_a_task(failing_client: httpx2.AsyncClient, how: str, status: int) -> None:
    assert (await failing_client.get(f"/group/{how}")).status_code == status


async def test_crash_tells_nothing_and_is_logged_once(
    failing_client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await failing_client.get("/crash")

    assert response.status_code == 500
    assert response.json()["code"] == "INTERNAL_SERVER_ERROR"
    assert "secret" not in response.text
    (record,) = caplog.records
    assert record.exc_info


async def test_log_does_not_quote_what_a_response_holds(
    failing_client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await failing_client.get("/wrong-model")).status_code == 500

    assert "ada@example.com" not in caplog.text
    assert "Field required" in caplog.text


async def test_response_that_has_begun_is_broken_off(
    failing_client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        await failing_client.get("/breaks-off")

    assert "secret detail" in caplog.text


async def test_error_after_the_response_is_reported(
    failing_client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await failing_client.get("/background")).json() == "done"

    assert "secret detail" in caplog.text


async def test_error_nobody_has_foreseen_fails_the_test(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture `client` answers as in production, and then raises the error."""
    monkeypatch.setattr(UserDatabase, "get_by_email", None)

    with pytest.raises(TypeError):
        await client.post("/api/v1/auth/login", data={"username": "ada", "password": "wrong"})


@pytest.mark.parametrize(("method", "url", "status"), [("GET", "/no", 404), ("PUT", "/docs", 405)])
async def test_unknown_routes(
    failing_client: httpx2.AsyncClient, method: str, url: str, status: int
) -> None:
    response = await failing_client.request(method, url)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


async def test_documentation(failing_client: httpx2.AsyncClient) -> None:
    assert (await failing_client.get("/docs")).status_code == 200
    paths = (await failing_client.get("/openapi.json")).json()["paths"]
    responses = paths["/api/v1/users/me"]["patch"]["responses"]
    named = {status: responses[status]["description"] for status in ("413", "422")}
    assert named == {"413": "Content Too Large", "422": "Unprocessable Content"}
    assert (await failing_client.get("/openapi.json")).json()["paths"] == paths
