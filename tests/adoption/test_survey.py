"""What `adopt` makes of the many ways to write a project. Nothing is installed here, nothing imported."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import TEMPLATE, run
from tests.projects import Project

DATABASE = """
    from sqlalchemy.ext.asyncio import create_async_engine
    engine = create_async_engine("sqlite+aiosqlite:///app.db")
"""
MODELS = """
    from sqlalchemy.orm import DeclarativeBase
    class Base(DeclarativeBase): ...
"""
SETTINGS = """
    from pydantic import BaseModel, PostgresDsn, EmailStr
    from pydantic_settings import BaseSettings, SettingsConfigDict
"""
Adopt = Callable[..., tuple[str, Path]]


@pytest.fixture
def adopt(project: Project, tmp_path: Path) -> Adopt:
    """Writes these files beside some that each project has; the folder, and what `adopt` has said."""

    def adopt(files: dict[str, str], *options: str) -> tuple[str, Path]:
        root = tmp_path / "foreign"
        for name, text in ({"app/db.py": DATABASE, "app/models.py": MODELS} | files).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(textwrap.dedent(text).lstrip())
        result = run(
            *(project.venv / "bin" / "python", "-m", "testkit", "adopt", *(options or ("--yes",))),
            cwd=root,
            check=False,
            PYTHONPATH=str(TEMPLATE),
            PYTHONDONTWRITEBYTECODE="1",
        )
        assert "Traceback" not in result.stdout, result.stdout
        return result.stdout, root

    return adopt


def test_parts_of_a_url(adopt: Adopt) -> None:
    _, root = adopt(
        {
            "app/db.py": DATABASE.replace("sqlite+aiosqlite", "postgresql+asyncpg"),
            "app/config.py": SETTINGS
            + """
    class Parts(BaseModel):
        host: str = "production"
        db_name: str
        name: str
    class Base(BaseSettings):
        model_config = SettingsConfigDict(env_nested_delimiter="__", env_prefix="MY_")
        tenant: str
    class Settings(Base):
        POSTGRES_SERVER: str = "production.example.com"
        POSTGRES_DB: str = "precious"
        SENTRY_DSN: str | None = None
        DB_ECHO: bool = False
        DATABASE_URL: PostgresDsn
        ADMIN: EmailStr
        db: Parts
        store: Store = Store(key="from the code")
        parts: Parts = Field(default_factory=Parts)
        own: Own = Field(default_factory=Own)
    class Own(BaseSettings):
        secret: str
    class Store(BaseModel):
        key: str
        db_host: str
