"""What a project has that the test kit must know: engine, tables, migrations, settings, application."""

import ast
import configparser
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from testkit.adopt.pytest_settings import PytestSettings
from testkit.adopt.source import Module, literal, parameters, read_modules

DRIVERS = {"postgresql": "asyncpg", "sqlite": "aiosqlite"}
NAME = "ask-for-database_isolation"
NOWHERE = {
    "postgresql": f"postgresql+asyncpg://nobody@localhost:1/{NAME}",
    "sqlite": f"sqlite+aiosqlite:////dev/null/{NAME}",
}
DATABASE_VARIABLE = re.compile(
    r"(database|db|sqlalchemy|postgres|postgresql|sqlite|pg)_?.*(url|uri|dsn)$|^([a-z]+_)?dsn$",
    re.I,
)
OTHER_SERVICES = re.compile(r"sentry|redis|rabbit|amqp|celery|broker|mongo|elastic|smtp|mail", re.I)
# What a URL is put together from; the password and the like do not matter.
DATABASE_PARTS = {
    re.compile(r"(database|db|postgres|pg|sql).*(host|server)$", re.I): "localhost",
    re.compile(r"(database|db|postgres|pg|sql).*port$", re.I): "1",
    re.compile(r"(postgres_db|db_name|database_name|postgres_database)$", re.I): NAME,
    re.compile(r"sqlite.*(path|file|db|name)$", re.I): f"/dev/null/{NAME}",
}
HASHING = {"argon2", "bcrypt", "fastapi_users", "passlib", "pwdlib"}
MADE_UP = "made-up-for-the-tests-0123456789"
# What a fixture calls that only makes the tables.
OF_TABLES = {
    *(
        "AsyncSession",
        "async_sessionmaker",
        "begin",
        "connect",
        "create_all",
        "create_async_engine",
    ),
    *(
        "create_engine",
        "dispose",
        "drop_all",
        "fixture",
        "replace",
        "rollback",
        "run_sync",
        "sessionmaker",
    ),
}
KINDS = {
    "Dsn": None,  # the database's
    "Url": "http://localhost:1/",
    "Email": "nobody@example.com",
    "bool": "false",
    "int": "1",
    "float": "1",
    "list": "[]",
    "dict": "{}",
}


@dataclass(frozen=True)
class Named:
    """Something that can be imported, maybe with an attribute: `shop.db`, `manager`, `_engine`."""

    module: str
    name: str
    attribute: str = ""

    @property
    def expression(self) -> str:
        return f"{self.name}.{self.attribute}" if self.attribute else self.name


