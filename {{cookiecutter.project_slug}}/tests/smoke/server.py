"""The service as it runs in production: a migrated database, and a process with a socket."""

import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import httpx2

from tests.fixtures.database import ROOT
from tests.fixtures.environment import FAST_HASHING

START_TIMEOUT = 20.0  # seconds
STOP_TIMEOUT = 10.0  # seconds


class Server:
    """`python -m app serve` in a process of its own; what it prints goes to `log`."""

    def __init__(
        self, database_url: str, exchange_rates_url: str, log: Path, **environment: str
    ) -> None:
        self.database_url = database_url
        self.log = log
        self._environment = {
            name: value for name, value in os.environ.items() if name not in FAST_HASHING
        } | {
            "ENVIRONMENT": "production",
            "DATABASE_URL": database_url,
            "SECRET_KEY": secrets.token_urlsafe(48),
            "EXCHANGE_RATES_URL": exchange_rates_url,
            "SHUTDOWN_DELAY": "0.1",  # for proxies, of which there is none
            **environment,
        }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._migration: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starter = Thread(target=self._start, daemon=True)

    def start(self) -> None:
        """Returns at once: in the background the database is migrated, then the server starts."""
        self._starter.start()

    def _start(self) -> None:
        self._migration = self._spawn("migrate")
        if self._migration.wait() == 0:
            where = ("--host", "127.0.0.1", "--port", str(self._port), "--workers", "1")
            self._process = self._spawn("serve", *where)

    def wait_for_migration(self) -> None:
        self._starter.join(START_TIMEOUT)
        assert self._process is not None, "`python -m app migrate` has failed"

    def wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx2.TransportError):
                answer = httpx2.get(f"{self.url}/health/ready")
                if answer.is_success:
                    return
                # Only what is not ready yet gets ready by waiting.
                assert answer.status_code == 503, f"/health/ready answers {answer.status_code}"
            time.sleep(0.02)
        raise AssertionError(f"the server has ended, or was not ready in {START_TIMEOUT:g} s")

    def stop(self) -> None:
        """Ends the server as a process manager does."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(STOP_TIMEOUT)
        assert code in (0, -15), f"the server has ended with {code}"

    def kill(self) -> None:
        for process in (self._migration, self._process):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "app", *command],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
