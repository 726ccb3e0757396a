"""Clocks that go on, whatever tests do to the time.

freezegun puts functions that stand still in the place of those that it finds in modules. These are objects of their
own, which it does not know.
"""

import time
from functools import partial

clock = partial(time.perf_counter)
"""Seconds, of which only differences mean something."""
monotonic = partial(time.monotonic)
"""The same, as event loops count them."""
