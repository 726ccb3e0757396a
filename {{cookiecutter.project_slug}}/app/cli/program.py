"""The program that the commands belong to, and what they have in common."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn, ParamSpec

import typer
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from app.database import is_away, open_database
from app.engine import DRIVER_ERRORS
from app.settings import load_settings

Parameters = ParamSpec("Parameters")

cli = typer.Typer(
    help="The commands of this service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def fail(reason: str) -> NoReturn:
    """Ends the command: the reason goes to standard error, and the exit code is 1."""
    typer.echo(reason, err=True)
    raise typer.Exit(1)


@contextmanager
def in_plain_words() -> Iterator[None]:
    """Reports what a database or a value was refused for as a sentence, not as a traceback."""
    try:
        yield
    except ValidationError as error:
        fail("\n".join(map(in_words, error.errors())))
    except (DBAPIError, *DRIVER_ERRORS) as error:
        remedy = "" if is_away(error) else "\nHas it been migrated? `python -m app migrate`"
        fail(f"The database has refused: {said_by(error)}{remedy}")


def said_by(error: Exception) -> str:
    """The database's own message; SQLAlchemy puts the name of a class before it."""
    original = getattr(error, "orig", None) or error
    return str(original.__cause__ or original)


def in_words(problem: Mapping[str, Any]) -> str:
    """`email: value is not a valid email address`."""
    words = (*problem["loc"], problem["msg"].removeprefix("Value error, "))
    return ": ".join(map(str, words))


def with_database(function: Callable[Parameters, Awaitable[None]]) -> Callable[Parameters, None]:
    """Makes an async function a command that has a database."""

    async def call(*args: Any, **options: Any) -> None:
        settings = load_settings()
        async with open_database(settings, settings.database_url):
            await function(*args, **options)

    @wraps(function)
    def command(*args: Parameters.args, **options: Parameters.kwargs) -> None:
        with in_plain_words():
            asyncio.run(call(*args, **options))

    return command
