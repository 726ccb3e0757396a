"""Migrations that a team writes, and has written: on a real database, with rows in it."""

import re
from pathlib import Path

import pytest

from tests.commands import outcome
from tests.projects import Project, copy_of
from tests.service.servers import Service
from tests.service.test_operations import add_migration

MODELS = """
import enum
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import JSON, Index, String, TypeDecorator, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class Kind(enum.Enum):
    DRAFT = "draft"
    PAID = "paid"


class Extras(TypeDecorator[dict[str, Any]]):
    impl = JSON
    cache_ok = True


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (
        UniqueConstraint("number", "year"),
        UniqueConstraint("number", "country"),
        Index(None, "year", "kind"),
        Index(None, "year", "country"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
    year: Mapped[int]
    country: Mapped[str] = mapped_column(String(2))
    kind: Mapped[Kind] = mapped_column(default=Kind.DRAFT)
    way: Mapped[Literal["post", "courier"]] = mapped_column(default="post")
    extras: Mapped[dict[str, Any]] = mapped_column(Extras, default=dict)
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
"""
KIND = """
import enum


class Kind(enum.Enum):
    NEW = 1
    USED = 2
"""
TESTS = """
from sqlalchemy.ext.asyncio import AsyncSession

from app.orders.models import Kind, Order


async def test_what_is_stored_is_read(session: AsyncSession) -> None:
    order = Order(number=1, year=2030, country="DE", kind=Kind.PAID, way="courier", extras={"a": 1})
    session.add(order)
    await session.commit()
    order.year = 2031
    await session.commit()

    assert order.changed_at  # the database has computed it
    found = await session.get_one(Order, order.id)
    assert (found.kind, found.way, found.extras) == (Kind.PAID, "courier", {"a": 1})
"""
CONCURRENTLY = """
def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index("ix_products_name", "products", ["name"], postgresql_concurrently=True)


def downgrade() -> None:
    op.drop_index("ix_products_name", "products")
"""
MAKE_TYPE = """
def upgrade() -> None:
    op.execute("CREATE TYPE mood AS ENUM ('sad')")
    op.add_column("products", sa.Column("mood", sa.Enum("sad", name="mood"), server_default="sad"))


def downgrade() -> None:
    op.drop_column("products", "mood")
    op.execute("DROP TYPE mood")
"""
EXTENSION = """
def upgrade() -> None:
    op.execute("CREATE EXTENSION hstore")
    op.execute("ALTER TABLE products ADD COLUMN labels hstore")


def downgrade() -> None:
    op.drop_column("products", "labels")
    op.execute("DROP EXTENSION hstore")
"""
VIEW = """
def upgrade() -> None:
    op.execute("CREATE VIEW names AS SELECT name FROM products")


def downgrade() -> None:
    op.execute("DROP VIEW names")
"""
EXTEND_TYPE = """
def upgrade() -> None:
    op.execute("ALTER TYPE mood ADD VALUE 'glad'")


def downgrade() -> None:
    pass
"""
USE_TYPE = """
def upgrade() -> None:
    op.execute("UPDATE products SET mood = 'glad'")


def downgrade() -> None:
    pass
"""
NOT_NULL = """
def upgrade() -> None:
    op.add_column("products", sa.Column("colour", sa.String(20), nullable=False))


def downgrade() -> None:
    op.drop_column("products", "colour")
"""


postgresql = pytest.mark.parametrize("each_project", ["postgresql"], indirect=True)


@pytest.mark.parametrize(
    "each_project", ["postgresql", pytest.param("sqlite", marks=pytest.mark.long)], indirect=True
)
def test_what_models_may_have(copy_of_each: Project, database_url: str) -> None:
    """Enums, types of the application, several constraints that begin with the same column."""
    project = copy_of_each
    folder = project.path / "app" / "orders"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "models.py").write_text(MODELS)
    (project.path / "tests" / "test_orders.py").write_text(TESTS)

    def alembic(*command: str) -> None:
        project.run("alembic", *command, DATABASE_URL=database_url)

    alembic("upgrade", "head")
    alembic("revision", "--autogenerate", "-m", "orders")
    alembic("upgrade", "head")
    # And one more for a table that is there.
    add_column(project, "kind: Mapped[Kind | None]", before=KIND)
    alembic("revision", "--autogenerate", "-m", "kind")
    project.run("ruff", "check", "migrations")
    for command in (("upgrade", "head"), ("downgrade", "0004"), ("upgrade", "head"), ("check",)):
        alembic(*command)
    tests = ("tests/test_orders.py", "tests/test_migrations.py", "tests/products")
    done = project.pytest(*tests)
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), done.stdout


