import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from app.services import Services
from app.settings import Settings


@pytest.fixture
def request_to_app(settings: Settings) -> HTTPConnection:
    """A request to an application whose services are the real ones."""
    app = FastAPI()
    app.state.settings = settings
    app.state.services = Services(app)
    app.state.http_client = None
    return HTTPConnection({"type": "http", "app": app})