@dataclass
class Survey:
    root: Path
    pytest: PytestSettings
    database: str = ""
    """`sqlite` or `postgresql`."""
    engine: Named | None = None
    engine_call: str = ""
    """How an engine comes of `engine`, if that is a function: `make_engine(url)`."""
    takes_options: bool = False
    metadata: Named | None = None
    session_class: Named | None = None
    """SQLModel's, which has methods of its own."""
    sync_engines: list[Named] = field(default_factory=list)
    alembic: Path | None = None
    """`alembic.ini`, or a `pyproject.toml` that has its settings."""
    migrations: Path | None = None
    settings: list[Named] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables, as the tests should have them."""
    application: Named | None = None
    is_factory: bool = False
    hashes_passwords: bool = False
    model_modules: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def look_at(root: Path) -> Survey:
    """Reads the project in this folder; nothing is imported, and nothing is written."""
    settings = PytestSettings.of(root)
    survey = Survey(root, settings)
    folder = settings.tests_folder
    alembic = _find_alembic(survey)
    modules = read_modules(root, {root / folder, *alembic})
    tests = read_modules(root, set()) if (root / folder).is_dir() else []
    tests = [module for module in tests if (root / folder) in module.path.parents]
    _Reader(survey, modules, tests).read()
    return survey


def _find_alembic(survey: Survey) -> set[Path]:
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
            return {survey.migrations}
    return set()


def _script_location(path: Path) -> str | None:
    if not path.is_file():
        return None
    if path.suffix == ".toml":
        tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
        found: str | None = tools.get("alembic", {}).get("script_location")
        return found
    parser = configparser.RawConfigParser()
    parser.read(path, encoding="utf-8")
    return parser.get("alembic", "script_location", fallback=None)


class _Reader:
    def __init__(self, survey: Survey, modules: list[Module], tests: list[Module]) -> None:
        self.survey, self.modules, self.tests = survey, modules, tests
        self.made_up: set[str] = set()

    def read(self) -> None:
        survey = self.survey
        self._find_database()
        self._find_engine()
        self._find_sync_engines()
        self._find_metadata()
        self._find_application()
        self._find_settings()
        self._find_hashing()
        self._look_at_conftests()
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
        text += "\n".join(ast.unparse(module.tree) for module in self.modules)
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
        for module, call in places:
            for candidate in self._engines_of(module, call):
                survey.engine = candidate
                how = survey.engine_call and f", called as `{survey.engine_call}`"
                self._say("Engine", f"`{candidate.expression}` of `{candidate.module}`{how}")
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

    def _engines_of(self, module: Module, call: ast.Call) -> Iterator[Named]:
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
        for module in self.modules:
            for name, value in module.values.items():
                made = [
                    call
                    for call in module.calls("create_engine", within=value)
                    if module.meaning(call.func).startswith(("sqlalchemy.", "sqlmodel."))
                ]
                asynchronous = list(module.calls("AsyncEngine", within=value))
                if made and not asynchronous:
                    self.survey.sync_engines.append(Named(module.name, name))
                    self._say("Sync engine", f"`{name}` of `{module.name}`")

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
        for module, definition in self._settings_classes():
            survey.settings.append(Named(module.name, definition.name))
            self._say("Settings", f"`{definition.name}` of `{module.name}`")
            self._variables_of(module, definition, _configured(definition, "env_prefix"))
        for module in self.modules:
            for variable, is_required in _environment_reads(module):
                value = self._of_database(variable)
                if value is not None:
                    survey.variables[variable] = value
                elif is_required:
                    survey.variables.setdefault(variable, MADE_UP)
                    self.made_up.add(variable)
        for variable, value in {**self._set_by_conftests(), **survey.pytest.environment}.items():
            if self._of_database(variable) is None:
                survey.variables[variable] = value
                self.made_up.discard(variable)
        if self.made_up:
            survey.remarks.append(
                f"{', '.join(sorted(self.made_up))}: required, and the binding has placeholders. Check them."
            )

    def _of_database(self, variable: str) -> str | None:
        """What a variable of the database has to be, so that it leads nowhere; `None` for others."""
        if OTHER_SERVICES.search(variable):
            return None
        if DATABASE_VARIABLE.search(variable):
            return NOWHERE.get(self.survey.database, "")
        return next((v for pattern, v in DATABASE_PARTS.items() if pattern.search(variable)), None)

    def _settings_classes(self) -> list[tuple[Module, ast.ClassDef]]:
        """Those that nothing else derives from."""
        known = {"pydantic_settings.BaseSettings"}
        bases: set[str] = set()
        found: dict[str, tuple[Module, ast.ClassDef]] = {}
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
                return [each for name, each in found.items() if name not in bases]

    def _variables_of(
        self, module: Module, definition: ast.ClassDef, prefix: str, depth: int = 0
    ) -> None:
        survey = self.survey
        for item in definition.body:
            if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
                continue
            name, kind = item.target.id, ast.unparse(item.annotation)
            if name == "model_config" or kind.startswith("ClassVar"):
                continue
            variable = _alias(item) or f"{prefix}{name}".upper()
            nested = self._class_named(module.meaning(item.annotation))
            delimiter = _configured(definition, "env_nested_delimiter")
            value = None if "bool" in kind else self._of_database(variable)
            if nested is not None and depth < 3:
                if delimiter:
                    self._variables_of(*nested, f"{variable}{delimiter}", depth + 1)
            elif value is not None:
                survey.variables[variable] = value
            elif _is_required(item):
                made_up = next((value for part, value in KINDS.items() if part in kind), MADE_UP)
                survey.variables[variable] = made_up or NOWHERE.get(survey.database, "")
                self.made_up.add(variable)

    def _class_named(self, name: str) -> tuple[Module, ast.ClassDef] | None:
        for module in self.modules:
            definition = module.classes.get(name.removeprefix(f"{module.name}."))
            if definition is not None and name == f"{module.name}.{definition.name}":
                return module, definition
        return None

    def _set_by_conftests(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for module in self.tests:
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                    target = node.targets[0]
                    if module.meaning(target.value) == "os.environ":
                        found[literal(target.slice) or ""] = literal(node.value) or ""
            for call in module.calls("setdefault", "setenv"):
                if module.meaning(call.func) == "os.environ.setdefault" and len(call.args) == 2:
                    found[literal(call.args[0]) or ""] = literal(call.args[1]) or ""
        return {name: value for name, value in found.items() if name and value}

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

    # What the tests have already

    def _look_at_conftests(self) -> None:
        for module in self.tests:
            for node in ast.walk(module.tree):
                target = node.targets[0] if isinstance(node, ast.Assign) else None
                if isinstance(target, ast.Subscript) and ast.unparse(target.value).endswith(
                    "dependency_overrides"
                ):
                    self._advise(
                        module, node, "overrides a dependency: not needed for sessions any more"
                    )
            for name, value in module.values.items():
                if any(module.calls("TestClient", within=value)):
                    self._advise(
                        module,
                        value,
                        f"makes `{name}` for the whole module: make it a fixture that asks for "
                        "`database_isolation`",
                    )
                elif any(module.calls("create_async_engine", "create_engine", within=value)):
                    self._advise(module, value, f"makes an engine of its own, `{name}`: delete it")
            for function in module.functions.values():
                if _is_fixture(function):
                    self._look_at_fixture(module, function)

    def _look_at_fixture(
        self, module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef
    ) -> None:
        name, text = function.name, ast.unparse(function)
        gives = any(
            isinstance(node, ast.Yield | ast.Return) and node.value is not None
            for node in ast.walk(function)
        )
        if "create_all" in text or "drop_all" in text:
            advice = (
                "let it return the kit's `session`"
                if gives
                else "delete it, as the kit has made them already"
            )
            self._advise(module, function, f"`{name}` makes the tables: {advice}")
            calls = {node.func for node in ast.walk(function) if isinstance(node, ast.Call)}
            if {ast.unparse(call).rpartition(".")[2] for call in calls} - OF_TABLES:
                self.survey.remarks.append(
                    f"If `{name}` also writes first rows, move that into a fixture that asks for `session`."
                )
        elif any(module.calls("create_async_engine", "create_engine", within=function)):
            self._advise(
                module,
                function,
                f"`{name}` makes an engine of its own: delete it, as the kit has `engine`",
            )
        elif name in ("session", "db_session", "db", "async_session"):
            self._advise(
                module, function, f"`{name}` is a session: let it return the kit's `session`"
            )
        elif name == "event_loop":
            self._advise(
                module, function, "`event_loop` is in the way of pytest-asyncio: delete it"
            )
        if _makes_client(module, function) and _scope(function) != "function":
            self._advise(
                module,
                function,
                f"`{name}` has the scope {_scope(function)}: make it a function's, and let it "
                "ask for `database_isolation`",
            )

    def _advise(self, module: Module, node: ast.AST, advice: str) -> None:
        self.survey.remarks.append(f"{self._shown(module.path, node)}: {advice}.")


def clients_of(survey: Survey) -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Fixtures that call the application, and should ask for `database_isolation`."""
    folder = survey.root / survey.pytest.tests_folder
    for module in read_modules(folder, set()) if folder.is_dir() else ():
        for function in module.functions.values() if module.path.name == "conftest.py" else ():
            asked = [argument.arg for argument in function.args.args]
            is_client = _makes_client(module, function) and _scope(function) == "function"
            if is_client and _is_fixture(function) and "database_isolation" not in asked:
                yield module.path, function


