"""The real client around a model that is not the real one: that would take a second to load."""

import sys
from types import ModuleType

import pytest
from starlette.requests import HTTPConnection

from app.errors import AppError
from app.services import PROVIDERS
from app.services.language import LocalLanguageDetector, get_language, load_model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    model = ModuleType("py3langid")
    model.classify = lambda text: ("de" if "Lampe" in text else "en", -1.5)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "py3langid", model)
    return model


async def test_detects_the_language(model: ModuleType) -> None:
    assert load_model() is model

    assert await LocalLanguageDetector(model).detect("Eine Lampe") == "de"


async def test_provider_makes_the_real_client(
    request_to_app: HTTPConnection, model: ModuleType
) -> None:
    assert PROVIDERS["language"] is get_language
    assert isinstance(await get_language(request_to_app), LocalLanguageDetector)


def test_says_how_to_install_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)  # makes the import fail

    with pytest.raises(AppError, match="uv sync --inexact --extra language"):
        load_model()
