"""The SQLAlchemy that adopters may have, and generated projects not yet, as fastapi-users does not allow it."""

from tests.postgresql.test_databases import SYNC
from tests.projects import Project


def test_next_version(installed_copy_of_each: Project) -> None:
    project = installed_copy_of_each
    project.install("sqlalchemy[asyncio]>=2.1,<2.2")
    if project.database == "postgresql":
        (project.path / "tests" / "test_sync.py").write_text(SYNC)

    project.pytest("-n", "2")
    project.run("mypy", "app", "testkit")
