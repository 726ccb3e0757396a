"""Where in the project a piece of library code was called from."""

import sys
from functools import cache
from pathlib import Path
from types import FrameType

import greenlet

_OWN = str(Path(__file__).parent)
_NOT_OURS = ("<", sys.prefix + "/", sys.base_prefix + "/", _OWN)
UNKNOWN = "an unknown place"
_NOBODYS = ("sqlalchemy", "testkit", "contextlib", "asyncio")


def call_site() -> str:
    """`path/to/file.py:12` of the innermost frame that belongs to the project; about 5 us.

    Where there is none, the library that has called SQLAlchemy: `fastapi_users.manager:120`.
    SQLAlchemy runs its sync core in a greenlet of its own, so the search goes on in the parents.
    """
    frame: FrameType | None = sys._getframe(1)
    current = greenlet.getcurrent()
    library = UNKNOWN
    while True:
        while frame is not None:
            filename = frame.f_code.co_filename
            if not filename.startswith(_NOT_OURS):
                return f"{relative(filename)}:{frame.f_lineno}"
            module = str(frame.f_globals.get("__name__", ""))
            if library is UNKNOWN and not module.startswith(_NOBODYS):
                library = f"{module}:{frame.f_lineno}"
            frame = frame.f_back
        if current.parent is None:
            return library
        current = current.parent
        frame = current.gr_frame


@cache
def relative(filename: str) -> str:
    try:
        return str(Path(filename).relative_to(Path.cwd()))
    except ValueError:
        return filename
