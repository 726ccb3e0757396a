"""What has to be as new for every test: fakes, caches, counters.

    reset_between_tests(my_cache.clear)

is all that a part of a project needs, in the module of its fixture for example.
"""

from collections.abc import Callable

_resets: list[Callable[[], object]] = []


def reset_between_tests(reset: Callable[[], object]) -> None:
    """From now on `reset` is called before every test, and before every example of hypothesis."""
    _resets.append(reset)


def reset_all() -> None:
    for reset in _resets:
        reset()
