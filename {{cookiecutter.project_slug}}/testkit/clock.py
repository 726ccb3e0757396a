"""Clocks that keep running, whatever tests do to the time.

freezegun replaces the time functions that it finds in modules with frozen ones. These clocks are separate objects,
which it does not recognise.
"""

import time
from functools import partial

clock = partial(time.perf_counter)
"""Seconds; only differences are meaningful."""
monotonic = partial(time.monotonic)
"""The same, on the clock that event loops use."""
