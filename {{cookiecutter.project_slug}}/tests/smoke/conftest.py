"""The real thing: a migrated database, a server process, and a client on a socket."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url

from app.settings import Settings
from tests.fixtures.database import ROOT

Step = Callable[[str], AbstractContextManager[None]]

START_TIMEOUT = 20.0  # seconds
STOP_TIMEOUT = 10.0  # seconds


class Server:
    """Uvicorn in a process of its own, with a database of its own."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.environment = os.environ | environment
        self.log = log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def migrate(self) -> None:
        self._run("alembic", "upgrade", "head").check_returncode()

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server has ended by itself"
            try:
                if httpx.get(f"{self.url}/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        pytest.fail(f"the server was not ready within {START_TIMEOUT:g} s")

    def stop(self) -> int:
        """Ends the server as a process manager would; returns its exit code."""
        self.process.terminate()
        return self.process.wait(STOP_TIMEOUT)

    def kill(self) -> None:
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
