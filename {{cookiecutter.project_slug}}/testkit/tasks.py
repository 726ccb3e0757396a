"""Tasks that outlive their test."""

import asyncio
from collections.abc import Iterable

from testkit.call_site import relative

CANCEL_TIMEOUT = 1.0  # seconds


async def cancel_tasks(tasks: Iterable[asyncio.Task[object]]) -> list[str]:
    """Cancels the tasks that still run; says of each one what and where it is."""
    running = [task for task in tasks if not task.done()]
    if not running:
        return []
    descriptions = [_describe(task) for task in running]
    for task in running:
        task.cancel()
    await asyncio.wait(running, timeout=CANCEL_TIMEOUT)
    return descriptions


def _describe(task: asyncio.Task[object]) -> str:
    name = getattr(task.get_coro(), "__qualname__", repr(task.get_coro()))
    places = [f"{relative(f.f_code.co_filename)}:{f.f_lineno}" for f in task.get_stack(limit=1)]
    return " ".join([f"the task {name}", *(f"at {place}" for place in places)])
