"""What has to be as new for every test: fakes, caches, counters.

    reset_between_tests(my_cache.clear)

is all that a part of a project needs, in the module of its fixture for example.
"""

from collections.abc import Callable

Restore = Callable[[], object]

_resets: list[Callable[[], object]] = []
_saves: list[Callable[[], Restore]] = []


def reset_between_tests(reset: Callable[[], object]) -> None:
    """From now on `reset` is called before every test, and before every example of hypothesis."""
    _resets.append(reset)


def keep_between_examples(save: Callable[[], Restore]) -> None:
    """For what fixtures arrange: `save` is called before the first example of hypothesis, and what it returns brings
    that back before each of the others."""
    _saves.append(save)


def reset_all() -> None:
    for reset in _resets:
        reset()


def save_all() -> Restore:
    """Returns what resets all, and brings back what fixtures have arranged until now."""
    restores = [save() for save in _saves]

    def restore_all() -> None:
        reset_all()
        for restore in restores:
            restore()

    return restore_all
