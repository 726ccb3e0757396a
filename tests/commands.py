"""Commands as a user runs them, and what else the tests do with files and processes."""

import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from tests.forked import run_forked

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
UV = os.environ.get("UV") or shutil.which("uv") or "uv"
BYTECODE = ROOT / "build" / "bytecode"

logger = logging.getLogger("tests")
started: list[subprocess.Popen[str]] = []  # by the test that is running

Result = subprocess.CompletedProcess[str]


def run(*command: str | Path, cwd: Path, check: bool = True, **environment: str) -> Result:
    """Runs a command in `cwd`; with `check`, its failure fails the test and shows the output."""
    share_bytecode(cwd)
    begun = time.monotonic()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment() | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return judge(done, begun, check=check)


def fork(
    module: str, *arguments: str | Path, cwd: Path, check: bool = True, **environment: str
) -> Result:
    """The same of a module of `tests.forked.PROGRAMS`."""
    begun = time.monotonic()
    words = [str(argument) for argument in arguments]
    status, output = run_forked(module, words, cwd, clean_environment() | environment)
    return judge(Result([module, *words], status, output), begun, check=check)


def judge(done: Result, begun: float, *, check: bool) -> Result:
    shown = " ".join(part.replace(f"{sys.prefix}/bin/", "") for part in done.args)
    logger.info("%5.1f s  %s", time.monotonic() - begun, shown[:110])
    if check and done.returncode:
        pytest.fail(f"`{shown}` has failed with {done.returncode}:\n{done.stdout}")
    return done


def outcome(output: str) -> str:
    """What pytest's last line counts besides warnings: `1 failed, 2 passed`. Empty without such a line."""
    counts = re.findall(r"^(?:=+ )?(\d+ [a-z ]+?(?:, \d+ [a-z ]+?)*) in ", output, re.MULTILINE)
    return re.sub(r", \d+ warnings?", "", counts[-1]) if counts else ""


def clean_environment() -> dict[str, str]:
    """The environment of a user who has uv: no virtual environment, and nothing of this run of pytest.

    Without bytecode every start of Python would take a second longer. And mypy reads the libraries once for
    all projects, not for eleven seconds in each: it compares what it knows with the files.
    """
    python = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    unwanted = ("VIRTUAL_ENV", "PYTEST_", *python, "UV_RUN", "MAKE", "MFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    types = ROOT / "build" / "mypy" / os.environ.get("PYTEST_XDIST_WORKER", "main")
    path = f"{Path(UV).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"UV": UV, "PATH": path, "MYPY_CACHE_DIR": str(types)}


def heed_interrupts() -> None:
    """Which is switched off in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(
    *command: str | Path,
    cwd: Path,
    stdin: int = subprocess.DEVNULL,
    stdout: int | TextIO = subprocess.DEVNULL,
    **environment: str,
) -> subprocess.Popen[str]:
    """Starts a process that leads a group of its own, and goes on. It ends with the test."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=clean_environment() | environment,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    started.append(process)
    return process


def find_python(version: str) -> Path | None:
    """An interpreter like `3.12` on this machine: on the path, or beside the one that runs this."""
    beside = Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python{version}")
    for candidate in (shutil.which(f"python{version}"), *beside):
        works = candidate and subprocess.run([candidate, "-V"], capture_output=True).returncode == 0
        if candidate and works:
            return Path(candidate)
    return None


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} does not hold {old!r}"
    path.write_text(text.replace(old, new))


def commit_all(directory: Path) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    if not (directory / ".git").exists():
        run("git", "init", "--quiet", cwd=directory)
    run("git", "add", "--all", cwd=directory)
    run(
        "git",
        *identity,
        "commit",
        "--quiet",
        "--allow-empty",
        "--message",
        "All of it",
        cwd=directory,
    )


@contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, kind)
        yield


def share_bytecode(folder: Path) -> None:
    """In a new virtual environment, Python would compile the same libraries again, for 4 s."""
    venv, mark = folder / ".venv", folder / ".venv" / ".has-bytecode"
    if venv.is_dir() and not venv.is_symlink() and not mark.exists():
        link_bytecode(BYTECODE, venv)
        mark.touch()


def link_bytecode(origin: Path, to: Path) -> None:
    """Python compares each file with its source."""
    for compiled in origin.glob("lib/*/site-packages/**/*.pyc"):
        copy = to / compiled.relative_to(origin)
        if copy.exists() and copy.samefile(compiled):
            continue
        if to == BYTECODE or copy.parents[1].exists():  # not of what is not installed there
            copy.parent.mkdir(parents=True, exist_ok=True)
            unfinished = copy.with_suffix(f".{os.getpid()}")
            try:
                unfinished.hardlink_to(compiled)
            except OSError:  # on another disk
                shutil.copy2(compiled, unfinished)
            unfinished.replace(copy)
