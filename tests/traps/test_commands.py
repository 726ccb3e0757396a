"""The commands of the day, as somebody meets them in the first week."""

import os
import re
import sqlite3
from pathlib import Path

import pytest

from tests.commands import UV, commit_all, run
from tests.projects import Project
from tests.traps.test_red import FAR_TABLES, ORDERS


def versions(project: Project) -> set[str]:
    return {path.name for path in (project.path / "migrations" / "versions").glob("*.py")}


def test_help_has_groups(each_project: Project) -> None:
    output = each_project.make("help").stdout

    groups = re.findall(r"^(\w.*)$", output, re.MULTILINE)
    assert groups == ["Every day", "Database", "Speed of the tests", "Rarely"]


class TestMigration:
    def test_on_a_fresh_clone_and_again(self, installed_copy_of_each: Project) -> None:
        project = installed_copy_of_each
        before = versions(project)

        nothing = project.make("migration", "M=nothing", check=False)
        unnamed = project.make("migration", check=False)

        assert nothing.returncode != 0
        assert "The models have nothing that the migrations lack" in nothing.stdout
        assert "Traceback" not in nothing.stdout
        assert unnamed.returncode != 0
        assert 'Say which: make migration M="add colours"' in unnamed.stdout
        assert versions(project) == before

        model = "app/products/models.py"
        anchor = "    currency: Mapped[str] = mapped_column(String(3))\n"
        for name in ("cost", "weight"):
            column = f"    {name}: Mapped[Decimal | None] = mapped_column(Money)\n"
            project.edit(model, anchor, anchor + column)
            project.make("migration", 'M=the \\shop\'s "new" column of "b"')

        new = sorted(versions(project) - before)
        assert len(new) == 2
        for name in new:
            revision, _, slug = name.partition("_")
            written = project.read(f"migrations/versions/{name}")
            assert slug == "the_shop_s_new_column_of_b.py"
            assert f'revision = "{revision}"' in written
            assert "sa.BigInteger()" in written
        project.run("ruff", "check", "migrations")
        project.run("ruff", "format", "--check", "migrations")
        assert re.search(r"^\d+ passed", project.pytest("tests/test_migrations.py").stdout, re.M)

        if project.database == "sqlite":  # which has no part in it
            self.write_by_hand(project)
        self.downgrade(project)

    def write_by_hand(self, project: Project) -> None:
        before = versions(project)

        def alembic(*arguments: str) -> str:
            earlier = versions(project)
            run(UV, "run", "alembic", *arguments, cwd=project.path)
            (new,) = versions(project) - earlier
            return new

        one = alembic("revision", "-m", "by hand")
        parent = re.search(r'down_revision = "(\w+)"', project.read(f"migrations/versions/{one}"))
        assert parent
        other = alembic("revision", "-m", "by another", "--head", parent[1], "--splice")
        for name, step in (
            (one, 'op.execute("SELECT 1")'),
            (other, 'op.execute(sa.text("SELECT 1"))'),
        ):
            project.edit(f"migrations/versions/{name}", "    pass\n\n\ndef", f"    {step}\n\n\ndef")
        alembic("merge", "heads", "-m", "merge")
        project.run("ruff", "check", "migrations")
        project.make("migrate")
        project.make("downgrade", f"TO={parent[1]}")
        for name in versions(project) - before:
            (project.path / "migrations" / "versions" / name).unlink()

    def downgrade(self, project: Project) -> None:
        assert "Say which: make downgrade TO=0001" in project.make("downgrade", check=False).stdout

        project.make("downgrade", "TO=0001")

        if project.database == "sqlite":
            connection = sqlite3.connect(project.path / "my-service.db")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            connection.close()
            assert "users" in tables
            assert "products" not in tables
        project.make("migrate")
        project.make("app", "C=users")
        assert "Say which: make app" in project.make("app", check=False).stdout
        self.check_by_alembic(project)

    def check_by_alembic(self, project: Project) -> None:
        """As some do in CI."""
        private = ["-m", "testkit.databases.postgresql"] * (project.database == "postgresql")
        alembic = project.venv / "bin" / "alembic"
        command = ("python", *private, alembic) if private else (alembic,)

        assert "No new upgrade operations" in project.run(*command, "check").stdout

        model = "app/products/models.py"
        project.edit(model, "mapped_column(String(3))", "mapped_column(String(4))")
        differs = project.run(*command, "check", check=False).stdout
        assert "New upgrade operations detected" in differs
        assert "Traceback" not in differs


