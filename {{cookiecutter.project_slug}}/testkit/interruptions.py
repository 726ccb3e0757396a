"""Delays Ctrl-C while the kit does something for a test that must not be left half done.

It usually takes effect within 0.2 ms. A second Ctrl-C takes effect at once.
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
    """A context in which Ctrl-C is only noted, and at the end of which it is raised.

    Takes 2 us. The public `signal` module, which converts everything to enums, would take 10.
    """

    def __enter__(self) -> None:
        self._has_come = self._is_over = False
        # Any other handler, such as asyncio's while it runs a test, takes precedence.
        self._is_held = getsignal(SIGINT) is RAISE and get_ident() == main_thread().ident
        if self._is_held:
            handle(SIGINT, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        handle(SIGINT, RAISE)
        if self._is_over:  # something like pdb saved this handler, and has put it back
            raise KeyboardInterrupt
        self._has_come = True

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        if self._is_held and getsignal(SIGINT) == self._note:
            handle(SIGINT, RAISE)
        if self._has_come:
            raise KeyboardInterrupt
