"""The document of the API, as true as the answers: schemathesis compares them (`make fuzz`)."""

import re
from functools import cache, partial
from typing import Any

from fastapi import FastAPI

from app.errors import NAMES, Problem

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
# What every route may answer, beside its own: a NUL in the URL or a body that is no JSON, and values
# that are not valid.
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
    """Says of every operation, in place, which problems it may answer by."""
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
    """Those of the resource at this path; the one with a name comes before one with parameters. The first call takes
    0.15 s, for the document."""
    paths = app.openapi()["paths"]
    found = [known for known in paths if _pattern(known).fullmatch(path)]
    resource = min(found, key=lambda known: known.count("{"), default=None)
    methods = {method.upper() for method in paths.get(resource, {})}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
