"""Binds the test kit to an existing project: examines it, shows what would change, and asks.

None of the project's code is imported or run.
"""

import sys
from pathlib import Path

from testkit.adopt.changes import changes_for
from testkit.adopt.source import read_modules
from testkit.adopt.survey import look_at

NEXT = """
Now run your tests, and see what can be improved:

  uv run pytest
  uv run python -m testkit doctor
"""


def adopt(root: Path, *, yes: bool = False) -> int:
    """Returns 0 if the project is bound, and 1 if something essential was not found, or the user did not agree."""
    if _is_bound(root):
        print(
            "The test kit is bound in this project already: `python -m testkit doctor` looks at it."
        )
        return 0
    survey = look_at(root)
    print("Found")
    print("\n".join(f"  {line}" for line in survey.found) or "  nothing")
    if survey.missing:
        print("\nNot found, and needed")
        print("\n".join(f"  {line}" for line in survey.missing))
        print(
            "\nNothing was written. If the kit can be used here, the guide says how to bind it by hand."
        )
        return 1
    changes = changes_for(survey)
    print("\nIt would write:\n")
    print("\n".join(change.diff(root) for change in changes))
    if survey.remarks:
        print("Left for you")
        print("\n".join(f"  {line}" for line in survey.remarks))
    if not yes and not _agreed():
        print("\nNothing was written.")
        return 1
    for change in changes:
        change.write()
    print(NEXT)
    return 0


def _is_bound(root: Path) -> bool:
    """Whether the project is already bound, by this command or as the template does it."""
    return any("= DatabaseSetup(" in module.text for module in read_modules(root))


def _agreed() -> bool:
    if not sys.stdin.isatty():
        print("\nThere is no terminal to ask on: `python -m testkit adopt --yes` writes it.")
        return False
    return input("\nWrite it? [y/N] ").strip().lower() in ("y", "yes")
