"""Settings of tests come from fixed values, never from the developer's shell, `.env` or secrets."""

import gc
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import isclass, signature
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource

from testkit.call_site import is_ours

_sealed: set[type[BaseSettings]] = set()
VARIABLES: dict[str, str] = {}
"""The environment variables of all sealed settings classes, in upper case, mapped to the names of the settings."""


def seal(
    settings: type[BaseSettings] | Sequence[type[BaseSettings]], values: Mapping[str, str]
) -> None:
    """Restricts these settings to their defaults and `values` from now on.

    `values` are environment variables, which processes started by a test inherit. Settings that were already read are
    read again: those in variables of modules, and those cached by `lru_cache`. Raises `pytest.UsageError` if the
    settings are not valid.
    """
    classes = list(_with_nested(settings if isinstance(settings, Sequence) else [settings]))
    _sealed.update(classes)
    for each in classes:
        names = {name.upper(): field for name, field in _variables(each)}
        VARIABLES.update(names)
        delimiter = each.model_config.get("env_nested_delimiter")
        prefixes = tuple(f"{name}{delimiter}".upper() for name in names) if delimiter else ()
        for variable in list(os.environ):
            if variable.upper() in names or variable.upper().startswith(prefixes):
                del os.environ[variable]
        for source in ("env_file", "secrets_dir", "cli_parse_args"):
            each.model_config[source] = None
    os.environ.update(values)
    try:
        _read_again(tuple(classes))
        for each in settings if isinstance(settings, Sequence) else [settings]:
            each()
    except ValidationError as error:
        raise pytest.UsageError(
            f"The settings of the tests are not valid: {error}\nTheir values are given to `seal`, "
            "where the tests call it."
        ) from None


class UnsealedSettings(UserWarning):
    """The tests read some settings from the developer's shell and files."""


def warn_of_others() -> None:
    """Warns about the project's settings classes that are not sealed although others are. Call it once the tests have
    been collected."""
    if not _sealed:
        return
    for each in settings_of_project():
        is_used = each not in _sealed and not any(issubclass(one, each) for one in _sealed)
        of_tests = each.__module__.partition(".")[0] in ("tests", "conftest", "__main__")
        if is_used and not of_tests:
            warnings.warn(
                UnsealedSettings(
                    f"`{each.__qualname__}` of {each.__module__} reads the developer's shell and files, secrets "
                    "included: give it to `seal` as well, where the tests call that."
                ),
                stacklevel=2,
            )


def settings_of_project() -> Iterator[type[BaseSettings]]:
    """Yields the settings classes in the project's imported modules."""
    for each in _subclasses(BaseSettings):
        module = sys.modules.get(each.__module__)
        if is_ours(getattr(module, "__file__", None) or "<"):
            yield each


def _subclasses(kind: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _with_nested(classes: Sequence[type[BaseSettings]]) -> Iterator[type[BaseSettings]]:
    for each in classes:
        yield each
        annotations: list[Any] = [field.annotation for field in each.model_fields.values()]
        yield from _with_nested(
            [found for found in annotations if isclass(found) and issubclass(found, BaseSettings)]
        )


def _variables(settings: type[BaseSettings]) -> Iterator[tuple[str, str]]:
    """Yields each variable that is read, aliases included, with the name of its setting."""
    source = EnvSettingsSource(settings)
    for name, field in settings.model_fields.items():
        for _, variable, _ in source._extract_field_info(field, name):
            yield variable, name


def _read_again(classes: tuple[type[BaseSettings], ...]) -> None:
    for module in list(sys.modules.values()):
        # An object that stands in for a module may have any attribute, and a lazy module would be loaded.
        if type(module) is ModuleType and is_ours(vars(module).get("__file__") or "<"):
            for value in list(vars(module).values()):
                if isinstance(value, classes):
                    value.__init__()  # type: ignore[misc]  # in place, as others hold it
                elif hasattr(value, "cache_clear") and (held := list(_held(value, classes))):
                    _read_cached_again(value, held)


def _read_cached_again(function: Any, held: list[BaseSettings]) -> None:
    """Reads the settings that a cached function returns, in place. Whatever else it returns, it makes anew."""
    if not signature(function).parameters:
        cached = function()
        if any(cached is settings for settings in held):
            cached.__init__()
            return
    function.cache_clear()


def _held(
    container: Any, classes: tuple[type[BaseSettings], ...], depth: int = 2
) -> Iterator[BaseSettings]:
    for found in gc.get_referents(container):
        if isinstance(found, classes):
            yield found
        elif depth and isinstance(found, dict | list):
            yield from _held(found, classes, depth - 1)


@contextmanager
def overridden(settings: BaseSettings, **values: Any) -> Iterator[None]:
    """Gives some of these settings other values, checked as usual, until the end of the context."""
    known = type(settings).model_fields
    for name in values.keys() - known.keys():
        similar = get_close_matches(name, known, n=1)
        hint = f"; did you mean `{similar[0]}`?" if similar else ""
        raise TypeError(f"{type(settings).__name__} has no setting `{name}`{hint}")
    checked = settings.model_copy()
    for name, value in values.items():
        type(settings).__pydantic_validator__.validate_assignment(checked, name, value)
    earlier = {name: getattr(settings, name) for name in values}
    # In place, since others hold references to the object.
    settings.__dict__.update({name: getattr(checked, name) for name in values})
    try:
        yield
    finally:
        settings.__dict__.update(earlier)


class Guard:
    """Notices when settings were changed by other means. Takes a few microseconds per check."""

    def __init__(self, settings: BaseSettings) -> None:
        self.settings = settings
        self._values = dict(vars(settings))

    def restore(self) -> list[str]:
        """Undoes all changes. Returns the names of the settings that were changed."""
        found = vars(self.settings)
        if found == self._values:
            return []
        names = [name for name in self._values if found.get(name) != self._values[name]]
        found.clear()
        found.update(self._values)
        return names