""",
        }
    )

    binding = (root / "tests" / "testkit_binding.py").read_text()
    for line in (
        '"MY_POSTGRES_SERVER": "localhost"',
        '"MY_POSTGRES_DB": "ask-for-database_isolation"',
        '"MY_DATABASE_URL": "postgresql+asyncpg://nobody@localhost:1/ask-for-database_isolation"',
        '"MY_ADMIN": "nobody@example.com"',
        '"MY_DB__HOST": "localhost"',
        '"MY_TENANT": "made-up-for-the-tests-0123456789"',
        "seal([Settings, Own], SETTINGS)",
        'url="postgresql+asyncpg://"',
    ):
        assert line in binding
    assert '"MY_STORE__DB_HOST": "localhost"' in binding
    assert "MY_STORE__KEY" not in binding  # it would replace the default
    assert '"MY_PARTS__NAME": "made-up' in binding
    assert '"SECRET": "made-up' in binding
    assert "MY_OWN__SECRET" not in binding
    assert "SENTRY" not in binding
    assert "ECHO" not in binding


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"src/__init__.py": "", "src/models.py": MODELS, "app/models.py": ""},
            "from src.models import Base",
            id="a package that is called src",
        ),
        pytest.param(
            {"src/shop/__init__.py": "", "src/shop/models.py": MODELS, "app/models.py": ""},
            "from shop.models import Base",
            id="a package in src",
        ),
        pytest.param(
            {"app/models.py": "from sqlalchemy import MetaData\nmetadata = MetaData()\n"},
            "metadata=metadata,",
            id="tables of the core",
        ),
        pytest.param(
            {
                "app/tests/__init__.py": "",
                "alembic.ini": "[alembic]\nscript_location = m\n",
                "m/x": "",
            },
            "ROOT = Path(__file__).parents[2]",
            id="tests in the package",
        ),
        pytest.param(
            {"pyproject.toml": '[tool.alembic]\nscript_location = "m"\n', "m/x": ""},
            'migrate=by_alembic(ROOT / "pyproject.toml"',
            id="alembic in pyproject.toml",
        ),
        pytest.param(
            {
                "app/main.py": "from fastapi import FastAPI\ndef create_app():\n    return FastAPI()\n"
            },
            "    return create_app()",
            id="an application from a function",
        ),
        pytest.param(
            {"app/models.py": "", "app/build/models.py": MODELS, "build/lib/app/models.py": MODELS},
            "from app.build.models import Base",
            id="a part with the name of an output",
        ),
        pytest.param(
            {"app/code.py": "import os\nKEY = os.environ['KEY']\nURL = os.getenv('DB_URL')\n"},
            '"KEY": "made-up-for-the-tests-0123456789"',
            id="variables without settings",
        ),
    ],
)
def test_is_bound(adopt: Adopt, files: dict[str, str], expected: str) -> None:
    said, root = adopt(files)

    (binding,) = root.rglob("testkit_binding.py")
    assert expected in binding.read_text(), said
    compile(binding.read_text(), "binding", "exec")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "pytest.ini",
            "[pytest]\naddopts = -ra\nasyncio_mode = strict\n",
            "[pytest]\ntestkit = tests/testkit_binding.py\nasyncio_default_fixture_loop_scope = session\n"
            "asyncio_default_test_loop_scope = session\naddopts = -ra\nasyncio_mode = strict\n",
        ),
        (
            "setup.cfg",
            "[metadata]\nname = x\n\n[tool:pytest]\nxfail_strict = 1\n",
            "\nxfail_strict = 1\n",
        ),
        ("tox.ini", "[tox]\n\n[pytest]\n# ours\n", "asyncio_mode = auto\n"),
        (
            "pyproject.toml",
            '[project]\nname = "x"\n',
            '\n[tool.pytest.ini_options]\ntestkit = "tests/',
        ),
        ("pyproject.toml", "[tool.pytest]\nstrict = true\n", '[tool.pytest]\ntestkit = "tests/'),
        ("pytest.toml", "[pytest]\n", '[pytest]\ntestkit = "tests/'),
    ],
)
def test_settings_of_pytest(adopt: Adopt, name: str, text: str, expected: str) -> None:
    said, root = adopt({name: text})

    after = (root / name).read_text()
    assert expected in after
    assert set(text.splitlines()) <= set(after.splitlines())
    if "strict\n" in text:
        assert (
            "pytest.ini has `asyncio_mode = strict`, and the kit needs `auto`: change it." in said
        )


CONFTEST = """
    import pytest
    from fastapi.testclient import TestClient
    from app.db import engine
    from app.models import Base

    @pytest.fixture(scope="session")
    def event_loop(): ...

    @pytest.fixture(autouse=True)
    async def tables():
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await init_db(engine)

    @pytest.fixture
    async def db(tables): ...

    @pytest.fixture(scope="module")
    def shared():
        return TestClient(1)

    @pytest.fixture
    async def client(  # of the API
        db,
    ):
        app.dependency_overrides[get_db] = lambda: db
        return TestClient(1)
"""


CLIENT_OF_A_MODULE = """
    import pytest
    from fastapi.testclient import TestClient

    @pytest.fixture
    def own_client():
        return TestClient(1)

    @pytest.fixture
    def of_somebody_else():
        return httpx.AsyncClient(base_url="https://api.example.com")

    class TestOrders:
        @pytest.fixture
        def client(self):
            return TestClient(1)
