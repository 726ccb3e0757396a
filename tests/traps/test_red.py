"""Nothing is red where nothing is wrong."""

import re

import pytest

from tests.commands import run
from tests.projects import Project
from tests.traps.inner import line_of, run_inner

GENERATORS = """
    import asyncio

    import pytest
    from sqlalchemy import text

    from app.database import sessionmaker

    finished = []


    async def numbers(name):
        try:
            for number in range(9):
                yield number
        finally:
            await asyncio.sleep(0.01)
            finished.append(name)


    async def get_db(name):
        async with sessionmaker() as session:
            await session.execute(text("SELECT 1"))
            yield session
        finished.append(name)


    async def endless():
        try:
            yield 1
        finally:
            await asyncio.Event().wait()


    async def test_break():
        async for _ in numbers("break"):
            break


    async def test_break_beside_a_session(session):
        async for _ in numbers("break beside a session"):
            break


    @pytest.mark.usefixtures("each_isolation")
    async def test_next(app):
        generator = get_db("next")  # which ends with this function, and not during the statement
        assert await (await anext(generator)).scalar(text("SELECT 1")) == 1


    def test_all_have_finished():
        # What is left of a generator that was not closed is its `finally`, not the line after it.
        assert finished == ["break", "break beside a session"]


    async def test_never_ends():
        async for _ in endless():
            break  # here


    async def test_task_that_is_about_to_end(session):
        async def work():
            await asyncio.sleep(0)
            await session.execute(text("SELECT 1"))

        asyncio.create_task(work()).add_done_callback(finished.append)


    @pytest.mark.anyio
    async def test_with_the_marker_of_anyio(client, session):
        await session.execute(text("SELECT 1"))
        assert (await client.get("/health/ready")).status_code == 200
"""


def test_what_is_about_to_finish_may_finish(copy_of_each: Project) -> None:
    inner = run_inner(copy_of_each, GENERATORS)

    place = re.escape(line_of(GENERATORS, "break  # here"))
    inner.assert_says(
        "test_never_ends",
        f"left open: the clean-up of the async generator endless, abandoned at {place}",
        kind="error",
    )
    inner.assert_passed(*inner.outcomes.keys() - {"test_never_ends"})


OTHER_LOOPS = """
    import asyncio

    import pytest
    from sqlalchemy import func, select

    from app.database import sessionmaker
    from app.users.models import User


    async def count(session):
        return await session.scalar(select(func.count()).select_from(User))


    async def add():
        async with sessionmaker() as session:
            session.add(User(email="ada@example.com", hashed_password=""))
            await session.commit()


    @pytest.mark.committed  # one connection belongs to one loop
    def test_asyncio_run(database_isolation):
        asyncio.run(add())


    async def test_next(session):
        assert await count(session) == 0


    async def add_users(session, *names):
        session.add_all([User(email=f"{name}@example.com", hashed_password="") for name in names])
        await session.commit()


    class TestParameters:
        @pytest.fixture(scope="class")
        async def shared(self, class_session):
            await add_users(class_session, "ada")

        @pytest.fixture(params=[1, 2], scope="class")
        async def rows(self, request, shared, class_session):
            await add_users(class_session, *range(request.param))
            return request.param

        @pytest.fixture(params=[1, 2])
        async def own(self, request, class_session):
            return request.param

        @pytest.mark.parametrize("run", [1, 2])
        async def test_rows_are_those_of_the_parameter(self, rows, session, run):
            assert await count(session) == rows + 1
            await add_users(session, "eve")

        async def test_parameters_of_tests(self, own, session):
            await add_users(session, "eve")


    class TestIndirect:
        @pytest.fixture(scope="class")
        async def indirect(self, request, class_session):
            await add_users(class_session, *range(request.param))
            return request.param

        @pytest.mark.parametrize("indirect", [1, 2], indirect=True, scope="class")
        async def test_indirect(self, indirect, session):
            assert await count(session) == indirect
"""


def test_other_loops_and_parameters_of_classes(copy_of_each: Project) -> None:
    for isolation in ("committed", "rollback"):
        options = ("-p", "no:randomly", "-o", f"db_isolation={isolation}")
        inner = run_inner(copy_of_each, OTHER_LOOPS, *options)

        assert len(inner.outcomes) == 10
        inner.assert_passed(*inner.outcomes)


