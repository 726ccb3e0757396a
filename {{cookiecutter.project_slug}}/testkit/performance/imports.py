"""Measures how long each package takes to import."""

import time
from collections import defaultdict
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

SHOWN = 10


class ImportTimer:
    """Times the modules that are imported between `start()` and `stop()`, at a cost of about 5 us each."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Seconds per package, without what it imports from other packages."""
        self._inner = [0.0]

    def start(self) -> None:
        self._original: Any = SourceFileLoader.exec_module
        SourceFileLoader.exec_module = self._timed()  # type: ignore[method-assign,assignment]

    def stop(self) -> None:
        SourceFileLoader.exec_module = self._original  # type: ignore[method-assign]

    def slowest(self) -> dict[str, float]:
        slowest = sorted(self.seconds.items(), key=lambda found: -found[1])
        return {package: round(s, 4) for package, s in slowest[:SHOWN]}

    def _timed(self) -> Callable[[SourceFileLoader, ModuleType], None]:
        original = self._original

        def exec_module(loader: SourceFileLoader, module: ModuleType) -> None:
            __tracebackhide__ = True
            start = time.perf_counter()
            self._inner.append(0.0)
            try:
                original(loader, module)
            finally:
                taken = time.perf_counter() - start
                self.seconds[module.__name__.partition(".")[0]] += taken - self._inner.pop()
                self._inner[-1] += taken

        # `warnings.warn(stacklevel=2)` in a module refers to the code that imports it, so Python skips the frames of
        # its import system, which it knows by this file name. The frame of this function lies among them.
        exec_module.__code__ = exec_module.__code__.replace(
            co_filename=f"<importlib._bootstrap of {__name__}>"
        )
        return exec_module


IMPORTS = ImportTimer()
