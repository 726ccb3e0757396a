"""What the test kit must know about a project: engine, tables, migrations, settings, application."""

import ast
import configparser
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from testkit.adopt.fixtures import Function, advice_on, clients_in
from testkit.adopt.pytest_settings import PytestSettings
from testkit.adopt.settings import Settings, set_by_tests
from testkit.adopt.source import Module, is_test_module, parameters, read_modules

DRIVERS = {"postgresql": "asyncpg", "sqlite": "aiosqlite"}
UNNAMED_SYNC_ENGINE = (
    "makes a sync engine. If tests reach it, add it to `sync_engines` in the binding."
)
HASHING = {"argon2", "bcrypt", "fastapi_users", "passlib", "pwdlib"}


@dataclass(frozen=True)
class Named:
    """Something that can be imported, possibly with an attribute: `shop.db`, `manager`, `_engine`."""

    module: str
    name: str
    attribute: str = ""
    alias: str = ""
    """Its name in the binding, if its own name is already taken there."""

    @property
    def expression(self) -> str:
        name = self.alias or self.name
        return f"{name}.{self.attribute}" if self.attribute else name

    @property
    def imported(self) -> str:
        return f"{self.name} as {self.alias}" if self.alias else self.name

    def beside(self, others: Iterable["Named"]) -> "Named":
        """Returns a copy, with an alias if one of the others has the same name but is something else."""
        same = [each for each in others if each.name == self.name and each.module != self.module]
        alias = f"{self.module}_{self.name}".replace(".", "_") if same else ""
        return replace(self, alias=alias)


