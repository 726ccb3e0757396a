"""The settings of a project: its settings classes, the environment variables they read, and values for the tests."""

import ast
import re
from collections.abc import Iterator

from testkit.adopt.source import Module, literal

NAME = "ask-for-database_isolation"
NOWHERE = {
    "postgresql": f"postgresql+asyncpg://nobody@localhost:1/{NAME}",
    "sqlite": f"sqlite+aiosqlite:////dev/null/{NAME}",
}
DATABASE_VARIABLE = re.compile(
    r"(database|db|sqlalchemy|postgres|postgresql|sqlite|pg)_?.*(url|uri|dsn)$|dsn$",
    re.I,
)
OTHER_SERVICES = re.compile(r"sentry|redis|rabbit|amqp|celery|broker|mongo|elastic|smtp|mail", re.I)
# The parts that a URL is composed of; the password and the like do not matter.
DATABASE_PARTS = {
    re.compile(r"(database|db|postgres|pg|sql).*(host|server)$", re.I): "localhost",
    re.compile(r"(database|db|postgres|pg|sql).*port$", re.I): "1",
    re.compile(r"(postgres_db|db_name|database_name|postgres_database)$", re.I): NAME,
    re.compile(r"sqlite.*(path|file|db|name)$", re.I): f"/dev/null/{NAME}",
}
MADE_UP = "made-up-for-the-tests-0123456789"
KINDS = {
    "Url": "http://localhost:1/",
    "Email": "nobody@example.com",
    "bool": "false",
    "int": "1",
    "float": "1",
    "list": "[]",
    "dict": "{}",
}

Definition = tuple[Module, ast.ClassDef]


class Settings:
    """The settings that the application's modules read, with values for tests on this kind of database."""

    def __init__(self, modules: list[Module], database: str) -> None:
        self.modules = modules
        self.nowhere = NOWHERE.get(database, "")
        self.variables: dict[str, str] = {}
        """Environment variables, as the tests should have them."""
        self.made_up: set[str] = set()
        """The variables whose values are placeholders."""
        self.classes = list(self._classes())
        for each in self.classes:
            self._read_class(each)
        for module in modules:
            for variable, is_required in _read_past_settings(module):
                self._set(variable, MADE_UP if is_required else None)

    def take_over(self, values: dict[str, str]) -> None:
        """Keeps the values that the tests already set, except those for the database."""
        for variable, value in values.items():
            if self._of_database(variable) is None:
                self.variables[variable] = value
                self.made_up.discard(variable)

    def _set(self, variable: str, placeholder: str | None) -> None:
        of_database = self._of_database(variable)
        if of_database is not None:
            self.variables[variable] = of_database
        elif placeholder is not None and variable not in self.variables:
            self.variables[variable] = placeholder
            self.made_up.add(variable)

    def _of_database(self, variable: str) -> str | None:
        """Returns a value that makes a database variable lead nowhere, or `None` for other variables."""
        if OTHER_SERVICES.search(variable):
            return None
        if DATABASE_VARIABLE.search(variable):
            return self.nowhere
        return next((v for pattern, v in DATABASE_PARTS.items() if pattern.search(variable)), None)

    def _classes(self) -> Iterator[Definition]:
        """Yields the settings classes from which no other class derives."""
        known = {"pydantic_settings.BaseSettings"}
        bases: set[str] = set()
        found: dict[str, Definition] = {}
        while True:  # a class may come after those that derive from it
            before = len(found)
            for module in self.modules:
                for name, definition in module.classes.items():
                    parents = {module.meaning(base) for base in definition.bases} & known
                    if parents:
                        known.add(f"{module.name}.{name}")
                        bases |= parents
                        found[f"{module.name}.{name}"] = module, definition
            if len(found) == before:
                break
        yield from (each for name, each in found.items() if name not in bases)

    def _read_class(self, leaf: Definition) -> None:
        lineage = list(self._lineage(leaf))
        prefix, delimiter = (
            next(filter(None, (_configured(each, name) for _, each in lineage)), "")
            for name in ("env_prefix", "env_nested_delimiter")
        )
        for module, definition in lineage:
            self._read_fields(module, definition, prefix, delimiter)

    def _lineage(self, leaf: Definition) -> Iterator[Definition]:
        """Yields a class, and the project's classes that it derives from."""
        yield leaf
        module, definition = leaf
        for base in definition.bases:
            parent = self._class_named(module.meaning(base))
            if parent is not None:
                yield from self._lineage(parent)

    def _read_fields(
        self,
        module: Module,
        definition: ast.ClassDef,
        prefix: str,
        delimiter: str,
        *,
        has_default: bool = False,
    ) -> None:
        """With `has_default`, only variables of a database are set: the field that holds the class has a value."""
        for field in definition.body:
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            name, kind = field.target.id, ast.unparse(field.annotation)
            if name == "model_config" or kind.startswith("ClassVar"):
                continue
            variable = _alias(field) or f"{prefix}{name}".upper()
            nested = self._class_named(module.meaning(field.annotation))
            is_required = _is_required(field) and not has_default
            if nested is not None:
                is_required = is_required or (self._needs_values(nested[1]) and _makes(field, kind))
                if delimiter and nested[1] is not definition:
                    path = f"{variable}{delimiter}"
                    self._read_fields(*nested, path, delimiter, has_default=not is_required)
            elif "bool" not in kind:
                self._set(variable, self._placeholder(kind) if is_required else None)
            elif is_required:
                self.variables[variable] = KINDS["bool"]

    def _needs_values(self, definition: ast.ClassDef) -> bool:
        """Whether a class gets its values from the settings that contain it, and reads none itself."""
        return not any(definition is each for _, each in self.classes)

    def _placeholder(self, kind: str) -> str:
        if "Dsn" in kind:
            return self.nowhere
        return next((value for part, value in KINDS.items() if part in kind), MADE_UP)

    def _class_named(self, name: str) -> Definition | None:
        for module in self.modules:
            definition = module.classes.get(name.rpartition(".")[2])
            if definition is not None and name == f"{module.name}.{definition.name}":
                return module, definition
        return None


