"""State that has to be fresh for every test: fakes, caches, counters.

    reset_between_tests(my_cache.clear)

is all that is needed, for example in the module of the fixture.
"""

from collections.abc import Callable

Restore = Callable[[], object]

_resets: list[Callable[[], object]] = []
_saves: list[Callable[[], Restore]] = []


def reset_between_tests(reset: Callable[[], object]) -> None:
    """Calls `reset` before every test, and before every hypothesis example, from now on."""
    _resets.append(reset)


def keep_between_examples(save: Callable[[], Restore]) -> None:
    """Preserves what fixtures arranged: `save` is called before the first hypothesis example, and returns a function
    that is called before each of the others to restore it."""
    _saves.append(save)


def reset_all() -> None:
    for reset in _resets:
        reset()


def save_all() -> Restore:
    """Returns a function that resets everything, and restores what fixtures have arranged so far."""
    restores = [save() for save in _saves]

    def restore_all() -> None:
        reset_all()
        for restore in restores:
            restore()

    return restore_all
