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

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


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


def _problem(
    status: int,
    detail: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> ProblemResponse:
    standard = HTTPStatus(status)
    problem = Problem(
        title=standard.phrase, status=status, code=code or standard.name, detail=detail
    )
    return ProblemResponse(
        problem.model_dump() | jsonable_encoder(members), status_code=status, headers=headers
    )


def install_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(AppError)
    async def on_app_error(_request: Request, error: AppError) -> ProblemResponse:
        return _problem(error.status, error.detail, code=error.code)

    @app.exception_handler(HTTPException)
    async def on_http_exception(_request: Request, error: HTTPException) -> ProblemResponse:
        # fastapi-users says what is wrong with a constant, sometimes with a reason beside it.
        raw: Any = error.detail
        code, detail = (raw["code"], raw["reason"]) if isinstance(raw, dict) else (raw, raw)
        if not re.fullmatch(r"[A-Z][A-Z_]+", code):
            code = None
        return _problem(error.status_code, detail, code=code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(
        _request: Request, error: RequestValidationError
    ) -> ProblemResponse:
        # The input is left out: it may hold a password.
        errors = [
            {key: problem[key] for key in ("loc", "msg", "type")} for problem in error.errors()
        ]
        return _problem(422, "The request is not valid.", code="INVALID_REQUEST", errors=errors)

    @app.exception_handler(Exception)
    async def on_unexpected_error(_request: Request, error: Exception) -> ProblemResponse:
        logger.error("unexpected error", exc_info=error)
        return _problem(500, "Something went wrong on our side.")