def set_by_tests(modules: list[Module]) -> dict[str, str]:
    """Returns what test modules, such as a `conftest.py`, write into `os.environ`."""
    found: dict[str | None, str | None] = {}
    for module in modules:
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Assign)
                and isinstance(target := node.targets[0], ast.Subscript)
                and module.meaning(target.value) == "os.environ"
            ):
                found[literal(target.slice)] = literal(node.value)
        for call in module.calls("setdefault"):
            if module.meaning(call.func) == "os.environ.setdefault" and len(call.args) == 2:
                found[literal(call.args[0])] = literal(call.args[1])
    return {name: value for name, value in found.items() if name and value}


def _read_past_settings(module: Module) -> Iterator[tuple[str, bool]]:
    """Yields each variable that is read without a settings class, and whether it is required."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Subscript) and module.meaning(node.value) == "os.environ":
            if name := literal(node.slice):
                yield name, True
        elif isinstance(node, ast.Call) and node.args:
            name = literal(node.args[0])
            if name and module.meaning(node.func) in ("os.getenv", "os.environ.get"):
                yield name, False


def _configured(definition: ast.ClassDef, name: str) -> str:
    """Returns an option of a settings class, such as `env_prefix`, however it is written; empty if there is none."""
    for node in ast.walk(definition):
        if isinstance(node, ast.keyword) and node.arg == name:
            return literal(node.value) or ""
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return literal(node.value) or ""
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if literal(key) == name:
                    return literal(value) or ""
    return ""


def _alias(field: ast.AnnAssign) -> str | None:
    if isinstance(field.value, ast.Call):
        for keyword in field.value.keywords:
            if keyword.arg in ("alias", "validation_alias", "env"):
                return literal(keyword.value)
    return None


def _makes(field: ast.AnnAssign, kind: str) -> bool:
    """Whether the default is made by the class itself, which then needs its own values: `default_factory=Parts`."""
    keywords = field.value.keywords if isinstance(field.value, ast.Call) else []
    return any(
        keyword.arg == "default_factory" and ast.unparse(keyword.value) == kind
        for keyword in keywords
    )


def _is_required(field: ast.AnnAssign) -> bool:
    value = field.value
    if value is None:
        return True
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).endswith("Field")):
        return False
    names = {keyword.arg for keyword in value.keywords}
    first_is_dots = bool(value.args) and ast.unparse(value.args[0]) == "..."
    return first_is_dots or not (value.args or names & {"default", "default_factory"})
