"""The settings, and the document of the API."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from dotenv import dotenv_values
from pydantic import SecretStr

from app.cli.program import cli, fail
from app.settings import SECRETS, Settings, load_settings

# In URLs.
PASSWORD = re.compile(r"(?<=://)([^:/?#@]*:).*(?=@)")
SECRETS_OF_QUERY = re.compile(r"([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", re.IGNORECASE)


@cli.command()
def settings(
    check: Annotated[
        bool, typer.Option("--check", help="Say nothing if they are valid; else fail.")
    ] = False,
) -> None:
    """Show the settings in effect and where each comes from, without secrets."""
    effective = load_settings()
    if check:
        return
    for name, value, source in described(effective):
        typer.echo(f"{name}={value}  # {source}")


def described(effective: Settings) -> Iterator[tuple[str, str, str]]:
    """For each setting, its variable, its value, and where that comes from."""
    environment = {name.upper() for name in os.environ}
    file = Settings.model_config.get("env_file")
    in_file = {name.upper() for name in dotenv_values(str(file))} if file else set()
    for name in Settings.model_fields:
        variable = name.upper()
        source = "default"
        if variable in environment:
            source = "environment"
        elif variable in in_file:
            source = str(file)
        elif SECRETS and (SECRETS / name).exists():
            source = str(SECRETS / name)
        yield variable, shown(getattr(effective, name)), source


def shown(value: Any) -> str:
    """The value as one would write it, with secrets masked."""
    if isinstance(value, SecretStr):
        return str(value)
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, str):
        return SECRETS_OF_QUERY.sub(r"\1***", PASSWORD.sub(r"\1***", value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


@cli.command()
def openapi(
    output: Annotated[
        Path | None, typer.Option(help="The file to write; standard output by default.")
    ] = None,
) -> None:
    """Write the OpenAPI document, for clients of the API."""
    from app.main import create_app

    document = json.dumps(create_app().openapi(), indent=2, ensure_ascii=False)
    if output is None:
        typer.echo(document)
    else:
        try:
            output.write_text(f"{document}\n", encoding="utf-8")
        except OSError as error:
            fail(f"{output} cannot be written: {error.strerror}.")
