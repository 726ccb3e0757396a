"""Asks the real server for what its document promises, and for much that it does not: `make fuzz`.

schemathesis makes the requests up. Every answer has to be documented, and no value may lead to an error of
the server; `schemathesis.toml` has the few exceptions. The name of this file keeps it out of other runs.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text

from app.engine import create_engine
from testkit.databases import open_empty_database
from tests.fixtures.database import ROOT, SETUP
from tests.smoke.conftest import exchange_rates
from tests.smoke.server import Server

pytestmark = [pytest.mark.network, pytest.mark.timeout(3600)]

EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "100")  # of each operation and phase
ROOT_ACCOUNT = {"email": "root@example.com", "password": "correct horse battery staple"}


@pytest.fixture(scope="module")
def documented(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The service in production, but for its documentation, and without limits to tries."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    open_to_all = dict.fromkeys(("THROTTLE_LOGIN", "THROTTLE_REGISTER", "THROTTLE_MAIL"), "")
    with open_empty_database(SETUP, pytestconfig) as url, exchange_rates() as rates:
        server = Server(url, rates, log, DOCS="true", **open_to_all)
        server.start()
        server.wait_for_migration()
        server.wait_until_ready()
        yield server
        server.stop()


async def superuser_token(server: Server) -> str:
    async with httpx2.AsyncClient(base_url=f"{server.url}/api/v1/auth") as client:
        await client.post("/register", json=ROOT_ACCOUNT)
        engine = create_engine(server.database_url)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE users SET is_superuser = true"))
        await engine.dispose()
        form = {"username": ROOT_ACCOUNT["email"], "password": ROOT_ACCOUNT["password"]}
        return str((await client.post("/login", data=form)).json()["access_token"])


@pytest.fixture(params=["anonymous", "superuser"])
async def credentials(documented: Server, request: pytest.FixtureRequest) -> list[str]:
    if request.param == "anonymous":
        return []
    return ["--header", f"Authorization: Bearer {await superuser_token(documented)}"]


def test_answers_are_what_the_document_says(documented: Server, credentials: list[str]) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    options = ["--checks", "all", "--max-examples", EXAMPLES, "--continue-on-failure"]

    found = subprocess.run(
        [program, "run", f"{documented.url}/openapi.json", *options, *credentials],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    sys.stdout.write(found.stdout)
    log = documented.log.read_text()
    assert found.returncode == 0
    assert "Traceback" not in log, log
