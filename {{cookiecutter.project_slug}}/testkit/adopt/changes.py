"""What adopting the test kit changes in a project: one new module, and a few lines elsewhere."""

import ast
import difflib
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testkit.adopt.pytest_settings import NEEDED
from testkit.adopt.source import Module
from testkit.adopt.survey import DRIVERS, Survey

BINDING = "testkit_binding.py"
# The ledger, and what the watch mode knows. The doctor asks for them too, and takes longer to import than this.
WRITTEN = (".performance/", ".testmondata*")


@dataclass
class Change:
    path: Path
    text: str

    def __post_init__(self) -> None:
        exists = self.path.exists()
        self.earlier = self.path.read_text(encoding="utf-8") if exists else ""
        # Reading normalises line endings; writing should use those of the file.
        self.line_ending = "\r\n" if exists and b"\r\n" in self.path.read_bytes() else "\n"

    def diff(self, root: Path) -> str:
        name = self.path.relative_to(root).as_posix()
        lines = difflib.unified_diff(
            _lines(self.earlier),
            _lines(self.text),
            f"a/{name}" if self.earlier else "/dev/null",
            f"b/{name}",
        )
        return "".join(lines)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.text, encoding="utf-8", newline=self.line_ending)


def _lines(text: str) -> list[str]:
    """Returns the lines as Python counts them. `splitlines` would also split at form feeds."""
    return list(io.StringIO(text))


def changes_for(survey: Survey) -> list[Change]:
    """Returns what has to be written. What cannot be written is added to the survey's remarks."""
    return [change for change in _changes(survey) if change.text != change.earlier]


def _changes(survey: Survey) -> Iterator[Change]:
    root = survey.root
    clients = survey.clients
    binding = Path(survey.pytest.tests_folder) / BINDING
    if not (root / binding).exists():
        has_client = any(path.name == "conftest.py" for path, _ in clients)
        yield Change(root / binding, binding_of(survey, with_client=not has_client))
    text, others = survey.pytest.merged({"testkit": binding.as_posix(), **NEEDED})
    yield Change(survey.pytest.path, text)
    survey.remarks += [
        f"{survey.pytest.path.name} has `{other}`, and the kit needs `{NEEDED[other.split()[0]]}`: change it."
        for other in others
        if not other.startswith("testkit")
    ]
    for path in sorted({path for path, _ in clients}):
        yield Change(path, _isolated(path, [each for at, each in clients if at == path]))
    if survey.migrations is not None:
        yield from _environment_of_alembic(survey, survey.migrations / "env.py")
    ignored = root / ".gitignore"
    listed = ignored.read_text(encoding="utf-8") if ignored.exists() else ""
    gap = "\n" if listed and not listed.endswith("\n") else ""
    added = "".join(f"{name}\n" for name in WRITTEN if name not in listed)
    yield Change(ignored, f"{listed}{gap}{added}" if added else listed)


def binding_of(survey: Survey, *, with_client: bool) -> str:
    """Returns the text of the module that binds the kit, about 40 lines."""
    with_client = with_client and survey.application is not None
    standard = [
        *(["import os"] if survey.variables else []),
        *(["from functools import partial"] if _is_variable(survey) else []),
        *(["from pathlib import Path"] if survey.alembic else []),
    ]
    libraries = [
        *(["import httpx2", "import pytest"] if with_client else []),
        *(["from fastapi import FastAPI"] if with_client and survey.is_factory else []),
    ]
    project = sorted(
        _of_the_project(survey, with_client), key=lambda line: (line.startswith("from"), line)
    )
    lines = [
        '"""Tells the test kit about this project."""',
        "",
        *standard,
        *([""] if standard else []),
        *libraries,
        *sorted(_of_the_kit(survey, with_client)),
        "",
        *_before_the_application(survey),
        *project,
        "",
        *([_sealing(survey)] if survey.settings else []),
        *([_root(survey)] if survey.alembic else []),
        *_setup(survey),
        *(_client(survey) if with_client else []),
    ]
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)) + "\n"