"""
SYNC_ENGINE = """
    from functools import lru_cache

    from sqlalchemy import create_engine


    @lru_cache
    def reports():
        return create_engine("sqlite://")
"""


def test_what_is_left_to_do(adopt: Adopt) -> None:
    said, root = adopt(
        {
            "tests/conftest.py": CONFTEST,
            "tests/test_a.py": "client = TestClient(1)\n",
            "tests/test_b.py": CLIENT_OF_A_MODULE,
            "app/reports.py": SYNC_ENGINE,
        }
    )

    left = said.split("Left for you")[1]
    for advice in (
        "`event_loop` is in the way of pytest-asyncio: delete it",
        "`tables` makes the tables: delete it",
        "`tables` may write first rows, too",
        "`db` is a session: let it return the kit's `session`",
        "`shared` has the scope module",
        "overrides a dependency",
        "tests/test_a.py:1: makes `client` for the whole module",
        "app/reports.py:7: makes a sync engine",
        "`client` makes a client: let it ask",
    ):
        assert advice in left, left
    conftest = (root / "tests" / "conftest.py").read_text()
    assert "async def client(database_isolation,  # of the API\n    db," in conftest
    compile(conftest, "conftest", "exec")
    test_b = (root / "tests" / "test_b.py").read_text()
    assert "def own_client(database_isolation):" in test_b
    assert "def of_somebody_else():" in test_b
    ignored = (root / ".gitignore").read_text().splitlines()
    assert ignored == [".performance/", ".testmondata*"]


SYNC = """
    from alembic import context
    from sqlalchemy import engine_from_config

    def run_migrations_online():
        connectable = engine_from_config({}, prefix="sqlalchemy.")
        with connectable.connect() as opened:
            context.configure(connection=opened, target_metadata=None, compare_type=True)
            with context.begin_transaction():
                context.run_migrations()

    run_migrations_online()
