"""Tells which modules can be held, those of libraries and of the test kit, and whether they still match their files."""

import gc
import importlib
import io
import os
import sys
import sysconfig
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cached_property
from importlib import metadata
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from _pytest import fixtures
from _pytest.assertion import install_importhook
from _pytest.assertion.rewrite import AssertionRewritingHook
from _pytest.config import get_config

# Read by pytest, or by what installs packages.
FILES = ("pyproject.toml", "uv.lock", ".python-version", "pytest.ini", "tox.ini", "setup.cfg")
KIT = str(Path(__file__).parents[1])
OWN = [str(file) for file in Path(__file__).parent.glob("*.py")]  # the code that talks to the runs
DIRECTORIES = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")}

# The names of library modules, in the order of import, each with the module's own `__name__`. The two differ where
# a module stands in for the library of that name, as after `httpx2.alias_httpx()`.
Names = dict[str, str]
State = dict[str, tuple[int, int] | None]

VARIABLES: set[str] = set()  # environment variables that libraries read while they were imported


def is_library(file: str) -> bool:
    """Whether this file belongs to an installed module or to the test kit, not to what is being worked on."""
    return any(file.startswith(f"{directory}/") for directory in (*DIRECTORIES, KIT))


def is_kit_of(directory: str) -> bool:
    """Whether the test kit in this process is the one that a run in this directory imports."""
    is_installed = any(KIT.startswith(f"{place}/") for place in DIRECTORIES)
    return is_installed or os.path.join(directory, "testkit") == KIT


def imported(besides: Collection[str] = ()) -> Names:
    """Returns the library modules in this process, without those in `besides`."""
    return {
        name: attribute(module, "__name__") or name
        for name, module in list(sys.modules.items())
        if name not in besides
        and not name.startswith(("__main__", "__mp_main__"))
        and is_library(attribute(module, "__file__"))
    }


def rewritten(names: Iterable[str]) -> list[str]:
    """Returns those of these modules whose asserts pytest has rewritten."""
    return [name for name in names if is_rewritten(sys.modules[name])]


def is_rewritten(module: object) -> bool:
    return isinstance(vars_of(module).get("__loader__"), AssertionRewritingHook)


def attribute(module: object, name: str) -> str:
    """Returns a text attribute of a module, or an empty string."""
    found = vars_of(module).get(name)
    return found if isinstance(found, str) else ""


def vars_of(module: object) -> dict[str, Any]:
    """Returns the attributes of a module without running any of its code: a lazy module would be loaded, and an object
    that stands in for a module may return anything."""
    try:
        found: dict[str, Any] = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return found


def hold(
    names: Names,
    rewritten: Collection[str],
    module: str,
    excluded: list[str],
    environment: Mapping[str, str],
) -> None:
    """Imports these modules for good, without the packages in `excluded`; pytest rewrites the asserts of those in
    `rewritten`. If one makes this process useless, starts `module`, which this process runs, again, with that package
    as another argument."""
    kept = {name: own for name, own in names.items() if name.partition(".")[0] not in excluded}
    culprit = import_all(kept, rewritten)
    if culprit is not None:
        command = [sys.executable, "-m", module, *sys.argv[1:], culprit]
        os.execve(sys.executable, command, environment)  # noqa: S606


def import_all(names: Names, rewritten: Collection[str]) -> str | None:
    """Imports these modules. Returns the package that made this process useless, if there is one: it started a
    thread, so that the process must not fork any more, or imported a library that another module stands in for. Or it
    is a test kit that imports modules of the project, which may change."""
    replaced = [name for name, own in names.items() if own != name]
    before = set(sys.modules)
    gc.disable()  # as in `testkit.garbage`
    # pytest, too, undoes the warning filters that they set. Some, like Alembic, keep the output stream, so
    # it has no buffer: otherwise what they print would not appear before the end of a test.
    with (
        warnings.catch_warnings(),
        rewriting(rewritten),
        redirect_stdout(unbuffered_output()),
        noting_variables(),
    ):
        for name in [name for name in names if name not in replaced]:
            # A module that cannot be imported was created by other code, or expects some preparation.
            with suppress(Exception):
                importlib.import_module(name)
            if threading.active_count() > 1 or any(map(is_itself, replaced)):
                return name.partition(".")[0]
    if any(name.startswith("testkit.") for name in names) and not before.issuperset(others()):
        return "testkit"
    gc.freeze()
    gc.enable()
    return None


def others() -> list[str]:
    """Returns the modules that are being worked on."""
    files = {name: attribute(module, "__file__") for name, module in sys.modules.items()}
    return [name for name, file in files.items() if file.endswith(".py") and not is_library(file)]


def is_itself(name: str) -> bool:
    return attribute(sys.modules.get(name), "__name__") == name