def test_format_formats_beside_an_error_that_it_cannot_mend(project: Project) -> None:
    (project.path / ".venv").symlink_to(project.venv)
    wrong = project.path / "app" / "wrong.py"
    wrong.write_text("import os\nx = (  1 )\nprint(undefined)\n")

    result = project.make("format", check=False)

    assert result.returncode != 0
    assert "F821" in result.stdout
    assert "x = 1\n" in wrong.read_text()


def test_removal_of_the_example_when_others_have_built_on_it(
    installed_copy_of_each: Project, tmp_path: Path
) -> None:
    project = installed_copy_of_each
    revision = FAR_TABLES.format(head="0004").replace('("users", "products")', "()")
    (project.path / "migrations/versions/0099_orders.py").write_text(revision)
    (project.path / "app" / "orders").mkdir()
    (project.path / "app" / "orders" / "__init__.py").touch()
    (project.path / "app" / "orders" / "models.py").write_text(ORDERS)
    commit_all(project.path)

    refused = run("bash", "-euc", project.removal(), cwd=project.path, check=False)

    assert refused.returncode != 0
    assert "orders.product_id" in refused.stdout
    assert "Traceback" not in refused.stdout
    # What it asks for.
    column = '    product_id: Mapped[int | None] = mapped_column(ForeignKey("products.id"))\n'
    project.edit("app/orders/models.py", column, "")
    project.make("migration", "M=remove products")

    tests = project.pytest("--ignore=tests/smoke", check=False).stdout
    assert re.search(r"^\d+ passed", tests, re.MULTILINE), tests
    (written,) = (project.path / "migrations" / "versions").glob("*_remove_products.py")
    assert 'op.drop_table("products")' in written.read_text()


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_unmigrated_model_ends_the_run_with_one_message(
    project: Project, options: tuple[str, ...]
) -> None:
    # No router imports it.
    (project.path / "app" / "orders").mkdir()
    (project.path / "app" / "orders" / "__init__.py").touch()
    (project.path / "app" / "orders" / "models.py").write_text(ORDERS)

    result = project.pytest(*options, check=False)

    assert result.returncode == 1
    assert "add_table orders" in result.stdout
    assert 'Run `make migration M="' in result.stdout
    assert len(result.stdout.splitlines()) < 20


def test_model_outside_of_models_is_named(project: Project) -> None:
    (project.path / "app" / "orders").mkdir()
    (project.path / "app" / "orders" / "__init__.py").touch()
    (project.path / "app" / "orders" / "tables.py").write_text(ORDERS)

    result = project.pytest("tests/test_migrations.py", check=False)

    assert "app.orders.tables defines the tables orders" in result.stdout
    assert "Move their models to a `models.py`" in result.stdout


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("exit 1", "install uv, or the package python3-venv"),
        (
            "mkdir -p .uv/bin; echo 'exit 1' > .uv/bin/pip; chmod +x .uv/bin/pip",
            "uv could not be downloaded: look at the network",
        ),
    ],
)
def test_machine_that_cannot_have_uv(
    project: Project, tmp_path: Path, python: str, said: str
) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "python3"
    fake.write_text(f"#!/bin/sh\n{python}\n")
    fake.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"

    result = run("make", "setup", "UV=.uv/bin/uv", cwd=project.path, check=False, PATH=path)

    assert result.returncode == 2
    assert said in result.stdout