FULL_TEXT = """
def upgrade():
    op.execute(
        "CREATE VIRTUAL TABLE products_text USING fts5(name, content='products', content_rowid='id')"
    )
    op.execute(
        "CREATE TRIGGER products_text_new AFTER INSERT ON products BEGIN "
        "INSERT INTO products_text(rowid, name) VALUES (new.id, new.name); END"
    )
    op.execute(
        "CREATE TRIGGER products_text_gone AFTER DELETE ON products BEGIN INSERT INTO "
        "products_text(products_text, rowid, name) VALUES ('delete', old.id, old.name); END"
    )


def downgrade():
    op.execute("DROP TRIGGER products_text_gone")
    op.execute("DROP TRIGGER products_text_new")
    op.execute("DROP TABLE products_text")
"""


def test_full_text_search(project: Project, tmp_path: Path) -> None:
    add_migration(project, FULL_TEXT)

    said = project.pytest(
        *("-p", "no:randomly", "tests/isolation/test_as_in_production.py", "tests/products"),
        "tests/test_migrations.py",
    ).stdout
    assert re.search(r"^\d+ passed in", said, re.MULTILINE), said

    url = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    Service(project, url, tmp_path / "log").command("migrate")
    project.edit("app/products/models.py", "String(3)", "String(4)")
    project.make("migration", "M=longer currency", DATABASE_URL=url)
    (written,) = (project.path / "migrations" / "versions").glob("*longer_currency.py")
    assert "products_text" not in written.read_text()


ALTERED = """
def upgrade():
    op.alter_column("users", "token_version", type_=sa.BigInteger())
    op.alter_column("products", "currency", type_=sa.Text(), server_default="EUR")
    op.create_check_constraint(op.f("ck_products_known"), "products", "currency IN ('x', 'EUR')")
    op.alter_column("products", "currency", type_=sa.String(9))
    op.execute("ALTER SEQUENCE products_id_seq RENAME TO goods_id_seq")


def downgrade():
    op.execute("ALTER SEQUENCE goods_id_seq RENAME TO products_id_seq")
    op.drop_constraint(op.f("ck_products_known"), "products")
    op.alter_column("products", "currency", type_=sa.String(3), server_default=None)
    op.alter_column("users", "token_version", type_=sa.Integer())
"""


def test_rules_of_columns_that_have_changed(postgresql_project: Project, tmp_path: Path) -> None:
    """PostgreSQL writes them in another way then."""
    project = copy_of(postgresql_project, tmp_path / "my-service")
    add_migration(project, ALTERED)
    products = "app/products/models.py"
    rule = 'CheckConstraint("price > 0", name="price_positive"),'
    known = """CheckConstraint("currency IN ('x', 'EUR')", name="known")"""
    project.edit(products, rule, f"{rule} {known}")
    project.edit(
        products, "mapped_column(String(3))", 'mapped_column(String(9), server_default="EUR")'
    )
    users = project.read("app/users/models.py")
    (version,) = re.findall(r"    token_version.*\n", users)
    longer = version.replace("mapped_column(", "mapped_column(BigInteger, ")
    (project.path / "app/users/models.py").write_text(
        f"from sqlalchemy import BigInteger\n{users.replace(version, longer)}"
    )

    said = project.pytest("tests/test_migrations.py").stdout
    assert outcome(said) == "5 passed"

    project.edit(products, "'EUR')", "'eur')")
    said = project.pytest("tests/test_migrations.py", check=False).stdout
    assert "CHECK ck_products_known of products: " in said