def _is_variable(survey: Survey) -> bool:
    return not survey.engine_call


def _before_the_application(survey: Survey) -> Iterator[str]:
    """Yields the lines that only have an effect before the application is imported."""
    if survey.variables:
        yield "# There is no such database: the tests bring their own."
        yield "SETTINGS = {"
        for name, value in sorted(survey.variables.items()):
            yield f'    "{name}": {_quoted(value)},'
        yield "}"
        yield "os.environ.update(SETTINGS)"
    if survey.hashes_passwords:
        yield "hash_cheaply()"
    if survey.variables or survey.hashes_passwords:
        yield ""
        yield "# ruff: noqa: E402  # the application is imported after that"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _of_the_project(survey: Survey, with_client: bool) -> Iterator[str]:
    named = [survey.engine, survey.metadata, *survey.settings, *survey.sync_engines]
    if survey.session_class is not None:
        named.append(survey.session_class)
    if with_client:
        named.append(survey.application)
    names: dict[str, set[str]] = {}
    for each in filter(None, named):
        names.setdefault(each.module, set()).add(each.imported)
    yield from (f"from {module} import {', '.join(sorted(names[module]))}" for module in names)
    if not with_client:
        others = [module for module in survey.model_modules if module not in names]
        yield from (f"import {module}  # noqa: F401  # its tables" for module in others)


def _of_the_kit(survey: Survey, with_client: bool) -> Iterator[str]:
    yield "from testkit.databases import DatabaseSetup"
    if not survey.takes_options:
        yield "from testkit.engines import rewired"
    if survey.settings:
        yield "from testkit.environment import seal"
    if survey.alembic:
        yield "from testkit.migrations import by_alembic"
    if survey.hashes_passwords:
        yield "from testkit.passwords import hash_cheaply"
    if with_client:
        yield "from testkit.asgi import ASGITransport"
        yield "from testkit.isolation import Isolation"


def _root(survey: Survey) -> str:
    depth = len(Path(survey.pytest.tests_folder).parts)
    return f"ROOT = Path(__file__).parents[{depth}]"


def _sealing(survey: Survey) -> str:
    names = [each.expression for each in survey.settings]
    settings = names[0] if len(names) == 1 else f"[{', '.join(names)}]"
    return f"seal({settings}, {'SETTINGS' if survey.variables else '{}'})"


def _setup(survey: Survey) -> Iterator[str]:
    assert survey.engine is not None
    assert survey.metadata is not None
    if survey.takes_options:
        create = survey.engine.name
    elif _is_variable(survey):
        create = f"partial(rewired, {survey.engine.expression})"
    else:
        create = f"lambda url, **options: rewired({survey.engine_call}, url, **options)"
    yield "SETUP = DatabaseSetup("
    yield f'    url="{survey.database}+{DRIVERS[survey.database]}://",'
    yield f"    metadata={survey.metadata.expression},"
    if survey.alembic is not None and survey.migrations is not None:
        ini = survey.alembic.relative_to(survey.root).as_posix()
        folder = survey.migrations.relative_to(survey.root).as_posix()
        yield f'    migrations=ROOT / "{folder}",'
        yield f'    migrate=by_alembic(ROOT / "{ini}", "Write a migration."),'
    else:
        yield f"    migrate={survey.metadata.expression}.create_all,"
    yield f"    create_engine={create},"
    if survey.session_class is not None:
        yield f"    sessionmaker={survey.session_class.name},"
    if survey.sync_engines:
        yield f"    sync_engines=({', '.join(each.expression for each in survey.sync_engines)},),"
    yield ")"


