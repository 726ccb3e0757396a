"""Runs the selected tests several times in one process, each time in another order."""

import random
from collections.abc import Callable
from typing import Any

import pytest


def run_passes(
    session: pytest.Session, passes: int, is_enough: Callable[[int], bool] = lambda number: False
) -> None:
    """Replaces pytest's loop. What all tests share is set up only once.

    `is_enough` is called with the number of each pass when it ends, from 0, and returns whether it was the last one.
    """
    if session.testsfailed and not session.config.option.continue_on_collection_errors:
        raise session.Interrupted(f"{session.testsfailed} errors during collection")
    order = list(session.items)
    generator = random.Random(0)  # noqa: S311  # the same orders every time
    for number in range(passes):
        following = list(order)
        generator.shuffle(following)
        for item, next_in_order in zip(order, [*order[1:], None], strict=True):
            nextitem: Any = next_in_order
            if nextitem is None and number + 1 < passes:
                # If a test follows itself, only the fixtures that it shares with others may stay.
                nextitem = following[0] if following[0] is not item else item.parent
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            if session.shouldfail or session.shouldstop:
                raise session.Interrupted(session.shouldfail or session.shouldstop)
        if is_enough(number):
            break  # what is still set up is torn down at the end of the session
        order = following