def test_rules_that_no_migration_makes(copy_of_each: Project) -> None:
    rule = 'CheckConstraint("price > 0", name="price_positive"),'
    new = f'{rule} CheckConstraint("length(name) > 3", name="name_long")'
    copy_of_each.edit("app/products/models.py", rule, new)
    copy_of_each.edit("app/products/models.py", "func.now()", '"2000-01-01"')

    said = copy_of_each.pytest("tests/test_migrations.py", check=False).stdout

    assert "what `make migration` does not see" in said
    assert "CHECK ck_products_name_long of products: " in said
    assert "products.created_at has the server default '2000-01-01" in said
    assert outcome(said).startswith("1 failed, ")


@postgresql
def test_rules_of_tables_that_need_an_extension(copy_of_each: Project) -> None:
    """Which only a migration makes."""
    add_migration(copy_of_each, EXTENSION)
    imports = "from sqlalchemy.dialects.postgresql import HSTORE\n"
    add_column(copy_of_each, "labels: Mapped[str | None] = mapped_column(HSTORE)", imports)
    said = copy_of_each.pytest("tests/test_migrations.py").stdout
    assert outcome(said) == "5 passed"

    copy_of_each.edit("app/products/models.py", "func.now()", '"2000-01-01"')
    said = copy_of_each.pytest("tests/test_migrations.py", check=False).stdout
    assert "products.created_at has the server default '2000-01-01" in said


def test_rules_of_tables_that_a_view_needs(copy_of_each: Project) -> None:
    add_migration(copy_of_each, VIEW)
    said = copy_of_each.pytest("tests/test_migrations.py").stdout
    assert outcome(said) == "5 passed"

    copy_of_each.edit("app/products/models.py", "func.now()", '"2000-01-01"')
    said = copy_of_each.pytest("tests/test_migrations.py", check=False).stdout
    assert "products.created_at has the server default '2000-01-01" in said


@postgresql
def test_script_for_somebody_else(each_project: Project, database_url: str) -> None:
    """It is written without a database, where tables can be altered."""
    command = ("alembic", "upgrade", "head", "--sql")

    assert "CREATE TABLE jobs" in each_project.run(*command, DATABASE_URL=database_url).stdout


@postgresql
def test_steps_that_need_transactions_of_their_own(
    copy_of_each: Project, database_url: str, tmp_path: Path
) -> None:
    """Also where several processes begin at once, and in tests."""
    service = with_products(copy_of_each, database_url, tmp_path)
    for step in (CONCURRENTLY, MAKE_TYPE, EXTEND_TYPE, USE_TYPE):
        add_migration(copy_of_each, step)
    add_column(
        copy_of_each, 'mood: Mapped[str | None] = mapped_column(Enum("sad", "glad", name="mood"))'
    )

    migrations = [service.spawn("app", "migrate") for _ in range(3)]

    assert [migration.wait(60) for migration in migrations] == [0] * 3, service.log.read_text()
    tests = "tests/test_migrations.py::test_up_with_rows"
    assert outcome(copy_of_each.pytest(tests).stdout) == "1 passed"


def test_step_that_is_wrong_where_there_are_rows(
    copy_of_each: Project, database_url: str, tmp_path: Path
) -> None:
    service = with_products(copy_of_each, database_url, tmp_path)
    add_migration(copy_of_each, NOT_NULL)
    add_column(copy_of_each, "colour: Mapped[str] = mapped_column(String(20))")

    said = copy_of_each.pytest("tests/test_migrations.py", check=False).stdout
    assert "0005_next.py fails where there are rows. A new column needs a `server_default`" in said
    assert outcome(said).startswith("1 failed, ")
    assert service.spawn("app", "migrate").wait(60) == 1
    refusal = service.log.read_text()
    assert re.search(r'versions/0005_next\.py:\d+   op\.add_column\("products"', refusal), refusal
    assert "ADD COLUMN colour" in refusal
    assert "Traceback" not in refusal


def add_column(
    project: Project, column: str, before: str = "from sqlalchemy import Enum\n"
) -> None:
    models = project.path / "app" / "products" / "models.py"
    models.write_text(f"{before}{models.read_text()}\n    {column}\n")


def with_products(project: Project, database_url: str, folder: Path) -> Service:
    service = Service(project, database_url, folder / "service.log", ENVIRONMENT="development")
    for command in ("migrate", "seed"):
        service.command(command)
    return service