FAR_TABLES = '''"""A table that refers to all of the examples, and to which they refer."""

import sqlalchemy as sa
from alembic import op

revision = "0099"
down_revision = "{head}"


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("user_id", sa.Uuid(), sa.ForeignKey("users.id"), nullable=True),
        sa.Column("product_id", sa.Integer(), sa.ForeignKey("products.id"), nullable=True),
    )
    for table in ("users", "products"):
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column("order_id", sa.Integer(), nullable=True))
            batch.create_foreign_key(f"fk_{{table}}_order_id_orders", "orders", ["order_id"], ["id"])


def downgrade() -> None:
    for table in ("users", "products"):
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(f"fk_{{table}}_order_id_orders", type_="foreignkey")
            batch.drop_column("order_id")
    op.drop_table("orders")
'''

ORDERS = """from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    product_id: Mapped[int | None] = mapped_column(ForeignKey("products.id"))
"""

COLUMN = """
    order_id: Mapped[int | None] = mapped_column(
        ForeignKey("orders.id", use_alter=True), default=None
    )
"""


def test_foreign_keys_to_and_from_the_examples(copy_of_each: Project) -> None:
    project = copy_of_each
    versions = project.path / "migrations" / "versions"
    head = max(
        re.findall(
            r'^revision = "(\d+)"', "".join(p.read_text() for p in versions.glob("*.py")), re.M
        )
    )
    (versions / "0099_orders.py").write_text(FAR_TABLES.format(head=head))
    (project.path / "app" / "orders").mkdir()
    (project.path / "app" / "orders" / "__init__.py").touch()
    (project.path / "app" / "orders" / "models.py").write_text(ORDERS)
    for domain, anchor in (
        ("users", '__tablename__ = "users"\n'),
        ("products", '__tablename__ = "products"\n'),
    ):
        name = f"app/{domain}/models.py"
        project.edit(name, anchor, anchor + COLUMN)
        imports = "from sqlalchemy import ForeignKey\n"
        (project.path / name).write_text(imports + project.read(name))

    result = project.pytest("--ignore=tests/smoke", "-n", "2", check=False)

    assert re.search(r"^\d+ passed", result.stdout, re.MULTILINE), result.stdout
    # No canary depends on the example that is removed, either.
    assert project.pytest("tests/isolation", "-o", "db_isolation=rollback").returncode == 0


TABLES = '''"""Tables as a service may well have them."""

import sqlalchemy as sa
from alembic import op

revision = "0099"
down_revision = "0004"
TABLES = ("notes", "owners", "pets", "places", "events")


def upgrade() -> None:
    for name in TABLES:
        op.create_table(name, sa.Column("id", sa.Integer(), primary_key=True))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE SCHEMA archive")


def downgrade() -> None:
    for name in TABLES:
        op.drop_table(name)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP SCHEMA archive")
'''

MODELS = """from sqlalchemy import Column, Integer, Table

from app.database import Base

for name in ("notes", "owners", "pets", "places", "events"):
    Table(name, Base.metadata, Column("id", Integer, primary_key=True))
"""


def test_names_of_tables_are_free(copy_of_each: Project) -> None:
    """The tests of the isolation create some of their own."""
    project = copy_of_each
    (project.path / "migrations" / "versions" / "0099_notes.py").write_text(TABLES)
    (project.path / "app" / "notes").mkdir()
    (project.path / "app" / "notes" / "__init__.py").touch()
    (project.path / "app" / "notes" / "models.py").write_text(MODELS)

    for options in ((), ("-o", "db_isolation=rollback")):
        engines = [str(path) for path in project.path.glob("tests/test_engine*.py")]
        output = project.pytest("tests/isolation", *engines, *options, check=False).stdout
        assert re.search(r"^\d+ passed", output, re.MULTILINE), output


@pytest.mark.parametrize("name", ["build", "dist", "htmlcov"])
def test_names_of_domains_are_free(sqlite_project: Project, name: str) -> None:
    """What is ignored at the top is not below."""
    domain = f"app/{name}/models.py"
    assert run("git", "check-ignore", domain, cwd=sqlite_project.path, check=False).returncode == 1