"""


def test_sync_environment_of_alembic(adopt: Adopt) -> None:
    _, root = adopt({"alembic.ini": "[alembic]\nscript_location = m\n", "m/env.py": SYNC})

    env = (root / "m" / "env.py").read_text()
    assert (
        "context.configure(connection=connection, target_metadata=None, compare_type=True)" in env
    )
    assert "connection=opened" in env
    compile(env, "env", "exec")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"app/broken.py": "def ("},
        {"tests/conftest.py": "def ("},
        {"pyproject.toml": "[broken"},
        {"alembic.ini": "no section"},
        {"alembic.ini": "[alembic]\nscript_location = m\n", "m/env.py": "def ("},
    ],
)
def test_code_that_cannot_be_read(adopt: Adopt, files: dict[str, str]) -> None:
    adopt(files)


def test_a_folder_without_a_project(adopt: Adopt) -> None:
    said, root = adopt({"app/db.py": "", "app/models.py": ""})

    assert "The engine: nothing calls `create_async_engine`" in said
    assert not list(root.rglob("testkit_binding.py"))


def test_tests_beside_the_code(adopt: Adopt) -> None:
    """As in many tutorials: no folder for them."""
    conftest = (
        "import pytest\nfrom fastapi.testclient import TestClient\n\n\n"
        "@pytest.fixture\ndef client():\n    return TestClient(1)\n"
    )
    installed = ".venv/lib/site-packages/testkit/doctor.py"
    said, root = adopt(
        {
            "conftest.py": conftest,
            "test_main.py": "def test_main(client):\n    pass\n",
            "main.py": "from fastapi import FastAPI\napp = FastAPI()\n",
            "pytest.ini": "[pytest]\ntestpaths = .\n",
            installed: "setup = DatabaseSetup(1)\n",
        }
    )

    assert "Engine: `engine` of `app.db`" in said
    assert (root / "testkit_binding.py").exists()
    assert "def client(database_isolation):" in (root / "conftest.py").read_text()


def test_two_engines_of_one_name(adopt: Adopt) -> None:
    sync = "from sqlalchemy import create_engine\nengine = create_engine('sqlite://')\n"
    said, root = adopt({"app/reports.py": sync, "scripts/seed.py": sync})

    binding = (root / "tests" / "testkit_binding.py").read_text()
    assert "from app.db import engine\n" in binding
    assert "from app.reports import engine as app_reports_engine\n" in binding
    assert "create_engine=partial(rewired, engine)" in binding
    assert "sync_engines=(app_reports_engine,)" in binding
    # What imports a script may run it.
    assert "scripts" not in binding
    assert "scripts/seed.py:2: makes a sync engine" in said


def test_engine_that_carries_the_sessions(adopt: Adopt) -> None:
    """Others are named, whatever comes first."""
    analytics = DATABASE.replace("engine =", "warehouse =")
    sessions = "from sqlalchemy.ext.asyncio import async_sessionmaker\nfrom app.db import engine\n"
    said, root = adopt(
        {
            "app/analytics.py": analytics,
            "app/sessions.py": f"{sessions}Session = async_sessionmaker(bind=engine)\n",
            "app/code.py": "import os\nDSN = os.environ['MY_WAREHOUSE_DSN']\n",
        }
    )

    assert "Engine: `engine` of `app.db`" in said
    assert "`warehouse` of `app.analytics` is another engine" in said
    binding = (root / "tests" / "testkit_binding.py").read_text()
    assert "create_engine=partial(rewired, engine)" in binding
    assert '"MY_WAREHOUSE_DSN": "sqlite+aiosqlite:////dev/null/' in binding


def test_engine_of_a_manager_that_makes_the_sessions(adopt: Adopt) -> None:
    manager = """
        from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
        class Manager:
            def __init__(self):
                self.engine = create_async_engine("sqlite+aiosqlite:///app.db")
                self.sessions = async_sessionmaker(self.engine)
        db = Manager()
    """
    said, _ = adopt({"app/analytics.py": DATABASE, "app/db.py": manager})

    assert "Engine: `db.engine` of `app.db`" in said


def test_line_endings_stay(adopt: Adopt, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    file = tmp_path / "foreign" / "pytest.ini"
    file.write_bytes(b"[pytest]\r\naddopts = -ra\r\n")

    adopt({})

    lines = file.read_bytes().split(b"\n")
    assert b"testkit = tests/testkit_binding.py\r" in lines
    assert all(line.endswith(b"\r") for line in lines[:-1])


def test_characters_that_splitlines_takes_for_ends_of_lines(adopt: Adopt) -> None:
    """Form feeds between parts, as some editors jump to, and separators that were pasted in."""
    above = "# one\u2028two\x85three\x1cfour\n\f\n"
    texts = {"tests/conftest.py": textwrap.dedent(CONFTEST), "m/env.py": textwrap.dedent(SYNC)}
    files = {name: above + text for name, text in texts.items()}

    _, root = adopt({"alembic.ini": "[alembic]\nscript_location = m\n", **files})

    conftest = (root / "tests" / "conftest.py").read_text()
    assert "async def client(database_isolation,  # of the API\n    db," in conftest
    env = (root / "m" / "env.py").read_text()
    assert "    context.configure(connection=connection, target_metadata=None" in env
    for text in (conftest, env):
        assert "# one\u2028two\x85three\x1cfour\n" in text
        compile(text, "text", "exec")


def test_empty_settings_of_pytest_count(adopt: Adopt) -> None:
    """pytest reads this file, although it says nothing."""
    _, root = adopt({"pytest.ini": "", "pyproject.toml": "[tool.pytest.ini_options]\n"})

    assert "[pytest]\ntestkit = " in (root / "pytest.ini").read_text()
    assert (root / "pyproject.toml").read_text() == "[tool.pytest.ini_options]\n"