@contextmanager
def noting_variables() -> Iterator[None]:
    """Notes in `VARIABLES` which environment variables are read. Those that C code reads are not seen."""
    environ: Any = type(os.environ)
    read = environ.__getitem__

    def note_and_read(self: Any, name: Any) -> Any:
        VARIABLES.add(os.fsdecode(name))
        return read(self, name)

    environ.__getitem__ = note_and_read
    try:
        yield
    finally:
        environ.__getitem__ = read


def read_the_same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether the libraries read the same values in both environments."""
    return all(one.get(name) == other.get(name) for name in VARIABLES)


def unbuffered_output() -> TextIO:
    """Returns the standard output as Python opens it with `-u`."""
    return io.TextIOWrapper(
        io.FileIO(1, "w", closefd=False),
        encoding=sys.stdout.encoding,
        errors=sys.stdout.errors,
        write_through=True,
    )


@contextmanager
def rewriting(names: Collection[str]) -> Iterator[None]:
    """Has pytest rewrite the asserts of these modules, as it does in a run that imports them."""
    too_late = {"testkit", *(name for name in names if name in sys.modules)}
    hook = install_importhook(get_config())
    hook.mark_rewrite(*(name for name in names if name not in too_late))
    try:
        yield
    finally:
        sys.meta_path.remove(hook)
        leave_as_they_are(too_late)


def leave_as_they_are(names: Collection[str]) -> None:
    """Tells pytest not to rewrite the asserts of these modules, in the way that its documentation describes. Otherwise
    it would warn that it is too late to rewrite them."""
    for module in [sys.modules[name] for name in names]:
        if not is_rewritten(module) and "PYTEST_DONT_REWRITE" not in (module.__doc__ or ""):
            module.__doc__ = f"{module.__doc__ or ''}\n\nPYTEST_DONT_REWRITE"


def remember_packages() -> None:
    """Keeps the metadata of installed packages in memory, as it stays the same as long as this process lives. Otherwise
    pytest and its plugins would read 200 files in every run, for 10 ms, and testmon more, for 90 ms.
    """
    for name in ("entry_points", "files", "metadata"):
        found = metadata.Distribution.__dict__[name]
        if isinstance(found, property):
            assert found.fget
            remembered = cached_property(found.fget)
            remembered.__set_name__(metadata.Distribution, name)
            setattr(metadata.Distribution, name, remembered)
    discover = metadata.Distribution.discover
    libraries = {entry: list(discover(path=[entry])) for entry in sys.path if entry in DIRECTORIES}

    def distributions(**context: Any) -> Iterator[metadata.Distribution]:
        if context:
            return iter(discover(**context))
        return chain.from_iterable(
            libraries.get(entry) or discover(path=[entry]) for entry in sys.path
        )

    for distribution in distributions():
        with suppress(Exception):  # one that is damaged
            _ = distribution.metadata, distribution.entry_points
    metadata.distributions = distributions


def remember_fixtures() -> None:
    """Remembers which names in the libraries' plugins can be fixtures. Otherwise pytest would inspect every object of
    every plugin in every run, which takes 15 ms since version 9.2.
    """
    found = {}
    for module in map(sys.modules.get, imported()):
        names = object.__getattribute__(module, "__dict__")
        if isinstance(module, ModuleType) and any(name.startswith("pytest_") for name in names):
            # Sorted as by `dir`. A fixture has `__wrapped__`, and so has whatever hides one.
            wrapping = sorted(name for name in names if hasattr(names[name], "__wrapped__"))
            found[module] = len(names), wrapping

    def names_of(plugin: object) -> list[str]:
        if isinstance(plugin, ModuleType) and plugin in found:
            size, wrapping = found[plugin]
            if size == len(vars(plugin)):  # no name was added
                return wrapping
        return dir(plugin)

    vars(fixtures)["dir"] = names_of


def state(since: int, besides: Collection[str] = ()) -> State:
    """Returns the files that this process depends on, each with its time and size. Takes 10 ms for 1,000 modules.

    Files that do not exist are included if they would take precedence over a library of the same name.
    """
    names = imported()
    files = {*besides, *(attribute(sys.modules[name], "__file__") for name in names)}
    for name in {name.partition(".")[0] for name in names}:
        files |= {f"{name}.py", f"{name}/__init__.py"}
    return stamps((*files, *OWN, *DIRECTORIES, *FILES, sys.executable), since)


def stamps(files: Iterable[str], since: int) -> State:
    """Returns the time and size of files that were read at `since` (in ns) or later. One that was written after that
    may have been read before it was written, so it has none and counts as changed."""
    found = {file: look(file) for file in files}
    return {file: None if was and was[0] > since else was for file, was in found.items()}


def changed(before: State) -> str | None:
    """Returns a file that has changed, or `None`."""
    return next((file for file, was in before.items() if look(file) != was), None)


def look(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # takes half as long as `Path.stat`
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