def _makes_client(module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(module.calls("AsyncClient", "TestClient", within=function))


def _scope(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    for decorator in function.decorator_list:
        for keyword in getattr(decorator, "keywords", ()):
            if keyword.arg == "scope":
                return literal(keyword.value) or "function"
    return "function"


def _is_fixture(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("fixture" in ast.unparse(each) for each in function.decorator_list)


def _attributes_with(definition: ast.ClassDef, call: ast.Call) -> Iterator[str]:
    """`_engine`, for `self._engine = create_async_engine(...)` in its `__init__`."""
    for method in definition.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            for node in ast.walk(method):
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    if isinstance(target, ast.Attribute) and call in ast.walk(node.value):
                        yield target.attr


def _environment_reads(module: Module) -> Iterator[tuple[str, bool]]:
    """Each variable that is read past settings, and whether it must be there."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Subscript) and module.meaning(node.value) == "os.environ":
            if name := literal(node.slice):
                yield name, True
        elif isinstance(node, ast.Call) and node.args:
            name = literal(node.args[0])
            if name and module.meaning(node.func) in ("os.getenv", "os.environ.get"):
                yield name, False


def _configured(definition: ast.ClassDef, name: str) -> str:
    """A setting of a class of settings: `env_prefix`, in whatever way it is written."""
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


def _is_required(field: ast.AnnAssign) -> bool:
    value = field.value
    if value is None:
        return True
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).endswith("Field")):
        return False
    names = {keyword.arg for keyword in value.keywords}
    first_is_dots = bool(value.args) and ast.unparse(value.args[0]) == "..."
    return first_is_dots or not (value.args or names & {"default", "default_factory"})
