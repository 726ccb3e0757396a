"""Programs written in Python, run in forks of a process that has imported them: a fifth of a second sooner.

A module of its own, since that process imports it too.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from functools import partial
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
PROGRAMS = ["cookiecutter.cli", "cruft._cli"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, *PROGRAMS])
COMPILED = Path(ROOT, "build", "jinja")


def run_forked(
    module: str, arguments: list[str], directory: Path, environment: dict[str, str]
) -> tuple[int, str]:
    """What `python -m module` does. Returns its exit status and all of its output."""
    with tempfile.NamedTemporaryFile("r", prefix="output-") as output:
        settings = (module, arguments, str(directory), environment, output.name)
        process = CONTEXT.Process(target=become, args=settings)
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, output.read()


def become(
    module: str, arguments: list[str], directory: str, environment: dict[str, str], output: str
) -> None:
    """In the fork."""
    nothing, said = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream, file in ((0, nothing), (1, said), (2, said)):
        os.dup2(file, stream)
    # Those of the process that has forked may have been replaced.
    sys.stdin, sys.stdout, sys.stderr = (
        open(stream, mode, closefd=False)  # noqa: SIM115
        for stream, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    # Here is a template too, and it is not the one that is asked for.
    sys.path[:] = [path for path in sys.path if path not in ("", ROOT)]
    keep_what_is_compiled()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def keep_what_is_compiled() -> None:
    """Half of what cookiecutter does is to compile 200 templates, most of which are the same each time."""
    import cookiecutter.utils
    from jinja2 import FileSystemBytecodeCache

    COMPILED.mkdir(parents=True, exist_ok=True)
    cookiecutter.utils.StrictEnvironment = partial(
        cookiecutter.utils.StrictEnvironment, bytecode_cache=FileSystemBytecodeCache(str(COMPILED))
    )
