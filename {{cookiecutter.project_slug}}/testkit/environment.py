"""Settings of tests come from fixed values, never from the developer's shell or `.env`."""

import os
from collections.abc import Mapping

from pydantic_settings import BaseSettings


def seal(settings: type[BaseSettings], values: Mapping[str, str]) -> None:
    """From now on, `settings()` yields its defaults and `values`, and nothing else.

    `values` are environment variables. Processes that a test starts inherit them.
    """
    prefix = settings.model_config.get("env_prefix", "")
    names = {f"{prefix}{name}".upper() for name in settings.model_fields}
    for variable in list(os.environ):
        if variable.upper() in names:
            del os.environ[variable]
    settings.model_config["env_file"] = None
    os.environ.update(values)
