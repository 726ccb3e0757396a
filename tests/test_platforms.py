"""The suite where the system lacks what only Unix has, as on Windows."""

import re
from pathlib import Path

from tests.projects import Project

# The standard library has taken what it needs before the rest is hidden.
WITHOUT_UNIX = """
import _socket
import asyncio
import logging.handlers
import multiprocessing.connection
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile

import filelock  # takes the system's locks, which Windows has too

MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
NAMES = {
    os: (
        "confstr fork forkpty getegid geteuid getgid getloadavg getpgid getpgrp initgroups "
        "killpg mkfifo posix_spawn pread pwrite register_at_fork sched_getaffinity setpgid setsid "
        "sysconf tcgetpgrp tcsetpgrp uname wait wait3 wait4"
    ),
    signal: "SIGALRM SIGCHLD SIGHUP SIGQUIT SIGTSTP SIGUSR1 SIGWINCH alarm pthread_sigmask setitimer",
    socket: "recv_fds send_fds",
    _socket: "AF_UNIX CMSG_LEN CMSG_SPACE SCM_RIGHTS",
}
for module in MODULES:
    sys.modules[module] = None
for module, names in NAMES.items():
    for name in names.split():
        vars(module).pop(name, None)
"""


def test_without_the_parts_of_unix(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "without-unix"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_UNIX)

    for options in ((), ("-n", "2"), ("-n", "2", "--workers=fork")):
        output = project.pytest(*options, PYTHONPATH=str(folder)).stdout
        assert re.search(r"\d{3} passed", output), output
    for command in ("testkit.warm.watch", "testkit.warm.parent"):
        said = project.run("python", "-m", command, check=False, PYTHONPATH=str(folder))
        assert said.returncode == 1
        assert "Traceback" not in said.stdout
        assert "Unix" in said.stdout
    single = ("-m", "testkit.warm", "-q", "tests/test_health.py")
    assert " passed" in project.run("python", *single, PYTHONPATH=str(folder)).stdout
