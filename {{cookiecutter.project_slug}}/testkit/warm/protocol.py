"""The protocol between a process that wants a run and the parent that forks it.

The request is a dictionary in the format of `marshal`, preceded by its length and sent together with the three
standard streams. Every byte after that is the number of a signal for the run. The answers are lines of a word
and a number: the `pid` of the run, and at its end its `status` as `os.waitpid` returns it; or `cold`, if pytest
has to start as usual.

A run (its process id is `run`) asks for a worker in the same way. The answer is the worker's process id, or
nothing if it gets none.
"""

# The asking process has to be quick: it starts in half the time without `json`, `pathlib`, `typing`, and what
# `socket` adds to `_socket`.
import _socket
import marshal
import os
import signal
import stat
import sys
from contextlib import suppress

HEAD = 4  # bytes that say how long the request is
FILE_BYTES = 4  # bytes of a file descriptor, an int in C
PID_BYTES = 8  # bytes of the answer to a request for a worker
NOBODY = bytes(PID_BYTES)  # answer if the worker would have other libraries
STREAMS = (0, 1, 2)
LONGEST = 103  # bytes of the path of a socket, on macOS
# Variables with these prefixes are read when a process starts.
EARLY = ("PYTHON", "COVERAGE_", "LD_", "DYLD_", "MALLOC_", "LC_", "LANG", "TZ", "OPENSSL_")

Request = dict[str, object]


def address() -> str | None:
    """Where the parent of this directory listens; `None` where there cannot be one."""
    here = os.stat(".")
    owner, name = f"testkit-{os.getuid()}", f"{here.st_dev:x}-{here.st_ino:x}.sock"
    place = os.environ.get("TMPDIR", "/tmp")  # noqa: S108
    if len(os.fsencode(f"{place}/{owner}/{name}")) > LONGEST:
        place = "/tmp"  # noqa: S108
    folder = f"{place}/{owner}"
    with suppress(OSError):  # it exists, or cannot be made
        os.mkdir(folder, 0o700)
    try:
        found = os.lstat(folder)
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            return None  # somebody else could listen there
        if found.st_mode & 0o077:
            os.chmod(folder, 0o700)
    except OSError:
        return None
    return f"{folder}/{name}"


def connect(address: str) -> _socket.socket | None:
    connection = _socket.socket(_socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        return None
    return connection


def circumstances() -> list[object]:
    """Returns what a parent and a process have to have in common for a run to be the same in both."""
    variables = {k: v for k, v in os.environ.items() if v and k.startswith(EARLY)}
    interpreter = [sys.executable, sys.version, list(sys.flags), sys.warnoptions, sys._xoptions]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [*interpreter, variables, os.nice(0), cores]


def request(connection: _socket.socket, arguments: list[str]) -> int | None:
    """Has the parent run pytest with this process's directory, environment and streams, and passes on the signals for
    which this process has no handlers.

    Returns pytest's exit status, negative for a signal, or `None` if it has to start cold.
    """
    wanted = this_process() | {"arguments": arguments, "circumstances": circumstances()}
    try:
        send(connection, wanted)
    except OSError:
        return None

    def pass_on(number: int, _frame: object) -> None:
        with suppress(OSError):  # the run has just ended
            connection.send(bytes([number]))

    def pause(_number: int, frame: object) -> None:
        pass_on(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)

    passed_on = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGWINCH, signal.SIGCONT)
    handlers = {
        number: signal.signal(number, pause if number == signal.SIGTSTP else pass_on)
        for number in (*passed_on, signal.SIGTSTP)
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    }
    pid = 0
    try:
        with open(connection.fileno(), closefd=False) as lines:
            for line in lines:
                word, value = line.split()
                if word == "cold":
                    return None
                if word == "status":
                    return os.waitstatus_to_exitcode(int(value))
                pid = int(value)
    except OSError:
        pass
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if not pid:
        return None
    kill(pid, signal.SIGKILL)
    print("`make watch`, which forked this run, has ended, and this run with it.", file=sys.stderr)
    return -signal.SIGKILL


def this_process() -> Request:
    """What a child has to take over."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "umask": umask,
        "is_deaf": ignores_interrupts(),
    }


def ignores_interrupts() -> bool:
    """Whether this process ignores SIGINT, as in the background of a shell; a run has to do the same."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def send(
    connection: _socket.socket, wanted: Request, streams: tuple[int, int, int] = STREAMS
) -> None:
    data = marshal.dumps(wanted)
    files = b"".join(file.to_bytes(FILE_BYTES, sys.byteorder) for file in streams)
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)
    connection.sendmsg([len(data).to_bytes(HEAD)], [rights])
    connection.sendall(data)


def receive(connection: _socket.socket) -> tuple[Request, list[int]]:
    """Returns a request and its streams. Raises `OSError` if it breaks off, `ValueError` if it is not a request."""
    room = _socket.CMSG_LEN(len(STREAMS) * FILE_BYTES)
    head, ancillary, _, _ = connection.recvmsg(HEAD, room)
    streams = [
        int.from_bytes(files[start : start + FILE_BYTES], sys.byteorder)
        for _, _, files in ancillary
        for start in range(0, len(files), FILE_BYTES)
    ]
    try:
        if len(head) < HEAD or len(streams) < len(STREAMS):
            raise ConnectionError("the request is not complete")
        length = int.from_bytes(head)
        data = bytearray()
        while len(data) < length:
            part = connection.recv(length - len(data))
            if not part:
                raise ConnectionError("the request is not complete")
            data += part
        wanted = marshal.loads(data)  # noqa: S302  # of this user
        if not isinstance(wanted, dict):
            raise ValueError(f"{wanted!r} is no request")
    except (OSError, ValueError, EOFError, TypeError) as error:
        close(*streams)
        raise error if isinstance(error, OSError) else ValueError(str(error)) from None
    return wanted, streams


def close(*files: int) -> None:
    for file in files:
        with suppress(OSError):
            os.close(file)


def kill(pid: int, number: int) -> None:
    """Sends a signal to a run and to what it has started in its process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
