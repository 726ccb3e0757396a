"""Which files are saved while a watcher runs or waits."""

import os
import queue
import sys
import threading
from pathlib import Path

import watchfiles

from testkit.warm.sources import is_in_sources, is_source, sources

DEBOUNCE = 50  # ms; files saved within this time count as one change
UNWATCHED = """\
Files cannot be watched: {}
On Linux, raise `fs.inotify.max_user_watches` and `fs.inotify.max_user_instances` with sysctl. Or set
WATCHFILES_FORCE_POLLING=1, which looks at all files again and again."""


class Changes:
    """The files that are saved, reported by a thread."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.paths: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
        self.folders = folders_in(Path())
        self.error: OSError | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def _is_watched(self, change: watchfiles.Change, path: str) -> bool:
        place = Path(os.path.relpath(path))
        if not is_in_sources(place):
            return False
        if is_source(place):
            self.folders.add(place.parent)
            return True
        # When a folder is moved, nothing is reported for its files.
        if change is watchfiles.Change.deleted:
            moved = {folder for folder in self.folders if folder.is_relative_to(place)}
            self.folders -= moved
        else:
            moved = folders_in(place) - self.folders
            self.folders |= moved
        return bool(moved)

    def _watch(self) -> None:
        try:
            for changes in watchfiles.watch(
                ".",
                watch_filter=self._is_watched,
                debounce=DEBOUNCE,
                step=10,
                raise_interrupt=False,
            ):
                self.paths.put({os.path.relpath(path) for _, path in changes})
                os.write(self.writer, b"!")
        except OSError as error:
            self.error = error
            os.write(self.writer, b"!")

    def take(self) -> list[str]:
        os.read(self.reader, 4096)
        if self.error:
            sys.exit(UNWATCHED.format(self.error))
        found: set[str] = set()
        while not self.paths.empty():
            found |= self.paths.get()
        return sorted(found)


def folders_in(place: Path) -> set[Path]:
    return {path.parent for path in sources(Path(), place)}
