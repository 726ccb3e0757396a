"""Ctrl-C in the midst of what the kit does for a test, which would be left half done: it takes effect at the end.

That is in 0.2 ms, as a rule. For whoever presses it a second time, at once.
"""

import signal
from _signal import getsignal  # type: ignore[import-not-found]
from _signal import signal as handle
from _thread import get_ident
from threading import main_thread
from types import FrameType

SIGINT = int(signal.SIGINT)
RAISE = signal.default_int_handler


class Uninterrupted:
    """A context in which Ctrl-C only is noted, and at whose end it is raised. 2 us: `signal` itself, which makes enums
    of everything, would take 10."""

    def __enter__(self) -> None:
        self._has_come = self._is_over = False
        # Whoever else has a handler, as asyncio has one while it runs a test, knows better.
        self._is_held = getsignal(SIGINT) is RAISE and get_ident() == main_thread().ident
        if self._is_held:
            handle(SIGINT, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        handle(SIGINT, RAISE)
        if self._is_over:  # who has found it here, as pdb does, has put it back
            raise KeyboardInterrupt
        self._has_come = True

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        if self._is_held and getsignal(SIGINT) == self._note:
            handle(SIGINT, RAISE)
        if self._has_come:
            raise KeyboardInterrupt
