"""An empty test with nothing but pytest and pytest-asyncio around it."""

import os

import pytest


@pytest.mark.parametrize("number", range(int(os.environ["TESTKIT_TESTS"])))
async def test_bare(number: int) -> None:
    pass
