"""The engine that serves requests keeps to the limits of the settings."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from app.engine import create_engine, engine_options
from app.settings import Settings


async def test_waits_for_a_writer_no_longer_than_it_may(tmp_path: Path) -> None:
    options = engine_options(Settings(database_busy_timeout=0.02))
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/limits.db", **options)

    async with engine.begin() as writer:
        await writer.execute(text("CREATE TABLE notes (id INTEGER)"))
        async with engine.connect() as other:
            with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                await other.execute(text("INSERT INTO notes VALUES (1)"))
    await engine.dispose()
