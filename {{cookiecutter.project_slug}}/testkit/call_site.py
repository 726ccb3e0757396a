"""Where in the project a piece of library code was called from."""

import asyncio
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import greenlet

_OWN = str(Path(__file__).parent)
_LIBRARIES = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
if sys.prefix != sys.base_prefix:  # otherwise it is a folder like `/usr`, which may hold a project
    _LIBRARIES.add(sys.prefix)
_NOT_OURS = ("<", _OWN, *(f"{folder}/" for folder in _LIBRARIES))
UNKNOWN = "an unknown place"
TASKS: WeakKeyDictionary[asyncio.Task[Any], str] = WeakKeyDictionary()
"""Where each task was created, if that was recorded."""
_NOBODYS = ("sqlalchemy", "testkit", "contextlib", "asyncio", "threading", "_pytest", "pluggy")


def call_site(besides: str = "") -> str:
    """Returns `path/to/file.py:12` of the innermost frame in the project, outside the file `besides`. Takes about 2 us.

    SQLAlchemy runs its sync core in a separate greenlet, so the search continues in the parent greenlets. It also
    ends sessions in a separate task, so the search continues where that task was created. If nothing is found,
    returns the library that called SQLAlchemy, such as `fastapi_users.manager:120`.
    """
    frame: FrameType | None = sys._getframe(1)
    current = greenlet.getcurrent()
    library = UNKNOWN
    while True:
        while frame is not None:
            filename = frame.f_code.co_filename
            if is_ours(filename) and filename != besides:
                return f"{relative(filename)}:{frame.f_lineno}"
            if library is UNKNOWN:
                module = str(frame.f_globals.get("__name__", ""))
                if not module.startswith(_NOBODYS):
                    library = f"{module}:{frame.f_lineno}"
            frame = frame.f_back
        if current.parent is None:
            return _creation_of_task() or library
        current = current.parent
        frame = current.gr_frame


def _creation_of_task() -> str | None:
    if asyncio._get_running_loop() is None:
        return None
    task = asyncio.current_task()
    return None if task is None else TASKS.get(task)


@cache
def is_ours(filename: str) -> bool:
    """Whether a file belongs to the project, and not to a library or the test kit."""
    return not filename.startswith(_NOT_OURS)


@cache
def relative(filename: str) -> str:
    try:
        return str(Path(filename).relative_to(Path.cwd()))
    except ValueError:
        return filename
