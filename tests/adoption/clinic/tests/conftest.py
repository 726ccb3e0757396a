from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine

from clinic import config
from clinic.app import app
from clinic.models import Base


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    engine = create_engine(config.DATABASE_URL.replace("+asyncpg", "+psycopg"))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield
    engine.dispose()


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client