@dataclass
class Survey:
    root: Path
    pytest: PytestSettings
    database: str = ""
    """`sqlite` or `postgresql`."""
    engine: Named | None = None
    engine_call: str = ""
    """The call that creates the engine, if `engine` is a function: `make_engine(url)`."""
    takes_options: bool = False
    metadata: Named | None = None
    session_class: Named | None = None
    """SQLModel's session class, which has methods of its own, if it is used."""
    sync_engines: list[Named] = field(default_factory=list)
    alembic: Path | None = None
    """`alembic.ini`, or a `pyproject.toml` with Alembic's settings."""
    migrations: Path | None = None
    settings: list[Named] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables, as the tests should have them."""
    clients: list[tuple[Path, Function]] = field(default_factory=list)
    """Fixtures that have to request the isolation, each with its file."""
    application: Named | None = None
    is_factory: bool = False
    hashes_passwords: bool = False
    model_modules: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def look_at(root: Path) -> Survey:
    """Reads the project in this folder; nothing is imported, and nothing is written."""
    survey = Survey(root, PytestSettings.of(root))
    _find_alembic(survey)
    tests_folder = root / survey.pytest.tests_folder
    application, tests = [], []
    for module in read_modules(root):
        folders = module.path.parents
        if is_test_module(module.path) or (tests_folder != root and tests_folder in folders):
            tests.append(module)
        elif survey.migrations not in folders:
            application.append(module)
    _Reader(survey, application, tests).read()
    return survey


def _find_alembic(survey: Survey) -> None:
    root = survey.root
    for path in (
        root / "alembic.ini",
        *sorted(root.glob("*/alembic.ini")),
        root / "pyproject.toml",
    ):
        location = _script_location(path)
        if location is not None:
            folder = Path(location.replace("%(here)s", str(path.parent)))
            survey.alembic = path
            survey.migrations = (root / folder).resolve()
            return


def _script_location(path: Path) -> str | None:
    if not path.is_file():
        return None
    if path.suffix == ".toml":
        tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
        found: str | None = tools.get("alembic", {}).get("script_location")
        return found
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except configparser.Error as error:
        sys.exit(f"{path.name} cannot be read, nor can Alembic read it: {error}")
    return parser.get("alembic", "script_location", fallback=None)


class _Reader:
    def __init__(self, survey: Survey, modules: list[Module], tests: list[Module]) -> None:
        self.survey, self.modules, self.tests = survey, modules, tests

    def read(self) -> None:
        survey = self.survey
        self._find_database()
        self._find_engine()
        self._find_sync_engines()
        self._find_metadata()
        self._find_application()
        self._find_settings()
        self._find_hashing()
        self._look_at_tests()
        if survey.alembic is not None:
            self._say("Migrations", f"{self._shown(survey.alembic)}")
        elif survey.metadata is not None:
            self._say("Migrations", "none; the tables come from `create_all`")

    def _say(self, what: str, found: str) -> None:
        self.survey.found.append(f"{what}: {found}")

    def _shown(self, path: Path, node: ast.AST | None = None) -> str:
        line = getattr(node, "lineno", None)
        shown = path.relative_to(self.survey.root).as_posix()
        return f"{shown}:{line}" if line else shown

    # The database

    def _find_database(self) -> None:
        survey = self.survey
        text = "\n".join(
            path.read_text(encoding="utf-8", errors="replace")
            for pattern in ("pyproject.toml", "*requirements*.txt", "requirements/*.txt", ".env*")
            for path in sorted(survey.root.glob(pattern))
            if path.is_file()
        )
        text += "\n".join(module.text for module in self.modules)
        kinds = [kind for kind, driver in DRIVERS.items() if re.search(rf"\b{driver}\b", text)]
        if len(kinds) > 1:
            used = [kind for kind in kinds if re.search(rf"{kind}\+{DRIVERS[kind]}", text)]
            kinds = used or kinds
        if not kinds:
            sync = " (psycopg is there, whose async mode the kit does not know)"
            survey.missing.append(
                "The driver: the kit works with asyncpg on PostgreSQL and with aiosqlite on SQLite"
                f"{sync if 'psycopg' in text else ''}, and neither is among the dependencies."
            )
            return
        survey.database = kinds[0]
        self._say("Database", f"{survey.database}, by {DRIVERS[survey.database]}")
        if len(kinds) > 1:
            survey.remarks.append(
                f"Both drivers are in use. The tests will use {survey.database}; change `url` in the "
                "binding for the other one."
            )

    # The engine

    def _find_engine(self) -> None:
        survey = self.survey
        places = [
            (module, call)
            for module in self.modules
            for call in module.calls("create_async_engine", "AsyncEngine")
        ]
        found = [
            (each, survey.engine_call, survey.takes_options)
            for module, call in places
            for each in self._engines_of(module, call)
        ]
        if found:
            found.sort(key=lambda each: not self._carries_sessions(each[0]))
            survey.engine, survey.engine_call, survey.takes_options = found[0]
            how = survey.engine_call and f", called as `{survey.engine_call}`"
            self._say("Engine", f"`{survey.engine.expression}` of `{survey.engine.module}`{how}")
            for other, call_of_other, _ in found[1:]:
                if not call_of_other:
                    survey.remarks.append(
                        f"`{other.expression}` of `{other.module}` is another engine: sessions on it reach the "
                        "tests' database, but connections that are opened on it go to the URL that it was made with."
                    )
            return
        if not places:
            survey.missing.append(
                "The engine: nothing calls `create_async_engine`. The kit needs async SQLAlchemy; a project "
                "with only sync engines cannot use it."
            )
            return
        module, call = places[0]
        survey.missing.append(
            f"The engine: {self._shown(module.path, call)} makes one that nothing outside can get at. Make it in "
            "a function that takes the URL, or assign it to a variable of the module."
        )

    def _carries_sessions(self, engine: Named) -> bool:
        """Whether sessions are made with it, as far as can be seen."""
        variable = f"{engine.module}.{engine.name}"
        return any(
            module.meaning(node) == variable
            or (isinstance(node, ast.Attribute) and node.attr == engine.attribute)
            for module in self.modules
            for call in module.calls("async_sessionmaker", "sessionmaker", "AsyncSession")
            for node in [*call.args, *(keyword.value for keyword in call.keywords)]
        )

    def _engines_of(self, module: Module, call: ast.Call) -> Iterator[Named]:
        self.survey.engine_call, self.survey.takes_options = "", False
        for name, value in module.values.items():
            if call in ast.walk(value):
                yield Named(module.name, name)
        for name, function in module.functions.items():
            if call in ast.walk(function):
                yield from self._from_function(module, name, function)
        for name, definition in module.classes.items():
            for attribute in _attributes_with(definition, call):
                for instance in self._variables_made_by(f"{module.name}.{name}"):
                    yield Named(instance.module, instance.name, attribute)

    def _from_function(
        self, module: Module, name: str, function: ast.FunctionDef | ast.AsyncFunctionDef
    ) -> Iterator[Named]:
        yield from self._variables_made_by(f"{module.name}.{name}")
        required = parameters(function)
        if isinstance(function, ast.AsyncFunctionDef) or len(required) > 1:
            return
        is_cached = any("cache" in ast.unparse(each) for each in function.decorator_list)
        self.survey.takes_options = bool(required) and function.args.kwarg is not None
        if required:
            self.survey.engine_call = f"{name}(url)"
            yield Named(module.name, name)
        elif is_cached:
            self.survey.engine_call = f"{name}()"
            yield Named(module.name, name)

    def _variables_made_by(self, maker: str) -> Iterator[Named]:
        for module in self.modules:
            for name, value in module.values.items():
                if isinstance(value, ast.Call) and module.meaning(value.func) == maker:
                    yield Named(module.name, name)

    def _find_sync_engines(self) -> None:
        """Finds the sync engines of the application itself, and only adds remarks about others, since importing a
        script may run it."""
        survey = self.survey
        package = survey.engine.module.partition(".")[0] if survey.engine else ""
        for module in self.modules:
            for name, value in module.values.items():
                if not _makes_sync_engine(module, value):
                    continue
                if module.name.partition(".")[0] == package:
                    named = Named(module.name, name)
                    others = [*filter(None, [survey.engine]), *survey.sync_engines]
                    survey.sync_engines.append(named.beside(others))
                    self._say("Sync engine", f"`{name}` of `{module.name}`")
                else:
                    survey.remarks.append(
                        f"{self._shown(module.path, value)}: {UNNAMED_SYNC_ENGINE}"
                    )
            for function in module.functions.values():
                if _makes_sync_engine(module, function):
                    survey.remarks.append(
                        f"{self._shown(module.path, function)}: {UNNAMED_SYNC_ENGINE}"
                    )

    # The tables

    def _find_metadata(self) -> None:
        survey = self.survey
        for module in self.modules:
            for name, definition in module.classes.items():
                bases = {module.meaning(base) for base in definition.bases}
                if any(base.endswith(".DeclarativeBase") for base in bases):
                    survey.metadata = survey.metadata or Named(module.name, name, "metadata")
                if any(keyword.arg == "table" for keyword in definition.keywords):
                    survey.model_modules.append(module.name)
            for name, value in module.values.items():
                made = module.meaning(value) if isinstance(value, ast.Call) else ""
                if made.endswith(".declarative_base"):
                    survey.metadata = survey.metadata or Named(module.name, name, "metadata")
        if survey.metadata is None and survey.model_modules:
            survey.metadata = Named("sqlmodel", "SQLModel", "metadata")
        for module in self.modules if survey.metadata is None else ():
            for name, value in module.values.items():
                if (
                    isinstance(value, ast.Call)
                    and module.meaning(value.func) == "sqlalchemy.MetaData"
                ):
                    survey.metadata = survey.metadata or Named(module.name, name)
            if any(module.calls("Table")):
                survey.model_modules.append(module.name)
        if survey.metadata is not None:
            base = f"{survey.metadata.module}.{survey.metadata.name}"
            for module in self.modules:
                for definition in module.classes.values():
                    if base in {module.meaning(each) for each in definition.bases}:
                        survey.model_modules.append(module.name)
            self._say("Tables", f"`{survey.metadata.expression}` of `{survey.metadata.module}`")
        else:
            survey.missing.append(
                "The tables: there is no `DeclarativeBase`, `declarative_base()`, `MetaData()` or SQLModel with "
                "a table."
            )
        survey.model_modules = sorted(set(survey.model_modules))
        for module in self.modules:
            if "sqlmodel.ext.asyncio.session.AsyncSession" in module.imports.values():
                survey.session_class = Named("sqlmodel.ext.asyncio.session", "AsyncSession")

    # The application

    def _find_application(self) -> None:
        survey = self.survey
        factories = [
            Named(module.name, name)
            for module in self.modules
            for name, function in module.functions.items()
            if any(module.calls("FastAPI", within=function))
        ]
        for module in self.modules:
            for name, value in module.values.items():
                if isinstance(value, ast.Call):
                    maker = module.meaning(value.func)
                    if maker.endswith(".FastAPI") or maker in {
                        f"{each.module}.{each.name}" for each in factories
                    }:
                        survey.application = Named(module.name, name)
        if survey.application is None and factories:
            survey.application, survey.is_factory = factories[0], True
        if survey.application is None:
            survey.remarks.append(
                "The application was not found: the binding makes no `client`. Write one, as the guide has it."
            )
        else:
            named = survey.application
            call = "()" if survey.is_factory else ""
            self._say("Application", f"`{named.name}{call}` of `{named.module}`")

    # The settings

    def _find_settings(self) -> None:
        survey = self.survey
        settings = Settings(self.modules, survey.database)
        settings.take_over(set_by_tests(self.tests) | survey.pytest.environment)
        for module, definition in settings.classes:
            named = Named(module.name, definition.name)
            survey.settings.append(named.beside(survey.settings))
            self._say("Settings", f"`{definition.name}` of `{module.name}`")
        survey.variables = settings.variables
        if settings.made_up:
            survey.remarks.append(
                f"{', '.join(sorted(settings.made_up))}: required, and the binding has placeholders. Check them."
            )

    def _find_hashing(self) -> None:
        libraries = {
            meaning.partition(".")[0]
            for module in self.modules
            for meaning in module.imports.values()
        } & HASHING
        self.survey.hashes_passwords = bool(libraries)
        if libraries:
            self._say(
                "Passwords", f"hashed by {', '.join(sorted(libraries))}; cheaply in the tests"
            )

    def _look_at_tests(self) -> None:
        for module in self.tests:
            for node, advice in advice_on(module):
                self.survey.remarks.append(f"{self._shown(module.path, node)}: {advice}.")
            for fixture in clients_in(module):
                self.survey.clients.append((module.path, fixture))


def _makes_sync_engine(module: Module, value: ast.AST) -> bool:
    made = [
        call
        for call in module.calls("create_engine", within=value)
        if module.meaning(call.func).startswith(("sqlalchemy.", "sqlmodel."))
    ]
    return bool(made) and not any(module.calls("AsyncEngine", within=value))


def _attributes_with(definition: ast.ClassDef, call: ast.Call) -> Iterator[str]:
    """Yields the attributes to which `__init__` assigns the call: `_engine` for
    `self._engine = create_async_engine(...)`."""
    for method in definition.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            for node in ast.walk(method):
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    if isinstance(target, ast.Attribute) and call in ast.walk(node.value):
                        yield target.attr
