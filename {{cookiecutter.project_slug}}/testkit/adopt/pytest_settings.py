"""Where a project keeps the settings of pytest, and what is to be added to them."""

import configparser
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The first of them that has the table is the one that pytest reads (https://docs.pytest.org, "Configuration").
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

    @property
    def tests_folder(self) -> str:
        """The first of `testpaths`, or `tests`."""
        given = self._list("testpaths")
        there = [name for name in (*given, "tests", "test") if (self.path.parent / name).is_dir()]
        return Path(there[0] if there else "tests").as_posix()

    @property
    def environment(self) -> dict[str, str]:
        """What pytest-env sets."""
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
        """The text of the file with what it lacks; and what it has otherwise, which stays as it is."""
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
    if path.suffix != ".toml":
        parser = configparser.RawConfigParser()
        parser.read(path, encoding="utf-8")
        return dict(parser.items(table)) if parser.has_section(table) else None
    found: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    for part in table.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return dict(found)
