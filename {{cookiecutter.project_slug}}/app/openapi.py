"""The API document. It has to match the actual responses: schemathesis compares them (`make fuzz`)."""

import re
from functools import cache, partial
from typing import Any

from fastapi import FastAPI

from app.errors import NAMES, Problem

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
# What every route may answer besides its own responses: 400 to a NUL in the URL or a body that is not JSON, and 422
# to invalid values.
EVERYWHERE = {"400": "Bad Request", "422": "Unprocessable Content"}
WITH_BODY = {"413": "Content Too Large"}
WITH_USER = {"401": "Unauthorized"}


def install_openapi(app: FastAPI) -> None:
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            add_problems(make())
        schema: dict[str, Any] = app.openapi_schema or {}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    app.state.allowed_methods = partial(allowed_methods, app)


def add_problems(schema: dict[str, Any]) -> None:
    """Adds to every operation, in place, the problems with which it may answer."""
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema()
    for path in schema["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            wanted = EVERYWHERE | (WITH_BODY if "requestBody" in operation else {})
            wanted |= WITH_USER if operation.get("security") else {}
            for status, description in wanted.items():
                responses.setdefault(status, {"description": description})
            for status, response in responses.items():
                if status >= "400":
                    response["content"] = PROBLEM
            for number, (_, title) in NAMES.items():
                if named := responses.get(str(number)):
                    named["description"] = title


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(path)))


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """Returns the methods of the resource at this path; a literal path takes precedence over one with parameters. The
    first call takes 0.15 s, to make the document."""
    paths = app.openapi()["paths"]
    found = [known for known in paths if _pattern(known).fullmatch(path)]
    resource = min(found, key=lambda known: known.count("{"), default=None)
    methods = {method.upper() for method in paths.get(resource, {})}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
