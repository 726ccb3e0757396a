"""`make dev`, beside somebody who changes the template."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.commands import start
from tests.releases import PROJECT, Template
from tests.servers import wait_until


@pytest.fixture
def checkout(template: Template) -> Template:
    shutil.rmtree(template.path / ".git")
    return template


def test_projects_follow_the_template(checkout: Template, tmp_path: Path) -> None:
    log = tmp_path / "log"
    build = checkout.path / "build" / "dev"
    with (
        log.open("w") as output,
        start(sys.executable, "-u", "tools/dev.py", cwd=checkout.path, stdout=output) as process,
    ):
        try:
            wait_until(lambda: "Waiting for changes" in log.read_text(), 30)
            for database in ("sqlite", "postgresql"):
                assert (build / database / "app" / "main.py").exists()
            (build / "sqlite" / "own.txt").write_text("mine")
            untouched = (build / "sqlite" / "app" / "main.py").stat().st_mtime_ns

            checkout.edit(f"{PROJECT}/app/health.py", '"ok"', '"changed"')
            wait_until(lambda: "postgresql: app/health.py" in log.read_text(), 30)
            assert '"changed"' in (build / "sqlite" / "app" / "health.py").read_text()

            (checkout.path / PROJECT / "SECURITY.md").unlink()
            wait_until(lambda: "postgresql: SECURITY.md has gone" in log.read_text(), 30)
            assert not (build / "sqlite" / "SECURITY.md").exists()

            (checkout.path / PROJECT / "broken.md").write_text("{{ cookiecutter.nothing }}\n")
            wait_until(lambda: "postgresql: cannot be rendered" in log.read_text(), 30)
            assert not (build / "sqlite" / "broken.md").exists()

            assert (build / "sqlite" / "own.txt").read_text() == "mine"
            assert (build / "sqlite" / "app" / "main.py").stat().st_mtime_ns == untouched
        finally:
            os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 0
    assert "Traceback" not in log.read_text()


def test_may_be_interrupted_while_it_renders(checkout: Template, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        process = start(sys.executable, "-u", "tools/dev.py", cwd=checkout.path, stdout=output)
    wait_until(lambda: "sqlite: " in log.read_text(), 30)

    os.killpg(process.pid, signal.SIGINT)

    assert process.wait(10) == 0
    assert "Traceback" not in log.read_text()
