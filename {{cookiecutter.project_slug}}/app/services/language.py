"""Detects the language of a text, with a model that runs in this process.

The model comes with `uv sync --inexact --extra language` and takes more than a second to load.
"""

import asyncio
from types import ModuleType
from typing import Annotated, Protocol

from fastapi import Depends, FastAPI

from app.errors import AppError
from app.services import provider


class LanguageDetector(Protocol):
    async def detect(self, text: str) -> str:
        """The ISO 639-1 code of the text's language."""


class LocalLanguageDetector:
    def __init__(self, model: ModuleType) -> None:
        self.model = model

    async def detect(self, text: str) -> str:
        # In a thread: while the model works, other requests go on.
        language, _score = await asyncio.to_thread(self.model.classify, text)
        return str(language)


def load_model() -> ModuleType:
    try:
        import py3langid
    except ImportError as error:
        raise AppError(
            503,
            "LANGUAGE_MODEL_MISSING",
            "The language model is not installed: run `uv sync --inexact --extra language`.",
        ) from error
    py3langid.classify("")  # it reads its file at the first call
    model: ModuleType = py3langid
    return model


@provider
async def get_language(_app: FastAPI) -> LanguageDetector:
    return LocalLanguageDetector(await asyncio.to_thread(load_model))


LanguageDep = Annotated[LanguageDetector, Depends(get_language)]