def _client(survey: Survey) -> Iterator[str]:
    assert survey.application is not None
    yield ""
    yield ""
    if survey.is_factory:
        yield '@pytest.fixture(scope="session")'
        yield "def app() -> FastAPI:"
        yield f"    return {survey.application.name}()"
        yield ""
        yield ""
    application = "app" if survey.is_factory else survey.application.name
    asked = "app: FastAPI, " if survey.is_factory else ""
    yield "@pytest.fixture"
    yield f"def client({asked}database_isolation: Isolation) -> httpx2.AsyncClient:"
    yield f'    return httpx2.AsyncClient(transport=ASGITransport({application}), base_url="http://test")'


def _isolated(path: Path, fixtures: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> str:
    """Returns the text of a file, changed so that these fixtures request the isolation."""
    lines = _lines(path.read_text(encoding="utf-8"))
    for function in fixtures:
        asked = "database_isolation"
        if function.returns is not None or any(each.annotation for each in function.args.args):
            asked += ": object"
        if function.args.args or function.args.kwonlyargs:
            asked += ", "
        row = function.lineno - 1
        if re.search(r"\((\s*#.*)?$", lines[row]):  # the other parameters are on the next lines
            asked = asked.rstrip()
        lines[row] = re.sub(rf"(def {function.name}\()", rf"\g<1>{asked}", lines[row], count=1)
    return "".join(lines)


def _environment_of_alembic(survey: Survey, path: Path) -> Iterator[Change]:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    if re.search(r"\.attributes\b", text):
        return  # it already uses the connection
    with suppress(SyntaxError):
        module = Module(path, "env", text, ast.parse(text))
        lines = _lines(text)
        if _hand_over(module, lines) or _hand_over_sync(module, lines):
            yield Change(path, "".join(lines))
            return
    survey.remarks.append(
        f"{path.relative_to(survey.root).as_posix()} must use the connection in "
        '`context.config.attributes["connection"]` if there is one, and where to write that is not clear. '
        "The guide shows it."
    )


def _hand_over(module: Module, lines: list[str]) -> bool:
    """Changes `lines` to use the given connection, if there is one, instead of `asyncio.run(run_async_migrations())`.
    Returns whether that was possible."""
    statements = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and any(module.calls("run", "run_until_complete", within=node))
    ]
    synced = [call for call in module.calls("run_sync") if call.args]
    if not statements or not synced:
        return False
    statement, function = statements[-1], ast.unparse(synced[-1].args[0])
    first, last = statement.lineno - 1, statement.end_lineno or statement.lineno
    indent = " " * statement.col_offset
    earlier = [f"    {line}" if line.strip() else line for line in lines[first:last]]
    lines[first:last] = [
        f'{indent}connection = context.config.attributes.get("connection")\n',
        f"{indent}if connection is None:\n",
        *earlier,
        f"{indent}else:\n",
        f"{indent}    {function}(connection)\n",
    ]
    return True


def _hand_over_sync(module: Module, lines: list[str]) -> bool:
    """Changes `lines` to use the given connection, if there is one, before `with engine_from_config(...).connect() as
    connection`. Returns whether that was possible."""
    for function in module.functions.values():
        configured = list(module.calls("configure", within=function))
        if not configured or not any(module.calls("connect", within=function)):
            continue
        call = configured[-1]
        if not any(keyword.arg == "connection" for keyword in call.keywords):
            continue
        body = function.body
        is_documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        first = body[1] if is_documented and len(body) > 1 else body[0]
        lines[first.lineno - 1 : first.lineno - 1] = [
            '    connection = context.config.attributes.get("connection")\n',
            "    if connection is not None:\n",
            f"        {ast.unparse(call)}\n",
            "        with context.begin_transaction():\n",
            "            context.run_migrations()\n",
            "        return\n",
            "\n",
        ]
        named = next(keyword for keyword in call.keywords if keyword.arg == "connection")
        place = first.lineno + 1
        lines[place] = lines[place].replace(
            f"connection={ast.unparse(named.value)}", "connection=connection"
        )
        return True
    return False
