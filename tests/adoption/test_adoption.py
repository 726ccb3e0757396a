"""The test kit in projects that were not generated, by `python -m testkit adopt` and by the guide."""

import re
import shutil
import textwrap
from pathlib import Path

import pexpect
import pytest

from tests.commands import ROOT, UV, clean_environment, commit_all, outcome, run
from tests.releases import NEW

GUIDE = (ROOT / "docs" / "adopting.md").read_text()
DATABASES = {"clinic": "postgresql", "notes": "sqlite", "shop": "postgresql"}
PRODUCTION = "postgresql+asyncpg://production.example.com/precious"


def blocks(part: int, language: str) -> list[str]:
    """The blocks of a part of the guide."""
    (text,) = re.findall(rf"^## {part}\. .*?(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


class Sample:
    """A project of another team, in which nothing of the kit is bound yet."""

    def __init__(self, path: Path, releases: Path, database: str) -> None:
        self.path, self.releases, self.database = path, releases, database

    def shell(self, command: str, check: bool = True) -> str:
        command = command.replace("https://github.com/org/fast-fastapi", f"file://{self.releases}")
        command = re.sub(r"v\d+\.\d+\.\d+", NEW, command).replace(
            "[postgresql]", f"[{self.database}]"
        )
        settings = {"SHOP_DSN": PRODUCTION, "PYTHONWARNINGS": "default"}
        return run("bash", "-euc", command, cwd=self.path, check=check, **settings).stdout

    def install(self) -> None:
        (command,) = blocks(1, "sh")
        self.shell(command)

    def adopt(self, *, check: bool = True) -> str:
        return self.shell("uv run python -m testkit adopt --yes", check=check)

    def pytest(self, *options: str) -> str:
        return self.shell(" ".join(["uv run pytest", *options]))

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def edit(self, name: str, old: str, new: str) -> None:
        text = self.read(name)
        assert text.count(old) == 1, (name, old)
        (self.path / name).write_text(text.replace(old, new))

    def delete_fixture(self, name: str, conftest: str) -> None:
        """As the kit asks for."""
        fixture = rf"@pytest\.fixture[^\n]*\n(async )?def {name}\(.*?\n\n\n"
        text, count = re.subn(fixture, "", self.read(conftest), flags=re.DOTALL)
        assert count == 1
        (self.path / conftest).write_text(text)


@pytest.fixture
def sample(request: pytest.FixtureRequest, releases: Path, tmp_path: Path) -> Sample:
    name, database = request.param
    shutil.copytree(Path(__file__).parent / name, tmp_path / name)
    found = Sample(tmp_path / name, releases, database)
    commit_all(found.path)
    found.install()
    return found


def of(name: str) -> pytest.MarkDecorator:
    value = pytest.param((name, DATABASES[name]), id=f"{name}-{DATABASES[name]}")
    return pytest.mark.parametrize("sample", [value], indirect=True)


@pytest.mark.parametrize(
    "sample",
    [pytest.param(("shop", database), id=database) for database in ("postgresql", "sqlite")],
    indirect=True,
)
def test_shop(sample: Sample) -> None:
    assert outcome(sample.pytest()) == "1 passed"  # nothing is bound yet, and nothing is said
    if sample.database == "sqlite":
        sample.edit("pyproject.toml", '    "asyncpg>=0.30",\n', "")

    said = sample.adopt()

    assert f"Database: {sample.database}, by" in said
    binding = sample.read("tests/testkit_binding.py")
    (in_guide,) = blocks(3, "python")[:1]
    if sample.database == "postgresql":
        assert binding == in_guide.removeprefix("# tests/testkit_binding.py\n")
    assert len([line for line in binding.splitlines() if line]) <= 40
    (settings,) = blocks(3, "toml")
    assert settings in sample.read("pyproject.toml")
    assert ".performance/\n" in sample.read(".gitignore")

    (test,) = blocks(8, "python")
    (sample.path / "tests" / "test_orders.py").write_text(test)
    _, commands, *_ = blocks(2, "sh")
    output = sample.shell(commands, check=False)

    assert len(re.findall(r"^=+ 5 passed in ", output, re.MULTILINE)) == 2, output
    assert "tests/test_orders.py::test_many_at_once" in output
    assert "Settings: 2 variables are sealed" in output
    assert "Nothing keeps tests from the network" in output  # which is for the project to decide
    assert outcome(sample.pytest("-o db_isolation=rollback", "-W ignore")) == "5 passed"


@of("notes")
def test_notes(sample: Sample) -> None:
    assert outcome(sample.pytest()) == "7 passed"
    assert (sample.path / "test.db").exists()
    (sample.path / "test.db").unlink()

    said = sample.adopt()
    assert "the tables come from `create_all`" in said
    assert "testing/conftest.py:21: `tables` makes the tables: delete it" in said
    assert outcome(sample.pytest()) == "7 passed"  # also if it stays
    sample.delete_fixture("tables", "testing/conftest.py")

    assert outcome(sample.pytest()) == "7 passed"
    assert outcome(sample.pytest("-n 2")) == "7 passed"
    assert outcome(sample.pytest("-o db_isolation=rollback")) == "7 passed"
    assert not list(sample.path.glob("*.db"))
    (sample.path / "testing" / "test_sessions.py").write_text(SQLMODEL)
    assert outcome(sample.pytest("-p no:randomly")) == "9 passed"
    assert 'addopts = "-ra --strict-markers"' in sample.read("pyproject.toml")
    report = sample.shell(
        "uv run python -m testkit doctor", check=False
    )  # where warnings are errors
    assert "Tests: 9, of which 9 use the database" in report


SQLMODEL = """
import pytest
from sqlmodel import select

from notes.models import Note


@pytest.mark.parametrize("run", [1, 2])
async def test_sessions_of_tests_have_the_methods_of_sqlmodel(session, client, run):
    session.add(Note(title="Tea"))
    await session.commit()

    assert (await client.get("/notes")).json()[0]["title"] == "Tea"
    assert [note.title for note in await session.exec(select(Note))] == ["Tea"]
"""


@of("clinic")
def test_clinic(sample: Sample) -> None:
    said = sample.adopt()
    assert "`sessionmanager._engine` of `clinic.db`" in said
    assert "Sync engine: `report_engine`" in said
    assert "Passwords: hashed by bcrypt" in said
    assert "`tables` makes the tables: delete it" in said
    sample.delete_fixture("tables", "tests/conftest.py")

    assert outcome(sample.pytest()) == "5 passed"
    assert outcome(sample.pytest("-n 2", "--dist loadfile")) == "5 passed"
    report = sample.shell("uv run python -m testkit doctor", check=False)
    assert "of which 5 use the database" in report
    assert "hashed or verified at the cost of production" not in report

    # Sync engines follow the same rules.
    (sample.path / "tests" / "test_sync.py").write_text(ON_A_SYNC_ENGINE)
    output = sample.shell("uv run pytest -p no:randomly tests/test_sync.py", check=False)
    assert re.search(r"^=+ 1 failed, 4 passed, 1 error", output, re.MULTILINE), output
    assert "The database of the application is used here, at tests/test_sync.py:28" in output
    assert "a connection, opened at tests/test_sync.py:33" in output
    (sample.path / "tests" / "test_sync.py").unlink()

    # Alembic works on its own as before.
    sample.edit(
        "clinic/models.py", "    password =", "    ward = Column(String(9))\n    password ="
    )
    report = sample.shell("uv run python -m testkit doctor", check=False)
    assert "The models and the migrations differ:\n    add_column patients.ward" in report
    assert "0001" in sample.shell("DATABASE_URL=x://x SECRET=x uv run alembic history")
    offline = sample.shell(
        "DATABASE_URL=postgresql+asyncpg://x SECRET=x uv run alembic upgrade head --sql"
    )
    assert "CREATE TABLE patients" in offline


ON_A_SYNC_ENGINE = """
import threading
import time

import pytest
from sqlalchemy import text

from clinic.reports import report_engine


@pytest.fixture(scope="session")
def scheduler(engine):
    is_over = threading.Event()

    def work():
        while not is_over.wait(0.001):
            with report_engine.connect() as connection:
                connection.execute(text("SELECT 1"))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    is_over.set()
    thread.join()


def test_without_isolation():
    report_engine.connect()


def test_left_open(database_isolation):
    global connection
    connection = report_engine.connect()
    connection.execute(text("LOCK TABLE patients"))


def test_innocent(scheduler, client):
    assert client.get("/patients").json() == []


def test_without_database():
    time.sleep(0.05)


def test_detached(database_isolation):
    connection = report_engine.connect()
    connection.detach()
    connection.close()
"""
ENGINES = {
    "options": (
        "def make_engine(url: str, **options) -> AsyncEngine:\n"
        "    return create_async_engine(url, **options)\n",
        "make_engine(config.dsn)",
        "create_engine=partial(rewired, engine)",
    ),
    "lazy": (
        "@lru_cache\ndef get_engine() -> AsyncEngine:\n"
        "    return create_async_engine(config.dsn)\n",
        None,
        "create_engine=lambda url, **options: rewired(get_engine(), url, **options)",
    ),
    "function": (
        "def make_engine(url: str) -> AsyncEngine:\n    return create_async_engine(url)\n",
        None,
        "create_engine=lambda url, **options: rewired(make_engine(url), url, **options)",
    ),
    "function_with_options": (
        "def make_engine(url: str, **options) -> AsyncEngine:\n"
        "    return create_async_engine(url, **options)\n",
        None,
        "create_engine=make_engine",
    ),
}


@of("shop")
def test_engines(sample: Sample) -> None:
    (test,) = blocks(8, "python")
    for function, variable, expected in ENGINES.values():
        run("git", "clean", "-fdqx", "-e", ".venv", cwd=sample.path)
        run("git", "checkout", "-q", "--", "shop", "db_migrations", "tests", cwd=sample.path)
        used = variable or (
            "get_engine()" if "get_engine" in function else "make_engine(config.dsn)"
        )
        (sample.path / "shop" / "db.py").write_text(
            DATABASE.format(
                function=function,
                variable=f"engine = {variable}\n" if variable else "",
                engine="engine" if variable else used,
            )
        )
        if not variable:
            env = sample.read("db_migrations/env.py").replace("import engine", "import Session")
            env = env.replace("engine.connect()", "Session.kw['bind'].connect()")
            (sample.path / "db_migrations" / "env.py").write_text(env)
        run("git", "checkout", "-q", "HEAD", "--", "pyproject.toml", cwd=sample.path)
        sample.install()

        sample.adopt()
        (sample.path / "tests" / "test_orders.py").write_text(test)

        assert expected in sample.read("tests/testkit_binding.py")
        assert outcome(sample.pytest()) == "5 passed", expected


DATABASE = """
from functools import lru_cache
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from shop.config import config

{function}

{variable}
Session = async_sessionmaker({engine}, expire_on_commit=False)


async def get_db():
    async with Session() as db:
        yield db
"""


@of("shop")
def test_says_what_it_cannot_find(sample: Sample) -> None:
    def refusal(name: str, old: str, new: str) -> str:
        text = sample.read(name)
        (sample.path / name).write_text(text.replace(old, new))
        said = sample.adopt(check=False)
        (sample.path / name).write_text(text)
        assert "Nothing was written." in said
        assert "Traceback" not in said
        assert not (sample.path / "tests" / "testkit_binding.py").exists()
        return said

    assert "with only sync engines cannot use it" in refusal(
        "shop/db.py", "create_async_engine", "create_engine"
    )
    assert "The tables: there is no" in refusal("shop/tables.py", "DeclarativeBase", "Other")
    in_lifespan = "async def lifespan(app):\n    app.state.engine = create_async_engine('')\n"
    imports = "from sqlalchemy.ext.asyncio import create_async_engine\n"
    assert "shop/db.py:3 makes one that nothing outside can get at" in refusal(
        "shop/db.py", sample.read("shop/db.py"), imports + in_lifespan
    )
    sample.edit("pyproject.toml", '    "asyncpg>=0.30",\n', '    "psycopg>=3",\n')
    assert "psycopg is there, whose async mode the kit does not know" in refusal(
        "pyproject.toml", '    "aiosqlite>=0.22",\n', ""
    )


@of("shop")
def test_asks(sample: Sample) -> None:
    assert "`python -m testkit adopt --yes` writes it" in sample.shell(
        "uv run python -m testkit adopt", check=False
    )
    before = run("git", "status", "--porcelain", cwd=sample.path).stdout

    def answer(text: str) -> str:
        asked = pexpect.spawn(
            UV,
            ["run", "python", "-m", "testkit", "adopt"],
            cwd=str(sample.path),
            env=clean_environment(),
            encoding="utf-8",
        )
        asked.expect(r"Write it\? \[y/N\]")
        asked.sendline(text)
        asked.expect(pexpect.EOF)
        asked.close()
        return f"{asked.exitstatus}"

    assert answer("n") == answer("") == "1"
    assert run("git", "status", "--porcelain", cwd=sample.path).stdout == before
    assert answer("y") == "0"
    assert (sample.path / "tests" / "testkit_binding.py").exists()
    assert "is bound in this project already" in sample.adopt()


def test_says_what_is_wrong_with_a_binding(releases: Path, tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "notes", tmp_path / "notes")
    sample = Sample(tmp_path / "notes", releases, "sqlite")
    sample.install()
    sample.adopt()

    sample.edit("testing/testkit_binding.py", '    "API_KEY": "key-of-tests",\n', "")
    (sample.path / "testing" / "conftest.py").unlink()
    invalid = sample.shell("uv run pytest", check=False)
    sample.edit("pyproject.toml", "testing/testkit_binding.py", "testing/nowhere.py")
    missing = sample.shell("uv run pytest", check=False)

    assert re.search(
        r"testing/testkit_binding.py cannot be imported. ValidationError: [\s\S]* at src/notes/settings.py:\d+",
        invalid,
    )
    assert "names testing/nowhere.py, which does not exist" in missing
    sample.edit("pyproject.toml", "testing/nowhere.py", "testing/testkit_binding.py")
    binding = "from pathlib import Path\n" + sample.read("testing/testkit_binding.py").replace(
        "SETTINGS = {", 'SETTINGS = {\n    "API_KEY": "x",'
    )

    def after(old: str, new: str) -> str:
        assert old in binding
        (sample.path / "testing" / "testkit_binding.py").write_text(binding.replace(old, new))
        return sample.shell("uv run pytest -p no:cacheprovider", check=False)

    syntax = after("SETUP = ", "SETUP == = ")
    unknown = after("metadata=", "meta=")
    nothing = after("SETUP = ", "OTHER = ")
    folder = after("create_engine=", 'migrations=Path("nowhere"), create_engine=')
    assert re.search(r"SyntaxError: .*, at testing/testkit_binding.py:\d+", syntax)
    assert "unexpected keyword argument 'meta', at testing/testkit_binding.py" in unknown
    assert "testing/testkit_binding.py defines no `SETUP`" in nothing
    assert re.search(r"there is no such\s+folder", folder), folder
    for said in (invalid, missing, syntax, unknown, nothing, folder):
        assert "Traceback" not in said
        assert "INTERNALERROR" not in said


UNDONE_BY_NOBODY = """
import pytest
from httpx import ASGITransport, AsyncClient

from {application}


async def test_isolated(client):
    await client.post({post})


async def test_with_a_client_of_its_own():
    async with AsyncClient(transport=ASGITransport({app}), base_url="http://test") as own:
        await own.post({post})


async def test_after_it(client, session):
    assert (await client.get({get})).json() == []


@pytest.mark.rollback
async def test_that_disposes(client, engine):
    await client.get({get})
    await engine.dispose()
"""


@pytest.mark.parametrize(
    ("sample", "values"),
    [
        pytest.param(
            ("notes", "sqlite"),
            {
                "application": "notes.main import app",
                "app": "app",
                "post": '"/notes", json={"title": "Tea"}, headers={"X-Api-Key": "key-of-tests"}',
                "get": '"/notes"',
            },
            id="sqlite",
        ),
        pytest.param(
            ("shop", "postgresql"),
            {
                "application": "shop.web import web",
                "app": "web",
                "post": '"/orders/tea"',
                "get": '"/orders"',
            },
            id="postgresql",
        ),
    ],
    indirect=["sample"],
)
def test_a_test_that_nobody_would_undo(sample: Sample, values: dict[str, str]) -> None:
    """It fails itself, and not those after it."""
    sample.adopt()
    folder = "testing" if (sample.path / "testing").exists() else "tests"
    if folder == "testing":
        sample.delete_fixture("tables", "testing/conftest.py")
    (sample.path / folder / "test_undone.py").write_text(UNDONE_BY_NOBODY.format(**values))
    options = (
        f"-p no:randomly -W error::pytest.PytestUnraisableExceptionWarning {folder}/test_undone.py"
    )

    together = sample.shell(f"uv run pytest {options}", check=False)
    alone = sample.shell(f"uv run pytest {options} -k client_of_its_own", check=False)

    assert re.search(r"^=+ 1 failed, 3 passed", together, re.MULTILINE), together
    assert "FAILED" in together
    assert "test_with_a_client_of_its_own" in together
    assert "ask for `database_isolation`" in together
    assert "ResourceWarning" not in together
    assert re.search(r"^=+ 1 failed, 3 deselected", alone, re.MULTILINE), alone
    assert "ask for `database_isolation`" in alone


def test_passwords_are_hashed_cheaply(releases: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "hashing"\nversion = "1"\nrequires-python = ">=3.11"\n'
        'dependencies = ["pwdlib[argon2,bcrypt]", "passlib", "argon2-cffi", "bcrypt"]\n'
    )
    (project / "hashes.py").write_text(textwrap.dedent(HASHES))
    sample = Sample(project, releases, "sqlite")
    sample.install()

    hashes = sample.shell("uv run python hashes.py")

    assert hashes.count("$2b$04$") == 2
    assert hashes.count("m=8,t=1,p=1") == 3
    assert hashes.count("$pbkdf2-sha256$1$") == 1
    assert "verified" in hashes


HASHES = """
    import argon2, bcrypt
    before = argon2.PasswordHasher(time_cost=2, memory_cost=64).hash("sesame")

    from testkit.passwords import hash_cheaply
    hash_cheaply()

    from passlib.context import CryptContext
    from pwdlib import PasswordHash
    from pwdlib.hashers.argon2 import Argon2Hasher
    from pwdlib.hashers.bcrypt import BcryptHasher

    print(bcrypt.hashpw(b"sesame", bcrypt.gensalt(14)))
    print(argon2.PasswordHasher().hash("sesame"))
    print(PasswordHash((Argon2Hasher(), )).hash("sesame"))
    print(PasswordHash((BcryptHasher(), )).hash("sesame"))
    context = CryptContext(schemes=["argon2", "pbkdf2_sha256"], deprecated="auto")
    print(context.hash("sesame"))
    print(context.hash("sesame", scheme="pbkdf2_sha256"))
    assert argon2.PasswordHasher().verify(before, "sesame")
    print("verified")
"""


LEDGER = """
import asyncio
from functools import lru_cache

from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncSession

from shop.config import Config
from shop.db import Session, engine
from shop.tables import Order


@lru_cache
def get_config() -> Config:
    return Config()


class Prices:
    def __init__(self, config: Config) -> None:
        self.config = config


prices = Prices(get_config())


async def order_without_commit(article: str) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))  # begins the transaction that the session joins
        async with AsyncSession(connection) as session:
            session.add(Order(article=article))
            await session.commit()


async def rename(old: str, new: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SELECT * FROM orders FOR UPDATE"))
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            await session.execute(update(Order).where(Order.article == old).values(article=new))
            await session.commit()


async def isolation() -> str:
    async with AsyncSession(engine.execution_options(isolation_level="SERIALIZABLE")) as session:
        return await session.scalar(text("SHOW transaction_isolation"))


def nightly() -> None:
    async def run() -> None:
        async with Session() as session:
            await session.execute(text("SELECT 1"))

    asyncio.run(run())
"""
OF_CONNECTIONS = """
import asyncio
import gc

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, select, text

from shop import ledger
from shop.db import Session, engine
from shop.tables import Order
from shop.web import web

ARTICLES = select(Order.article)


@event.listens_for(engine.sync_engine, "connect")
def configure(connection, _record):
    cursor = connection.cursor()
    cursor.execute("SET search_path = special, public")
    cursor.execute("PREPARE made_once AS SELECT 1")
    cursor.close()
    connection.commit()


def test_event_loop_that_is_closed(database_isolation):
    ledger.nightly()


def test_settings_that_others_hold():
    assert ledger.prices.config.currency == "EUR"


async def test_transaction_outside_is_not_committed(session):
    gc.collect()
    await ledger.order_without_commit("tea")

    assert (await session.scalars(ARTICLES)).all() == []


async def test_one_transaction_on_one_connection(client, session):
    await client.post("/orders/tea")
    async with asyncio.timeout(3):
        await ledger.rename("tea", "coffee")

    assert (await session.scalars(ARTICLES)).all() == ["coffee"]


@pytest.mark.rollback
async def test_all_on_one_connection(client, session):
    await client.post("/orders/tea")
    await ledger.rename("tea", "coffee")

    assert (await session.scalars(ARTICLES)).all() == ["coffee"]


async def test_options_of_an_engine(database_isolation):
    assert await ledger.isolation() == "serializable"


@pytest.mark.parametrize("run", [1, 2, 3])
async def test_what_the_application_sets_when_it_connects(database_isolation, run):
    async with Session() as session:
        assert await session.scalar(text("SHOW search_path")) == "special, public"


async def test_disposal_while_the_session_is_open(session):
    await session.scalars(ARTICLES)
    await engine.dispose()


async def test_that_is_innocent(client):
    gc.collect()
    await client.get("/orders")


@pytest.fixture
def sync_client(database_isolation):
    with TestClient(web) as client:
        yield client


async def test_sync_client(sync_client):
    pass
"""


@of("shop")
def test_connections_are_those_of_production(sample: Sample) -> None:
    sample.adopt()
    (sample.path / "shop" / "ledger.py").write_text(LEDGER)
    (sample.path / "tests" / "test_connections.py").write_text(OF_CONNECTIONS)
    sample.edit(
        "tests/testkit_binding.py",
        "from shop.db import engine\n",
        "from shop.ledger import engine\n",
    )

    output = sample.shell(
        "SHOP_CURRENCY=USD uv run pytest -p no:randomly -W error tests/test_connections.py",
        check=False,
    )

    assert re.search(r"^=+ 1 failed, 11 passed", output, re.MULTILINE), output
    assert "make the test sync, or give it an async client" in output
    assert "ExceptionGroup" not in output
    # The settings of pytest may be in any of its files.
    (sample.path / "pyproject.toml").rename(sample.path / "project.toml")
    (sample.path / "pytest.ini").write_text("[pytest]\nbudget_fast = 5\n")
    said = sample.shell(".venv/bin/python -m testkit.performance table", check=False)
    assert said.startswith("budget_fast is 5 and budget_medium is 2;")


@of("notes")
def test_watching(sample: Sample) -> None:
    sample.adopt()
    sample.delete_fixture("tables", "testing/conftest.py")
    watcher = pexpect.spawn(
        UV,
        ["run", "python", "-m", "testkit.warm.watch"],
        cwd=str(sample.path),
        env=clean_environment(),
        encoding="utf-8",
        timeout=60,
    )
    watcher.expect("7 passed")
    watcher.expect("Keys: ")
    sample.edit("src/notes/main.py", 'title="Notes"', 'title="Our notes"')
    watcher.expect(r"src/notes/main.py saved")
    watcher.expect(r"\d passed")
    watcher.send("q")
    watcher.expect(pexpect.EOF)
