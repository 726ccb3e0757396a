"""Where a project keeps its pytest settings, and what has to be added to them."""

import re
import sys
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import iniconfig  # pytest reads such files with it

from testkit.adopt.source import is_test_module, python_files

# pytest reads the first of these that has the table (https://docs.pytest.org, "Configuration").
FILES = (
    ("pytest.toml", "pytest"),
    (".pytest.toml", "pytest"),
    ("pytest.ini", "pytest"),
    (".pytest.ini", "pytest"),
    ("pyproject.toml", "tool.pytest"),
    ("pyproject.toml", "tool.pytest.ini_options"),
    ("tox.ini", "pytest"),
    ("setup.cfg", "tool:pytest"),
)
NEEDED = {
    "asyncio_mode": "auto",
    "asyncio_default_fixture_loop_scope": "session",
    "asyncio_default_test_loop_scope": "session",
}


@dataclass
class PytestSettings:
    path: Path
    table: str
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> "PytestSettings":
        for name, table in FILES:
            values = _read(root / name, table)
            if values is not None and not (table == "tool.pytest" and "ini_options" in values):
                return cls(root / name, table, values)
        if (root / "pyproject.toml").exists():
            return cls(root / "pyproject.toml", "tool.pytest.ini_options")
        return cls(root / "pytest.ini", "pytest")

    @cached_property
    def tests_folder(self) -> str:
        """The first folder in `testpaths`, or else the first named `tests` or `test`, or else the first with tests."""
        root = self.path.parent
        given = [root / name for name in self._list("testpaths") if (root / name).is_dir()]
        files = list(python_files(root))
        folders = [path.parent for path in files if path.parent.name in ("tests", "test")]
        folders += [path.parent for path in files if is_test_module(path)]
        return next(iter([*given, *folders]), root / "tests").relative_to(root).as_posix()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that pytest-env sets."""
        found = {}
        for line in self._list("env", separator="\n"):
            name, equals, value = line.partition("=")
            if equals:
                found[re.sub(r"^\s*([RDU]:)*", "", name.strip())] = value.strip()
        return found

    def _list(self, name: str, separator: str | None = None) -> list[str]:
        value = self.values.get(name, [])
        return (
            [line for line in value.split(separator) if line.strip()]
            if isinstance(value, str)
            else list(value)
        )

    def merged(self, settings: dict[str, str]) -> tuple[str, list[str]]:
        """Returns the text of the file with the missing settings added, and the settings that have other values, which
        are left as they are."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        quote = '"' if self.path.suffix == ".toml" else ""
        lines, others = [], []
        for name, value in settings.items():
            if name not in self.values:
                lines.append(f"{name} = {quote}{value}{quote}\n")
            elif self.values[name] != value:
                others.append(f"{name} = {quote}{self.values[name]}{quote}")
        header = re.search(rf"^\[{re.escape(self.table)}\][^\n]*\n", text, re.MULTILINE)
        if not lines:
            return text, others
        if header:
            return text[: header.end()] + "".join(lines) + text[header.end() :], others
        gap = "\n" if text and not text.endswith("\n\n") else ""
        return f"{text}{gap}[{self.table}]\n{''.join(lines)}", others


def _read(path: Path, table: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = _table_of(path, table)
    except (tomllib.TOMLDecodeError, iniconfig.ParseError) as error:
        sys.exit(f"{path.name} cannot be read, nor can pytest read it: {error}")
    # pytest uses these files even if they have no such table.
    return {} if found is None and path.name in ("pytest.ini", ".pytest.ini") else found


def _table_of(path: Path, table: str) -> dict[str, Any] | None:
    if path.suffix != ".toml":
        section = iniconfig.IniConfig(path).sections.get(table)
        return None if section is None else dict(section)
    found: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    for part in table.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return dict(found)
