"""The application as a server runs it: with its lifespan, and an engine of its own."""

import asyncio
import gc
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.database import sessionmaker
from app.main import create_app
from app.settings import Settings
from testkit.isolation import Isolation


@pytest.mark.parametrize("run", [1, 2])
def test_overrides_end_with_the_test(app: FastAPI, run: int) -> None:
    assert app.dependency_overrides == {}
    app.dependency_overrides[create_app] = create_app


async def test_lifespan(tmp_path: Path) -> None:
    url = Settings().database_url
    app = create_app(Settings())
    before = sessionmaker.kw.get("bind")

    async with app.router.lifespan_context(app):
        assert sessionmaker.kw["bind"].url.render_as_string(hide_password=False) == url
        assert not app.state.http_client.is_closed

    assert sessionmaker.kw["bind"] is before
    assert app.state.http_client.is_closed
    assert isinstance(app.state.http_client, httpx2.AsyncClient)


@pytest.mark.committed
@pytest.mark.network  # its engine is one as in production
def test_serves_within_its_lifespan(settings: Settings, database_isolation: Isolation) -> None:
    with TestClient(create_app(settings)) as client:
        assert client.get("/health/ready").status_code == 200


@pytest.mark.network
async def test_what_is_loaded_is_no_garbage(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setattr("app.main.configure_logging", lambda _settings: None)
    app = create_app(settings.model_copy(update={"environment": "development"}))

    async with app.router.lifespan_context(app):
        assert frozen


@pytest.mark.network
async def test_jobs_may_run_elsewhere(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"jobs_in_process": False}))
    before = len(asyncio.all_tasks())

    async with app.router.lifespan_context(app):
        assert len(asyncio.all_tasks()) == before
