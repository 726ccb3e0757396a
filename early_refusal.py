"""Lets cookiecutter check the answers before it writes anything.

A hook comes too late for that: by then the folder exists, for a slug like `a/b` even in the wrong
place, and cookiecutter answers a failing hook with a traceback. So `cookiecutter.json`
renders its last private value through this filter, as soon as all answers are known.

While `cruft update` renders the new template, it still has this module of the old one loaded. Never
rename what is here, and never add a second filter.
"""

# Cookiecutter may run on an older Python than the project does.
from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

HOOK = Path(__file__).parent / "hooks" / "pre_gen_project.py"


def accepted(answers: dict[str, Any]) -> str:
    """Returns "yes"; raises the refusal, which cookiecutter prints before it exits with 1."""
    message = runpy.run_path(str(HOOK))["refusal"](answers)
    if message is not None:
        raise FailedHookException(message)
    return "yes"


class EarlyRefusal(Extension):
    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.filters["accepted"] = accepted
