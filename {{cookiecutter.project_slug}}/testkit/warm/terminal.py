"""The terminal that a watcher shares with its runs. Needs Unix."""

import atexit
import os
import signal
import sys
import termios
import tty
from contextlib import suppress

QUIT = "q"
ESCAPE = "\033"


class Terminal:
    """The terminal. It delivers single keys while nothing runs, and is in its original mode otherwise."""

    def __init__(self) -> None:
        self.file = sys.stdin.fileno()
        self.attributes = termios.tcgetattr(self.file)
        self.group = os.tcgetpgrp(self.file)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        # Nobody could resume it: the shell waits for make, which does not notice that it has stopped.
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        # Ctrl-C is meant for the run, not for make, which started this process.
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
        os.tcsetpgrp(self.file, os.getpid())
        atexit.register(self.give_back)

    def give_back(self) -> None:
        """Returns the terminal to the shell, unless the shell has taken it back already, as when `make` was killed."""
        with suppress(OSError, termios.error):  # it is closed, or `make` has ended
            if os.tcgetpgrp(self.file) == os.getpid():
                self.take_lines()
                os.tcsetpgrp(self.file, self.group)

    def is_closed(self) -> bool:
        try:
            os.tcgetpgrp(self.file)
        except OSError:
            return True
        return False

    def key(self) -> str:
        """Returns the key pressed; `q` at the end of the input, or if the terminal belongs to the shell again."""
        try:
            typed = os.read(self.file, 1) or QUIT.encode()
        except OSError:
            typed = QUIT.encode()
        if typed == ESCAPE.encode():  # arrows and the like send letters after it
            termios.tcflush(self.file, termios.TCIFLUSH)
        return typed.decode("latin-1")  # other characters may arrive in parts

    def take_keys(self) -> None:
        tty.setcbreak(self.file, termios.TCSADRAIN)

    def take_lines(self) -> None:
        termios.tcsetattr(self.file, termios.TCSADRAIN, self.attributes)

    def ask(self, question: str) -> str | None:
        """A line; `None` if it was interrupted, or has Esc in it."""
        self.take_lines()
        try:
            line = input(f"{question} (empty: all, Ctrl-C: back): ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        except UnicodeDecodeError:
            print("This cannot be read: it is written in another encoding than the terminal's.")
            return None
        else:
            return None if ESCAPE in line else line
        finally:
            self.take_keys()
