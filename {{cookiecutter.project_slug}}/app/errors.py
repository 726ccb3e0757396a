"""Errors as `application/problem+json` (RFC 9457), whoever raised them."""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)


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


class Problem(BaseModel):
    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


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
    """The response itself, for what cannot raise an `AppError`. `members` are added to the document."""
    standard = HTTPStatus(status)
    problem = Problem(
        title=standard.phrase, status=status, code=code or standard.name, detail=detail
    )
    return ProblemResponse(
        problem.model_dump() | jsonable_encoder(members), status_code=status, headers=headers
    )


class OutageError(Exception):
    """Something that the service cannot do without is away."""


def report_error(error: Exception) -> None:
    """What happens to an unexpected error. `app.state.report_error` may be another function."""
    if isinstance(error, OutageError):  # there may be very many
        logger.error("%s", error)
    else:
        logger.error("unexpected error", exc_info=error)


def install_error_handlers(app: FastAPI) -> None:
    app.state.report_error = report_error

    @app.exception_handler(AppError)
    async def on_app_error(_request: Request, error: AppError) -> ProblemResponse:
        return problem(error.status, error.detail, code=error.code, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> ProblemResponse:
        # fastapi-users says what is wrong with a constant, sometimes with a reason beside it.
        raw: Any = error.detail
        code, detail = (raw["code"], raw["reason"]) if isinstance(raw, dict) else (raw, raw)
        if not re.fullmatch(r"[A-Z][A-Z_]+", code):
            code = None
        headers = dict(error.headers or {})
        if error.status_code == 401:
            headers.setdefault("WWW-Authenticate", "Bearer")
        elif error.status_code == 405:
            headers["Allow"] = ", ".join(request.app.state.allowed_methods(request.url.path))
        return problem(error.status_code, detail, code=code, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(
        _request: Request, error: RequestValidationError
    ) -> ProblemResponse:
        # The input is left out: it may hold a password.
        errors = [
            {key: problem[key] for key in ("loc", "msg", "type")} for problem in error.errors()
        ]
        return problem(422, "The request is not valid.", code="INVALID_REQUEST", errors=errors)
