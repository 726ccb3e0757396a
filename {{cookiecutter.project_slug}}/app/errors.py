"""Errors as `application/problem+json` (RFC 9457), whoever raised them."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, WebSocket
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import (
    RequestValidationError,
    ResponseValidationError,
    ValidationException,
    WebSocketRequestValidationError,
)
from fastapi.responses import JSONResponse
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope
from starlette.websockets import WebSocketState

logger = logging.getLogger(__name__)

Error = TypeVar("Error", bound=Exception)
Respond = Callable[[HTTPConnection, Error], "ProblemResponse"]


class AppError(Exception):
    """Raise it anywhere in the application; the client gets it as a problem document.

    `status` is the HTTP status, `code` a constant for programs, `detail` a sentence for people.
    """

    def __init__(
        self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers


def path_in_app(scope: Scope) -> str:
    """The path without the proxy's prefix, whether the proxy left it in or it was added again."""
    root: str = scope.get("app_root_path", scope.get("root_path", ""))
    path: str = scope["path"]
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


# As RFC 9110 has them; Python has changed its own in 3.13.
NAMES = {
    413: ("CONTENT_TOO_LARGE", "Content Too Large"),
    414: ("URI_TOO_LONG", "URI Too Long"),
    416: ("RANGE_NOT_SATISFIABLE", "Range Not Satisfiable"),
    422: ("UNPROCESSABLE_CONTENT", "Unprocessable Content"),
}


def names_of(status: int) -> tuple[str, str]:
    """The code and the title of a status, even of a non-standard one."""
    try:
        standard = HTTPStatus(status)
    except ValueError:
        return f"STATUS_{status}", f"Status {status}"
    return NAMES.get(status, (standard.name, standard.phrase))


class Problem(BaseModel):
    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"
    code = ""


def leaf_errors(error: Exception) -> Iterator[Exception]:
    """The error itself, or all errors of a group, however deeply nested."""
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from leaf_errors(inner)
    else:
        yield error


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may fail with these statuses."""
    return {status: {"model": Problem} for status in statuses}


def problem(
    status: int,
    detail: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> ProblemResponse:
    """The response itself, for code that cannot raise an `AppError`. `members` are added to the document."""
    name, title = names_of(status)
    problem = Problem(title=title, status=status, code=code or name, detail=detail)
    response = ProblemResponse(
        problem.model_dump() | jsonable_encoder(members), status_code=status, headers=headers
    )
    response.code = problem.code
    if not is_body_allowed_for_status_code(status):  # a server would break off the connection
        response.body = b""
        del response.headers["content-type"], response.headers["content-length"]
    return response


def answers(app: FastAPI, *kinds: type[Error]) -> Callable[[Respond[Error]], Respond[Error]]:
    """Decorates what makes a response of such errors.

    An open WebSocket gets no response: it is closed with 4000 plus the status, such as 4404, and the `code` as the
    reason.
    """

    def decorate(respond: Respond[Error]) -> Respond[Error]:
        async def answer(connection: HTTPConnection, error: Error) -> ProblemResponse | None:
            response = respond(connection, error)
            if not isinstance(connection, WebSocket):
                return response
            match connection.application_state:
                case WebSocketState.CONNECTING:
                    return response
                case WebSocketState.CONNECTED:
                    await connection.close(4000 + response.status_code, response.code)
            return None

        for kind in kinds:
            app.add_exception_handler(kind, answer)  # type: ignore[arg-type]
        return respond

    return decorate


class OutageError(Exception):
    """Something that the service cannot do without is unavailable."""


def report_error(error: Exception) -> None:
    """What happens to an unexpected error. `app.state.report_error` may be another function."""
    if isinstance(error, ResponseValidationError):
        for problem in error.errors():  # which it quotes
            problem.pop("input", None)
    if isinstance(error, OutageError):  # there may be very many, so no traceback
        logger.error("%s", error)
    else:
        logger.error("unexpected error", exc_info=error)


def install_error_handlers(app: FastAPI) -> None:
    app.state.report_error = report_error

    @answers(app, AppError)
    def on_app_error(_connection: HTTPConnection, error: AppError) -> ProblemResponse:
        return problem(error.status, error.detail, code=error.code, headers=error.headers)

    @answers(app, HTTPException)
    def on_http_exception(connection: HTTPConnection, error: HTTPException) -> ProblemResponse:
        # It may be any JSON. fastapi-users says what is wrong with a constant, sometimes with a reason beside it.
        raw: Any = error.detail
        code: str | None
        members: dict[str, Any] = {}
        match raw:
            case {"code": str(code), "reason": str(detail), **others}:
                members = {"errors": others} if others else {}
            case str():
                code = detail = raw
            case _:
                code, detail, members = None, names_of(error.status_code)[1], {"errors": raw}
        if code and not re.fullmatch(r"[A-Z][A-Z_]+", code):
            code = None
        headers = dict(error.headers or {})
        if error.status_code == 401:
            headers.setdefault("WWW-Authenticate", "Bearer")
        elif error.status_code == 405:
            methods = connection.app.state.allowed_methods(path_in_app(connection.scope))
            headers |= {"Allow": ", ".join(methods)} if methods else {}
        return problem(error.status_code, detail, code=code, headers=headers, **members)

    @answers(app, ExceptionGroup)
    def on_group(connection: HTTPConnection, group: ExceptionGroup[Exception]) -> ProblemResponse:
        """What the tasks of an `asyncio.TaskGroup` have raised: the first of them is the answer."""
        errors = list(leaf_errors(group))
        if not all(isinstance(error, (AppError, HTTPException)) for error in errors):
            raise group
        first: Any = errors[0]
        respond = on_app_error if isinstance(first, AppError) else on_http_exception
        return respond(connection, first)

    @answers(app, RequestValidationError, WebSocketRequestValidationError)
    def on_invalid_request(
        _connection: HTTPConnection, error: ValidationException
    ) -> ProblemResponse:
        # The input is left out: it may hold a password.
        errors = [
            {key: problem[key] for key in ("loc", "msg", "type")} for problem in error.errors()
        ]
        return problem(422, "The request is not valid.", code="INVALID_REQUEST", errors=errors)
