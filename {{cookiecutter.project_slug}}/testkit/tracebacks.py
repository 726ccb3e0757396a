"""Pytest plugin that leaves the frames of libraries out of tracebacks; `--full-trace` shows them.

Between a test's request and the failing route there are about forty, from httpx2, Starlette and FastAPI.
"""

from collections.abc import Generator
from typing import Any

import pytest

from testkit.call_site import is_ours


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.excinfo is None or item.config.option.fulltrace:
        return (yield)
    filtered = item._traceback_filter
    is_shorter = False

    def without_libraries(excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        nonlocal is_shorter
        frames = filtered(excinfo)
        between = [frame for frame in frames[1:-1] if is_ours(str(frame.path))]
        kept = [*frames[:1], *between, *frames[1:][-1:]]
        is_shorter |= len(kept) < len(frames)
        return type(frames)(kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item, "_traceback_filter", without_libraries)
        report = yield
    longrepr: Any = report.longrepr
    if is_shorter and hasattr(longrepr, "addsection"):
        longrepr.addsection("frames of libraries are left out: --full-trace shows them", "")
    return report
