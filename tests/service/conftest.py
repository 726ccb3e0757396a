from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import Project
from tests.servers import TCPServer, new_database
from tests.service.servers import Background


@pytest.fixture(scope="session")
def background() -> Background:
    return Background()


@pytest.fixture
def database_url(
    each_project: Project, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    if each_project.database == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/service.db"
        return
    server: TCPServer = request.getfixturevalue("tcp_server")
    name = new_database(server)
    yield server.url(database=name).replace("postgresql:", "postgresql+asyncpg:")
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")
